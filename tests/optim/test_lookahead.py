"""Lookahead around torch's optimisers: the algorithm, and that it resumes, skips and schedules."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from toy_panoptic import ToyData, toy_task, toy_trainer

from axialseg.callbacks.last_checkpoint import LastCheckpoint
from axialseg.optim.adam import Adam
from axialseg.optim.lookahead import Lookahead
from axialseg.tasks.training_task import TrainingTask

RADAM = partial(torch.optim.RAdam, decoupled_weight_decay=True)
INNER = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "radam": partial(RADAM, lr=0.01, weight_decay=0.1),
    "adam": partial(Adam, lr=0.01),
}


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def gradients(net: nn.Module, step: int) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).double()
    net.zero_grad()
    net(x).square().sum().backward()


def train(net: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        gradients(net, step)
        optimizer.step()


@pytest.mark.parametrize("inner", INNER)
def test_is_algorithm_1_of_the_paper(inner: str) -> None:
    net, expected = small_net(), small_net()
    optimizer = Lookahead(net.parameters(), INNER[inner], sync_period=3, slow_step=0.4)
    fast = INNER[inner](expected.parameters())
    slow = [p.detach().clone() for p in expected.parameters()]
    for outer in range(3):
        train(net, optimizer, range(3 * outer, 3 * outer + 3))
        train(expected, fast, range(3 * outer, 3 * outer + 3))
        with torch.no_grad():
            for phi, theta in zip(slow, expected.parameters(), strict=True):
                phi += 0.4 * (theta - phi)
                theta.copy_(phi)
        for p, q in zip(net.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
    train(net, optimizer, range(9, 11))  # between two moves the weights are the fast ones
    train(expected, fast, range(9, 11))
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


def radam_step(w: Tensor, m: Tensor, v: Tensor, g: Tensor, t: int, lr: float) -> Tensor:
    """Algorithm 2 of the RAdam paper, with the weight decay of AdamW at 1e-4."""
    beta1, beta2 = 0.9, 0.999
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).add_(g * g, alpha=1 - beta2)
    w = w * (1 - lr * 1e-4)
    largest = 2 / (1 - beta2) - 1
    length = largest - 2 * t * beta2**t / (1 - beta2**t)
    mean = m / (1 - beta1**t)
    if length <= 5:  # as in the RAdam authors' code, where the paper says 4
        return w - lr * mean
    numerator = (length - 4) * (length - 2) * largest
    rectifier = (numerator / ((largest - 4) * (largest - 2) * length)) ** 0.5
    return w - lr * rectifier * mean / (v / (1 - beta2**t)).sqrt()


def test_torch_radam_is_that_of_the_paper() -> None:
    weight = nn.Parameter(torch.randn(50, dtype=torch.float64))
    expected, m, v = weight.detach().clone(), torch.zeros(50).double(), torch.zeros(50).double()
    optimizer = RADAM([weight], lr=1e-3, weight_decay=1e-4, eps=1e-8)
    for t in range(1, 12):  # rectified from t = 6 on
        weight.grad = torch.randn(50, dtype=torch.float64)
        expected = radam_step(expected, m, v, weight.grad, t, 1e-3)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("inner", INNER)
def test_resumes_from_its_state_bit_for_bit(inner: str, steps: int) -> None:
    make: Callable[[Any], Lookahead] = partial(
        Lookahead, optimizer=INNER[inner], sync_period=3, slow_step=0.5
    )
    net = small_net()
    optimizer = make(net.parameters())
    train(net, optimizer, range(steps))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(net, optimizer, range(steps, 8))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = small_net()
    resumed.load_state_dict(saved["net"])
    optimizer = make(resumed.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    train(resumed, optimizer, range(steps, 8))
    for p, q in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_schedule_reaches_the_inner_optimiser_before_and_after_loading() -> None:
    net = small_net()
    optimizer = Lookahead(net.parameters(), INNER["sgd"])
    scheduler = LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    for _ in range(2):
        train(net, optimizer, range(1))
        scheduler.step()
        before = [p.detach().clone() for p in net.parameters()]
        train(net, optimizer, range(1))
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
        optimizer.load_state_dict(optimizer.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = 0.0


def test_groups_keep_their_rates() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.1}]
    optimizer = Lookahead(groups, partial(torch.optim.SGD), sync_period=9)
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert first.tolist() == [-1.0, -1.0]
    assert second.tolist() == pytest.approx([-0.1, -0.1])


def test_a_step_without_gradients_counts_for_nothing() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Lookahead([weight], partial(torch.optim.SGD, lr=1.0), sync_period=2)
    for gradient in (1.0, None, 1.0):
        weight.grad = None if gradient is None else torch.tensor([gradient])
        optimizer.step()
    assert weight.item() == -1.0  # half of two steps


def test_closure_is_run_with_gradients_and_its_loss_returned() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = Lookahead([weight], partial(torch.optim.SGD, lr=0.1))

    def closure() -> float:
        loss = (weight**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert weight.item() == pytest.approx(0.8)


@pytest.mark.parametrize("arguments", [{"sync_period": 0}, {"slow_step": 0.0}, {"slow_step": 1.5}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Lookahead([nn.Parameter(torch.ones(1))], INNER["sgd"], **arguments)


def trained(folder: Path, max_steps: int, **arguments: Any) -> TrainingTask:
    """The toy task with RAdam inside Lookahead, trained up to an optimiser step."""
    data = ToyData(poisoned=arguments.pop("poisoned", ()))
    checkpoint = arguments.pop("ckpt_path", None)
    task = toy_task(8)
    task.optimizer = partial(Lookahead, optimizer=RADAM, sync_period=3)
    trainer = toy_trainer(folder, max_steps, **arguments)
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return task


def same_weights(a: TrainingTask, b: TrainingTask) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_interrupted_training_equals_the_whole_one(tmp_path: Path, stop: int) -> None:
    whole = trained(tmp_path, 8)
    trained(tmp_path, stop, callbacks=[LastCheckpoint(100)])
    second = trained(tmp_path, 8, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert same_weights(whole, second)


def test_skipped_steps_and_loss_scaling(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    task = trained(tmp_path, 8, poisoned=[6], plugins=[precision])
    assert task.guard.skipped_steps == 1
    assert all(value.isfinite().all() for value in task.state_dict().values())
