"""One whole training step of a tiny model against the authors' numbers."""

import numpy as np
import pytest
import torch
from golden_data import SUFFIX, arrays, assert_close, rule_weights
from torch import Tensor, nn

from axialseg.checkpoints.tensorflow.deeplab2 import to_torch_layout, variable_names


def to_tensorflow_order(name: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
    """Flattened as TensorFlow lays the variable out."""
    count = np.arange(int(np.prod(shape))).reshape(shape)
    order = to_torch_layout(name.removesuffix(SUFFIX), count, value.shape)
    flat = np.empty(value.size, value.dtype)
    flat[order.ravel()] = value.ravel()
    return flat


def shapes(manifest: dict) -> dict[str, list[int]]:
    return {row[0]: row[1] for row in manifest["variables"]}


def by_their_names(net: nn.Module) -> dict[str, str]:
    """Checkpoint key -> our name."""
    return {theirs + SUFFIX: ours for ours, theirs in variable_names(net).items()}


def full_name(name: str) -> str:
    return name if name.endswith(SUFFIX) else name + SUFFIX


def rounded_elsewhere(net: nn.Module, x: Tensor, seed: int) -> Tensor:
    """Changes weights and image, in place, by about one rounding of float32; seed 0 leaves them."""
    generator = torch.Generator().manual_seed(seed)
    size = 6e-8 * (seed > 0)
    with torch.no_grad():
        for value in (*net.parameters(), x):
            value *= 1 + size * torch.randn(value.shape, generator=generator)
    return x


def gradient_norms(net: nn.Module, manifest: dict) -> np.ndarray:
    """The norm of each variable's gradient, in the order of the goldens."""
    names, parameters = by_their_names(net), dict(net.named_parameters())
    stored = arrays(manifest["model"])["train_grad/names"]
    gradients = [parameters[names[full_name(str(name))]].grad for name in stored]
    return np.array([gradient.double().norm().item() for gradient in gradients])


def check_gradients(net: nn.Module, manifest: dict, norm_limit: float = 3e-4) -> None:
    """The gradients of one step: the norm of each, to a relative limit, and samples."""
    golden, names = arrays(manifest["model"]), by_their_names(net)
    parameters = dict(net.named_parameters())
    for name, norm, samples in zip(
        golden["train_grad/names"],
        golden["train_grad/l2"],
        golden["train_grad/samples_at_linspace6"],
        strict=True,
    ):
        key = full_name(str(name))
        gradient = parameters[names[key]].grad
        assert gradient is not None, key
        flat = to_tensorflow_order(key, gradient.numpy(), shapes(manifest)[key]).astype(np.float64)
        # Shifts that a softmax or the next batch norm undoes have gradients of rounding size.
        assert np.linalg.norm(flat) == pytest.approx(norm, rel=norm_limit, abs=norm_limit / 3), key
        positions = np.linspace(0, flat.size - 1, 6).astype(int)
        atol = max(3 * norm_limit * np.abs(flat).max(), norm_limit / 3)
        np.testing.assert_allclose(flat[positions], samples, rtol=0, atol=atol, err_msg=key)


def check_statistics(
    net: nn.Module, manifest: dict, recomputed: tuple[str, ...], limit: float = 1e-6
) -> None:
    """Running statistics after the step, to a limit relative to the largest of all.

    The original recomputes some residual blocks in the backward pass, those whose names begin with
    one of `recomputed`, which moves their statistics a second time; ours move once. The golden is
    therefore compared with a second, equal move.
    """
    golden, names, before = arrays(manifest["model"]), by_their_names(net), rule_weights(manifest)
    state = net.state_dict()
    values = []
    for name in golden["after_step/bn_names"]:
        key = full_name(str(name))
        after = state[names[key]].numpy().ravel()
        if key.startswith(recomputed):
            step = after - before[key.removesuffix(SUFFIX)].ravel()
            after = after + 0.99 * step
        values.append(after)
    assert_close(np.concatenate(values), golden["after_step/bn_concat"], "statistics", limit)


def check_weights(net: nn.Module, manifest: dict, rate: float) -> None:
    """Adam moves every weight by about the rate, in the direction of the gradient's sign."""
    golden, names = arrays(manifest["model"]), by_their_names(net)
    state = net.state_dict()
    for name, (total, squares), samples in zip(
        golden["after_step/weight_names"],
        golden["after_step/weight_sum_sumsq"],
        golden["after_step/weight_samples_at_linspace6"],
        strict=True,
    ):
        key = full_name(str(name))
        flat = to_tensorflow_order(key, state[names[key]].numpy(), shapes(manifest)[key]).astype(
            np.float64
        )
        positions = np.linspace(0, flat.size - 1, 6).astype(int)
        np.testing.assert_allclose(flat[positions], samples, atol=2.1 * rate, err_msg=key)
        assert (flat**2).sum() == pytest.approx(squares, rel=10 * rate, abs=10 * rate), key
        assert flat.sum() == pytest.approx(total, abs=2.1 * rate * flat.size), key
