"""The memory planner: its count of live bytes, the fake step, and the batches that follow."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from toy_panoptic import ToyData, toy_task

from axialseg.costs.training_memory import (
    FakeStep,
    LiveBytes,
    Share,
    largest_batch,
    make_optimizer,
    share_batch,
    training_step,
)

FLOAT = 4


@pytest.fixture(params=["real", "fake"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveBytes]:
    counter = LiveBytes()
    if request.param == "real":
        with counter:
            yield counter
    else:
        with FakeTensorMode(), counter:
            yield counter


def test_storages_count_once_and_until_the_last_holder_goes(live: LiveBytes) -> None:
    x = torch.zeros(10, 100)
    view = x.t()[3:]
    assert live.now == 1000 * FLOAT
    y = x + 1
    y.mul_(2)
    assert live.now == live.peak == 2000 * FLOAT
    del x
    assert live.now == 2000 * FLOAT
    del view
    assert live.now == 1000 * FLOAT
    z = y.half()
    assert live.now == 1500 * FLOAT
    del y, z
    assert live.now == 0
    assert live.peak == 2000 * FLOAT
    live.reset_peak()
    assert live.peak == 0


def test_what_the_graph_saves_stays(live: LiveBytes) -> None:
    x = torch.zeros(1000, requires_grad=True)
    y = (2 * x).exp().sum()  # keeps the result of exp, not 2 x
    assert live.now == 2000 * FLOAT + FLOAT
    assert live.peak == 3000 * FLOAT
    y.backward()
    assert x.grad is not None
    del y
    assert live.now == 2000 * FLOAT  # x and its gradient


def test_a_step_of_a_perceptron(live: LiveBytes) -> None:
    batch, wide, inner = 7, 32, 64
    x = torch.zeros(batch, wide)
    weights = [torch.zeros(inner, wide), torch.zeros(1, inner)]
    for weight in weights:
        weight.requires_grad_()
    constant = (batch * wide + inner * wide + inner) * FLOAT
    assert live.now == constant
    hidden = F.linear(x, weights[0]).relu()
    score = F.linear(hidden, weights[1]).sum()
    assert live.now == constant + (batch * inner + 1) * FLOAT
    assert live.peak == constant + 2 * batch * inner * FLOAT  # before and after the activation
    del hidden
    score.backward()
    # The gradient is made from the hidden layer's, which is made from the hidden layer.
    assert live.now == constant + (inner * wide + inner + 1) * FLOAT


def test_a_softmax_copies_what_is_not_in_order(live: LiveBytes) -> None:
    x = torch.zeros(20, 50)
    live.reset_peak()
    y = torch.log_softmax(x, 1)
    assert live.peak == 2 * 1000 * FLOAT
    del y
    live.reset_peak()
    y = torch.log_softmax(x.t(), 1)
    assert y.shape == (50, 20)
    assert (live.now, live.peak) == (2 * 1000 * FLOAT, 3 * 1000 * FLOAT)


def test_recomputed_activations_do_not_stay(live: LiveBytes) -> None:
    layers = [nn.Linear(16, 16, bias=False) for _ in range(6)]
    net = nn.Sequential(*(nn.Sequential(layer, nn.Sigmoid(), nn.Tanh()) for layer in layers))
    x = torch.zeros(1000, 16, requires_grad=True)
    peaks = []
    for recompute in (False, True):
        live.reset_peak()
        before, y = live.now, x
        for block in net:
            y = checkpoint(block, y, use_reentrant=False) if recompute else block(y)
        peaks.append(live.peak - before)
        y.sum().backward()
        del y
        net.zero_grad()
        x.grad = None
        assert live.now == before
    # In the last block, beside what the others keep: all their activations, or their outputs.
    assert peaks == [(5 * 2 + 2) * 16000 * FLOAT, (5 + 2) * 16000 * FLOAT]


def toy_batch(images: int) -> dict[str, torch.Tensor]:
    sample = toy_sample()
    return {name: torch.stack([torch.as_tensor(x)] * images) for name, x in sample.items()}


def toy_sample() -> dict:
    loaded = ToyData().train_dataset.read(0)
    return {
        "image": loaded.image.transpose(2, 0, 1).copy(),
        "valid": torch.ones(16, 16, dtype=torch.bool).numpy(),
        "semantic": loaded.segments.semantic_map(0),
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fake_step_is_the_real_one(precision: str) -> None:
    fake = FakeStep(toy_task, toy_sample(), precision, masks=3)
    with LiveBytes() as live:
        task = toy_task().train()
        optimizer = make_optimizer(task)
        batch = toy_batch(3)
        for _ in range(3):
            live.reset_peak()
            autocast = torch.bfloat16 if precision == "bf16-mixed" else None
            training_step(task, optimizer, batch, autocast)
    parameters = sum(p.nbytes for p in task.net.parameters())
    assert fake.weights == parameters + sum(b.nbytes for b in task.net.buffers())
    assert fake.gradients == parameters
    assert fake.optimizer_state == 2 * parameters
    assert fake.peak_bytes(3) == pytest.approx(live.peak, rel=0.01)
    assert fake.peak_bytes(3) < fake.peak_bytes(4) < fake.peak_bytes(40)
    assert fake.peak_bytes(3) == fake.peak_bytes(3)


def test_fake_step_goes_on_with_another_crop() -> None:
    wide = {name: array.repeat(2, axis=-1) for name, array in toy_sample().items()}
    fake = FakeStep(toy_task, toy_sample(), "32-true", masks=3)
    narrow = fake.peak_bytes(2)
    fake.use(wide)
    assert fake.peak_bytes(2) == FakeStep(toy_task, wide, "32-true", masks=3).peak_bytes(2)
    assert fake.peak_bytes(2) > narrow


@pytest.mark.parametrize(
    "peak_bytes",
    [
        lambda n: 100 + 7 * n,
        lambda n: max(400, 30 * n),
        lambda n: 10 + n + n * n // 50,
        lambda n: 100 + 64 * (n // 3) + n,
    ],
)
def test_largest_batch_is_the_largest(peak_bytes: Callable[[int], int]) -> None:
    for limit in range(90, 2000, 7):
        largest = largest_batch(peak_bytes, limit)
        assert largest == 0 or peak_bytes(largest) <= limit
        assert peak_bytes(largest + 1) > limit


def test_counts_few_steps() -> None:
    counted = []
    assert largest_batch(lambda n: counted.append(n) or 1000 + 300 * n, 10000) == 30
    assert len(counted) <= 6


@pytest.mark.parametrize(
    ("batch_size", "devices", "largest", "share"),
    [
        (32, 8, 100, Share(8, 4, 1)),
        (32, 8, 3, Share(8, 2, 2)),
        (32, 1, 5, Share(1, 4, 8)),
        (64, 2, 31, Share(2, 16, 2)),
        (30, 2, 4, Share(2, 3, 5)),
        (32, 1, 1, Share(1, 1, 32)),
        (32, 64, 4, None),
        (32, 3, 4, None),
        (32, 1, 0, None),
    ],
)
def test_shares(batch_size: int, devices: int, largest: int, share: Share | None) -> None:
    assert share_batch(batch_size, devices, largest) == share
