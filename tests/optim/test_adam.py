"""Adam against five steps of TensorFlow (``optimizer_steps.npz``), determinism and resuming."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from axialseg.optim.adam import Adam

GOLDENS = np.load(Path(__file__).parents[1] / "goldens/deeplab2/optimizer_steps.npz")
LR = 1e-3


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDENS[name].copy())


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("adam_legacy", {}),
        ("adam_keras2_15", {}),
        ("adamw_decay0.05", {"weight_decay": 0.05}),
    ],
)
def test_five_steps_are_those_of_tensorflow(case: str, arguments: dict[str, Any]) -> None:
    weight = nn.Parameter(golden("w0"))
    optimizer = Adam([weight], lr=LR, **arguments)
    for step in range(5):
        weight.grad = golden(f"g{step}")
        optimizer.step()
        torch.testing.assert_close(
            weight.detach(), golden(f"{case}|w{step + 1}"), rtol=0, atol=3e-7
        )


def test_goldens_tell_the_place_of_epsilon() -> None:
    # The gradients shrink to 1e-9, so the usual place of epsilon is off by far more than the limit.
    weight = nn.Parameter(golden("w0"))
    optimizer = torch.optim.Adam([weight], lr=LR, eps=1e-7)
    for _ in range(5):
        weight.grad = torch.full_like(weight, 1e-9)
        optimizer.step()
    ours = nn.Parameter(golden("w0"))
    optimizer_of_ours = Adam([ours], lr=LR)
    for _ in range(5):
        ours.grad = torch.full_like(ours, 1e-9)
        optimizer_of_ours.step()
    moved, moved_ours = weight - golden("w0"), ours - golden("w0")
    assert moved.abs().mean() > 5 * moved_ours.abs().mean()


def test_torch_sgd_is_that_of_tensorflow() -> None:
    weight = nn.Parameter(golden("w0"))
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    for step in range(5):
        weight.grad = golden(f"g{step}")
        optimizer.step()
    torch.testing.assert_close(weight.detach(), golden("sgd_momentum0.9|w5"), rtol=0, atol=3e-7)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def train(net: nn.Module, optimizer: Adam, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def test_equals_the_formula_in_float64() -> None:
    net = small_net().double()
    expected = copy.deepcopy(net)
    optimizer = Adam(net.parameters(), lr=0.01, betas=(0.8, 0.95), epsilon=1e-3, weight_decay=0.1)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in expected.parameters()]
    for t in range(1, 4):
        for model in (net, expected):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(t)).double()
            model.zero_grad()
            model(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            for p, (m, v) in zip(expected.parameters(), moments, strict=True):
                p.mul_(1 - 0.01 * 0.1)
                m.copy_(0.8 * m + 0.2 * p.grad)
                v.copy_(0.95 * v + 0.05 * p.grad**2)
                rate = 0.01 * (1 - 0.95**t) ** 0.5 / (1 - 0.8**t)
                p.sub_(rate * m / (v.sqrt() + 1e-3))
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_repeats_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        net = small_net()
        train(net, Adam(net.parameters()), range(5))
        results.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_resumes_from_its_state_bit_for_bit() -> None:
    net = small_net()
    optimizer = Adam(net.parameters(), lr=0.01)
    train(net, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(net, optimizer, range(3, 6))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = small_net()
    resumed.load_state_dict(saved["net"])
    optimizer = Adam(resumed.parameters(), lr=0.5)
    optimizer.load_state_dict(saved["optimizer"])
    train(resumed, optimizer, range(3, 6))
    for p, q in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Adam([used, unused], lr=0.1, weight_decay=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state
    # Its first step comes later and is corrected as a first step.
    unused.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[unused]["step"] == 1
    assert optimizer.state[used]["step"] == 2


def test_closure_is_run_with_gradients_and_its_loss_returned() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = Adam([weight], lr=0.1)

    def closure() -> float:
        loss = (weight**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert weight.item() == pytest.approx(0.9, abs=1e-6)


def test_wrong_betas_are_refused() -> None:
    with pytest.raises(ValueError, match="betas"):
        Adam([nn.Parameter(torch.ones(1))], betas=(0.9, 1.0))
