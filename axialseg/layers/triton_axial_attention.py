"""The core of axial attention on CUDA: fused kernels, without an L x L map in memory.

Queries, keys and values are not copied; the kernels in triton_kernels.py read them by their
strides. Importing this module needs Triton.

Half-precision inputs are multiplied in TensorFloat-32, which keeps 10 bits of the mantissa
(bfloat16 has 7, float16 10). So is float32 if `torch.set_float32_matmul_precision` allows it.
Otherwise float32 is multiplied in full. Sums, the softmax and the gradients of scales and tables
are float32.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from axialseg.layers.axial_inputs import (
    AXIAL_INPUTS_SCHEMA,
    AxialInputs,
    empty_gradients,
    empty_like,
)
from axialseg.layers.triton_kernels import (
    forward_kernel,
    key_kernel,
    query_kernel,
    table_kernel,
)

# Programs that share the tables' gradients. A number that does not depend on the device: sums have
# one order everywhere.
TABLE_PROGRAMS = 1024


def triton_attention(inputs: AxialInputs, scales: Tensor) -> Tensor:
    """An `AttentionCore` for CUDA, see there; not for float64."""
    output: Tensor
    output, _ = _attend(*inputs, scales)
    return output


def tile_size(length: int, key_depth: int, value_depth: int) -> int:
    """M, queries and keys of a tile.

    32 where a program's tiles then stay in registers (compiled for compute capability 8.0 and 9.0),
    else 16. Its shared memory is then at most 65 KiB for the depths of `fits`; consumer cards have
    about 100, an H100 227. See benchmarks/triton_kernels.py.

    Args:
        length: L.
        key_depth: K / h.
        value_depth: V / h.
    """
    return 32 if length > 32 and padded(key_depth) + padded(value_depth) <= 48 else 16


def fits(key_depth: int, value_depth: int) -> bool:
    """Whether a program has room for heads of these depths."""
    return padded(key_depth) <= 64 and padded(value_depth) <= 128


def kernel_options(
    length: int, key_depth: int, value_depth: int, is_exact: bool
) -> dict[str, int | str]:
    """Sizes and launch options of all kernels; `is_exact` is for float32 products in full."""
    size = tile_size(length, key_depth, value_depth)
    depths = padded(key_depth), padded(value_depth)
    return {
        "M": size,
        "D": depths[0],
        "DV": depths[1],
        "PRECISION": "ieee" if is_exact else "tf32",
        "num_warps": 8 if size == 32 or sum(depths) > 96 else 4,
        "num_stages": 1,  # more would keep several tiles in shared memory
    }


def padded(depth: int) -> int:
    """Channels of a head in a kernel."""
    return max(16, triton.next_power_of_2(depth))


class _Launch:
    """What the kernels share; the arguments are those of `AttentionCore`."""

    def __init__(self, inputs: AxialInputs, scales: Tensor) -> None:
        query, key, value, query_rows, key_rows, value_rows = inputs[:6]
        span, self.heads = inputs.span, inputs.heads
        self.batch, _, self.sequences, self.length = query.shape
        self.depth, self.value_depth = inputs.depths
        self.span, self.tables = span, (query_rows, key_rows, value_rows)
        tables = [None if table is None else table.contiguous() for table in self.tables]
        given = (query, key, value, scales.float().contiguous(), *tables)
        # A kernel never touches the tensors that are absent; any pointer will do.
        self.inputs = [query if x is None else x for x in given]
        self.strides = [s for x in self.inputs[:3] for s in x.stride()]
        is_exact = torch.get_float32_matmul_precision() == "highest"
        is_exact &= query.dtype == torch.float32
        self.options: dict[str, Any] = {
            "CONTENT": inputs.uses_content,
            "QUERY_POSITION": query_rows is not None,
            "KEY_POSITION": key_rows is not None,
            "VALUE": value is not None,
            "VALUE_POSITION": value_rows is not None,
            **kernel_options(self.length, self.depth, self.value_depth, is_exact),
        }
        size = self.options["M"]
        self.tiles = triton.cdiv(self.length, size)
        self.sizes = (self.sequences, self.length, span, self.heads, self.depth, self.value_depth)
        self.grid = (self.batch * self.sequences, self.tiles, self.heads)

    def statistic(self) -> Tensor:
        """Memory for a number of each query."""
        shape = (self.batch, self.sequences, self.heads, self.length)
        return self.inputs[0].new_empty(shape, dtype=torch.float32)


def _forward(launch: _Launch, output: Tensor) -> Tensor:
    """Fills the output ``[B, T' V, S, L]``; returns the log-sum-exp ``[B, S, h, L]``."""
    lse = launch.statistic()
    forward_kernel[launch.grid](
        *launch.inputs, output, lse, *launch.strides, *output.stride(), *launch.sizes,
        **launch.options,
    )  # fmt: skip
    return lse


def _backward(launch: _Launch, output: Tensor, lse: Tensor, grad: Tensor) -> list[Tensor | None]:
    """The gradients of the core's tensors, in their order; float32 but for those of the maps."""
    query, key, value = launch.inputs[:3]
    query_grad, key_grad = empty_like(query), empty_like(key)
    value_grad = empty_like(value) if launch.options["VALUE"] else None
    mean = launch.statistic()
    scale_parts = lse.new_zeros(launch.batch * launch.sequences, launch.heads, launch.tiles, 3)
    query_kernel[launch.grid](
        *launch.inputs, output, grad, lse, mean, query_grad, scale_parts,
        *launch.strides, *output.stride(), *grad.stride(), *query_grad.stride(), *launch.sizes,
        **launch.options,
    )  # fmt: skip
    target = key_grad if value_grad is None else value_grad
    key_kernel[launch.grid](
        *launch.inputs, grad, lse, mean, key_grad, target, scale_parts,
        *launch.strides, *grad.stride(), *key_grad.stride(), *target.stride(), *launch.sizes,
        **launch.options,
    )  # fmt: skip
    present = [launch.options[name] for name in ("CONTENT", "QUERY_POSITION", "KEY_POSITION")]
    parts = scale_parts.sum((0, 2)).unbind(1)  # [h] of each term
    scale_grad = torch.stack(
        [part for part, is_there in zip(parts, present, strict=True) if is_there]
    )
    tables = _table_gradients(launch, grad, lse, mean)
    return [query_grad, key_grad, value_grad, *tables, scale_grad]


def _table_gradients(
    launch: _Launch, grad: Tensor, lse: Tensor, mean: Tensor
) -> list[Tensor | None]:
    """Of the three tables, float32."""
    if all(table is None for table in launch.tables):
        return [None, None, None]
    size, items = launch.options["M"], launch.batch * launch.sequences * launch.heads
    farthest = min(launch.tiles - 1, (launch.span // 2 + size - 1) // size)
    diagonals = 2 * farthest + 1
    shares = min(items, max(1, TABLE_PROGRAMS // diagonals))
    depths = (launch.depth, launch.depth, launch.value_depth)
    parts = [
        lse if table is None else lse.new_empty(shares, diagonals, 2 * size, depth)
        for table, depth in zip(launch.tables, depths, strict=True)
    ]
    table_kernel[(diagonals, shares)](
        *launch.inputs, grad, lse, mean, *parts, *launch.strides, *grad.stride(), *launch.sizes,
        items, launch.tiles, **launch.options,
    )  # fmt: skip
    # Row 0 of the first window is offset -farthest M - (M - 1).
    first = farthest * size + size - 1 - launch.span // 2
    return [
        None if table is None else _overlapped(part.sum(0))[first : first + launch.span]
        for table, part in zip(launch.tables, parts, strict=True)
    ]


def _overlapped(windows: Tensor) -> Tensor:
    """Windows ``[number, 2M, d]``, each beginning M rows after the last -> their sum, all rows."""
    number, double, depth = windows.shape
    total = windows.new_zeros(number + 1, double // 2, depth)
    total[:-1] += windows[:, : double // 2]
    total[1:] += windows[:, double // 2 :]
    return total.flatten(0, 1)


# Operators of the library, so that a compiler takes each one as a whole.
@torch.library.custom_op(
    "axialseg::triton_attention",
    mutates_args=(),
    schema=f"({AXIAL_INPUTS_SCHEMA}, Tensor scales) -> (Tensor, Tensor)",
)
def _attend(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs, scales = AxialInputs(*arguments[:-1]), arguments[-1]
    launch = _Launch(inputs, scales)
    output = empty_like(inputs.query, inputs.retrieved_channels)
    with torch.cuda.device_of(inputs.query):
        return output, _forward(launch, output)


@_attend.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs = AxialInputs(*arguments[:-1])
    query = inputs.query
    shape = (query.shape[0], query.shape[2], inputs.heads, query.shape[3])  # of the log-sum-exp
    output = empty_like(query, inputs.retrieved_channels)
    return output, query.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "axialseg::triton_attention_backward",
    mutates_args=(),
    schema=(
        f"(Tensor gradient, Tensor output, Tensor lse, {AXIAL_INPUTS_SCHEMA}, Tensor scales)"
        " -> Tensor[]"
    ),
)
def _attend_backward(
    gradient: Tensor, output: Tensor, lse: Tensor, *arguments: Any
) -> list[Tensor]:
    """The gradients of the tensors that are there, in their order; the scales are the last."""
    inputs, scales = AxialInputs(*arguments[:-1]), arguments[-1]
    with torch.cuda.device_of(inputs.query):
        gradients = _backward(_Launch(inputs, scales), output, lse, gradient)
    pairs = zip(gradients, (*inputs.tensors, scales), strict=True)
    return [g.to(x.dtype) for g, x in pairs if g is not None and x is not None]


@_attend_backward.register_fake
def _(gradient: Tensor, output: Tensor, lse: Tensor, *arguments: Any) -> list[Tensor]:
    return empty_gradients(AxialInputs(*arguments[:-1]), arguments[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, scales = inputs
    ctx.save_for_backward(*given[:6], scales, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.options = given[6:]


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, scales, output, lse = ctx.saved_tensors
    present = iter(_attend_backward(gradient, output, lse, *tensors, *ctx.options, scales))
    gradients = [None if x is None else next(present) for x in tensors]
    return *gradients, *(None for _ in ctx.options), next(present)


_attend.register_autograd(_differentiate, setup_context=_keep)
