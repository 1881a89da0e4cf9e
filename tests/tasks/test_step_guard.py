"""Steps whose loss or gradients are not finite are dropped without a trace."""

import logging

import pytest
import torch
from torch import Tensor, nn

from axialseg.errors import RunFailedError
from axialseg.tasks.step_guard import LIMIT_IN_A_ROW, StepGuard


def names(index: Tensor) -> list[str]:
    return [f"image{int(number)}.jpg" for number in index]


def forward_backward(net: nn.Module, guard: StepGuard, x: Tensor, index: int = 0) -> None:
    guard.before_forward()
    loss = net(x).square().sum()
    guard.watch(loss[None], torch.tensor([index])).backward()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_finite_step_keeps_its_gradients(net: nn.Module) -> None:
    x = torch.randn(5, 3)
    net(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    guard = StepGuard(net, names)
    forward_backward(net, guard, x)
    assert guard.check(net.parameters())
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert guard.skipped_steps == 0


def test_a_bad_image_leaves_no_trace(net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    guard = StepGuard(net, names)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bad = torch.randn(5, 3)
    bad[2, 1] = torch.inf
    forward_backward(net, guard, bad, index=7)
    assert not net[1].running_mean.isfinite().all()
    assert not guard.check(net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert name == "1.num_batches_tracked" or torch.equal(value, before[name])
    assert guard.skipped_steps == 1
    assert "loss is not finite" in caplog.text
    assert "image7.jpg" in caplog.text


def test_all_gradients_tell_of_a_bad_loss(net: nn.Module) -> None:
    # An infinite constant has no gradient of its own; other ranks must see the step drop all the
    # same, so each gradient that they average must carry the news.
    guard = StepGuard(net, names)
    loss = net(torch.randn(5, 3)).sum() + torch.inf
    guard.watch(loss[None], torch.tensor([0])).backward()
    assert all(parameter.grad.isnan().all() for parameter in net.parameters())


def test_only_the_images_to_blame_are_named(caplog: pytest.LogCaptureFixture) -> None:
    weight = nn.Parameter(torch.ones(4))
    guard = StepGuard(nn.ParameterList([weight]), names)
    guard.before_forward()
    losses = weight * torch.tensor([1.0, torch.inf, 2.0, torch.nan])
    total = guard.watch(losses, torch.tensor([3, 5, 7, 9]))
    assert total.isnan()
    total.backward()
    assert not guard.check([weight])
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("images: image5.jpg, image9.jpg")


def test_the_loss_is_the_mean_of_the_images() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 3.0]))
    total = StepGuard(nn.ParameterList([weight]), names).watch(weight, torch.tensor([0, 1]))
    total.backward()
    assert total.item() == 2.0
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5, 0.5]


def test_a_bad_gradient_of_a_finite_loss_drops_the_step(caplog: pytest.LogCaptureFixture) -> None:
    weight = nn.Parameter(torch.zeros(2))
    guard = StepGuard(nn.ParameterList([weight]), names)
    guard.before_forward()
    guard.watch(weight.sqrt(), torch.tensor([0, 1])).backward()
    assert not guard.check([weight])
    assert "gradient is not finite" in caplog.text


def test_one_bad_batch_of_an_accumulated_step_drops_it(
    net: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    guard = StepGuard(net, names)
    mean = net[1].running_mean.clone()
    forward_backward(net, guard, torch.randn(5, 3), index=1)
    forward_backward(net, guard, torch.full((5, 3), torch.nan), index=2)
    assert not guard.check(net.parameters())
    assert torch.equal(net[1].running_mean, mean)
    assert "image2.jpg" in caplog.text
    assert "image1.jpg" not in caplog.text


def test_many_in_a_row_are_an_error(net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    guard = StepGuard(net, names)
    bad = torch.full((5, 3), torch.nan)
    for _ in range(LIMIT_IN_A_ROW - 1):
        forward_backward(net, guard, bad)
        guard.check(net.parameters())
    forward_backward(net, guard, bad)
    with pytest.raises(RunFailedError, match="the last 50 steps"):
        guard.check(net.parameters())


def test_a_good_step_starts_the_count_anew(net: nn.Module) -> None:
    guard = StepGuard(net, names)
    for _ in range(LIMIT_IN_A_ROW + 5):
        forward_backward(net, guard, torch.full((5, 3), torch.nan))
        guard.check(net.parameters())
        forward_backward(net, guard, torch.randn(5, 3))
        assert guard.check(net.parameters())
    assert guard.skipped_steps == LIMIT_IN_A_ROW + 5


def test_nothing_to_step_is_fine() -> None:
    assert StepGuard(nn.Linear(1, 1), names).check([nn.Parameter(torch.zeros(1))])
