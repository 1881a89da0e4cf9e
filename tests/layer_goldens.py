"""One layer against the authors' numbers: outputs, gradients, statistics."""

import numpy as np
import pytest
import torch
from golden_data import TOLERANCE, arrays, assert_close, facts, load_weights, nchw, nhwc
from torch import nn

from axialseg.checkpoints.tensorflow.deeplab2 import to_torch_layout, variable_names

_AXIAL = "/_attention/_height_axis/qkv_kernel"


def golden(file: str, case: str, part: str) -> dict:
    """The arrays of a part of a case, by what follows in their names."""
    prefix = f"{case}|{part}|"
    data = arrays(file)
    return {key.removeprefix(prefix): data[key] for key in data if key.startswith(prefix)}


def check_layer(
    file: str,
    case: str,
    mode: str,
    module: nn.Module,
    named: nn.Module,
    is_group: bool = False,
    limit: float = TOLERANCE,
) -> None:
    """Compares a layer in evaluation (``eval``) or training (``train``) mode.

    Args:
        file: of the goldens.
        case: in it.
        mode: see above.
        module: takes the inputs and gives the outputs of the case, integers among them.
        named: the part of it whose weights have the original's names.
        is_group: the original computes the axial blocks once more in the backward pass, which moves
            their statistics a second time; ours move once. A second, equal move is added.
        limit: of outputs and gradients, relative to the largest.
    """
    data = arrays(file)
    load_weights(named, golden(file, case, "w"))
    module.train(mode == "train")
    expected = golden(file, case, mode)
    inputs = [
        nchw(data[f"{case}|x{i}"]).requires_grad_() for i in range(len(facts(file)[case]["inputs"]))
    ]
    result = module(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    assert len(outputs) == sum(key.startswith("y") for key in expected)
    weighted = []
    for i, output in enumerate(outputs):
        if output.is_floating_point():
            assert_close(nhwc(output), expected[f"y{i}"], f"output {i}", limit)
            weighted.append((output * nchw(data[f"{case}|R{i}"])).sum())
        else:
            np.testing.assert_array_equal(output.numpy(), expected[f"y{i}"], f"output {i}")
    torch.stack(weighted).sum().backward()
    for i, x in enumerate(inputs):
        gradient = torch.zeros_like(x) if x.grad is None else x.grad
        assert_close(nhwc(gradient), expected[f"gradx{i}"], f"gradient of input {i}", limit)
    _check_gradients(named, expected, limit)
    after = {k.removeprefix("after|"): v for k, v in expected.items() if k.startswith("after|")}
    _check_statistics(named, golden(file, case, "w"), after, is_group)


def _check_gradients(module: nn.Module, expected: dict, limit: float) -> None:
    parameters = dict(module.named_parameters())
    compared = 0
    for ours, theirs in variable_names(module).items():
        if ours not in parameters:
            continue
        gradient = parameters[ours].grad
        gradient = torch.zeros_like(parameters[ours]) if gradient is None else gradient
        if f"gradw|{theirs}" in expected:
            value = to_torch_layout(theirs, expected[f"gradw|{theirs}"], tuple(gradient.shape))
            # What a softmax or the next batch norm undoes has gradients of rounding size.
            undone = (
                "similarity/beta",
                "_height_axis/_batch_norm_retrieved_output/beta",  # the width axis has a norm first
                "_pixel_space_head/final_conv/bias",
            )
            floor = 1e-3 if theirs.endswith(undone) else 2e-5
            assert_close(gradient.numpy(), value, f"gradient of {theirs}", limit, floor)
            compared += 1
        elif f"gradw_sumabs|{theirs}" in expected:
            total = expected[f"gradw_sumabs|{theirs}"]
            assert float(gradient.abs().sum()) == pytest.approx(float(total), rel=1e-4)
            compared += 1
    assert compared == sum(key.startswith("gradw") for key in expected)


def _check_statistics(module: nn.Module, before: dict, after: dict, is_group: bool) -> None:
    """Running statistics after a step, see `check_layer`."""
    state = module.state_dict()
    names = {theirs: ours for ours, theirs in variable_names(module).items()}
    axial = tuple(f"{key.removesuffix(_AXIAL)}/" for key in before if key.endswith(_AXIAL))
    for theirs, value in after.items():
        ours = state[names[theirs]].numpy()
        if is_group and theirs.startswith(axial):
            first = to_torch_layout(theirs, before[theirs], ours.shape)
            ours = ours + 0.99 * (ours - first)
        assert_close(ours, to_torch_layout(theirs, value, ours.shape), f"{theirs} after a step")
