"""Muon: what it turns, by how much, and that all else is Adam's to the last bit."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import axialseg
from axialseg.optim.adam import Adam
from axialseg.optim.muon import COEFFICIENTS, Muon, orthogonalised
from axialseg.optim.param_groups import normed_kernels, parameter_groups


def plain_iterations(matrix: Tensor, iterations: int) -> Tensor:
    """As published: the polynomial on the matrix itself."""
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm()
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (7, 7), (1, 5)])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_it_is_the_published_iteration(shape: tuple[int, int], iterations: int) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = plain_iterations(matrix, iterations)
    torch.testing.assert_close(
        orthogonalised([matrix], iterations)[0], expected, rtol=1e-9, atol=1e-9
    )


def test_matrices_together_are_each_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(12, 40), (40, 12), (7, 7), (12, 9), (9, 30)]
    matrices = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    together = orthogonalised(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, plain_iterations(matrix, 3), rtol=1e-9, atol=1e-9)


def test_singular_values_become_about_equal() -> None:
    left, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))
    values = torch.linspace(0.1, 1.0, 16)
    found = torch.linalg.svdvals(orthogonalised([left @ values.diag() @ right.T])[0])
    assert found.min() > 0.3
    assert found.max() < 1.3
    assert torch.equal(orthogonalised([torch.zeros(3, 4)])[0], torch.zeros(3, 4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).relu())


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        optimizer.zero_grad()
        image = torch.randn(4, 3, 9, 9, generator=generator)
        (scale * net(image).square().mean()).backward()
        optimizer.step()


def muon(net: nn.Module, lr: float = 0.01) -> Muon:
    return Muon(parameter_groups(net, lr, normed_kernels_apart=True), lr)


def test_a_kernel_keeps_its_length_and_moves_by_its_share() -> None:
    torch.manual_seed(0)
    net = Net()
    kernel = net.backbone[0].weight
    before = kernel.detach().clone()
    steps(net, muon(net), 1)
    length = before.norm()
    torch.testing.assert_close(kernel.norm(), length)
    cosine = float((kernel.detach() * before).sum() / length**2)
    # The gradient of a kernel before a batch norm is at right angles to it; the step nearly is.
    share = math.acos(cosine) / math.atan(5 * 0.01)
    assert 0.8 < share < 1.01


def test_the_scale_of_loss_and_kernel_changes_nothing() -> None:
    torch.manual_seed(0)
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other.backbone[0].weight.mul_(8)
    steps(net, muon(net), 1)
    steps(other, muon(other), 1, scale=100.0)
    torch.testing.assert_close(
        8 * net.backbone[0].weight, other.backbone[0].weight, rtol=1e-3, atol=1e-4
    )


def test_all_else_is_adam_s() -> None:
    torch.manual_seed(0)
    net = Net()
    net.backbone[0].weight.requires_grad = False  # so that both see the same features
    other = copy.deepcopy(net)
    steps(net, muon(net), 3)
    steps(other, Adam(parameter_groups(other, 0.01), 0.01), 3)
    for left, right in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = muon(net)
    steps(net, optimizer, 2)
    other = copy.deepcopy(net)
    resumed = muon(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(net, optimizer, 2)
    steps(other, resumed, 2)
    for left, right in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_momentum_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum must lie in"):
        Muon(Net().parameters(), momentum=1.0)


@pytest.mark.parametrize("name", ["axial_hybrid_tiny", "max_deeplab_tiny", "kmax_tiny"])
def test_each_normed_kernel_is_followed_by_a_norm(name: str) -> None:
    net = axialseg.create_model(name, 4)
    modules = dict(net.named_modules())
    kernels = normed_kernels(net)
    assert len(kernels) > 20
    for kernel in kernels:
        parent = modules[kernel.removesuffix(".weight").rpartition(".")[0]]
        assert any("Norm" in type(child).__name__ for child in parent.children()), kernel
    depthwise = [n for n, m in modules.items() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert not kernels & {f"{n}.weight" for n in depthwise}
