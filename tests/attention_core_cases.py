"""Cases for a core of axial attention, and its errors against the portable core in float64.

As a program it runs cases in Triton's interpreter, which must be chosen before Triton is imported:

    TRITON_INTERPRET=1 python tests/attention_core_cases.py NUMBER SEED
"""

import json
import random
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from axialseg.layers.axial_inputs import AxialInputs
from axialseg.layers.chunked_attention import chunked_attention
from axialseg.layers.lean_axial_attention import AttentionCore

Given = tuple[AxialInputs, Tensor]  # and the scales
NAMES = ("output", *AxialInputs._fields[:6], "scales")


class Case(NamedTuple):
    """One call. `terms` are q . k, q . rq, k . rk, values and value rows, 1 where present."""

    length: int
    key_depth: int = 4
    value_depth: int = 8
    heads: int = 2
    batch: int = 1
    sequences: int = 2
    span: int | None = None
    terms: tuple[int, ...] = (1, 1, 1, 1, 1)
    order: str = "BCSL"  # of the dimensions in memory, outermost first
    dtype: str = "float32"
    clamped: bool = False  # far rows of the tables are one, as beyond their last offset


ALL_TERMS = [(1, 1, 1, 1, 1), (0, 1, 1, 1, 1), (1, 0, 1, 1, 1), (1, 1, 0, 1, 1), (1, 1, 1, 0, 1),
             (1, 1, 1, 1, 0), (1, 0, 0, 1, 0), (0, 0, 1, 0, 1), (0, 1, 0, 1, 0)]  # fmt: skip
FIXED = [
    Case(1, sequences=1),
    Case(2, span=1, batch=2),
    Case(13, order="BCLS", clamped=True),
    Case(17, 8, 16, 1, span=9, batch=2, sequences=1, order="BSLC", dtype="bfloat16"),
    Case(65, 4, 8, heads=1, sequences=1, order="BCLS"),
    Case(65, 4, 8, heads=1, sequences=1, span=17, clamped=True),
    Case(19, 64, 128, heads=1, sequences=1, span=11),
    *(Case(9, 5, 3, 1, 1, 1, 7, terms) for terms in ALL_TERMS[1:]),
]


def random_case(seed: int) -> Case:
    """Any shape that a layer may have, small in what only multiplies the work."""
    rng = random.Random(seed)
    length = rng.choice([rng.randint(1, 40), rng.randint(1, 257)])
    sequences = rng.randint(1, 3) if length < 60 else 1
    return Case(
        length,
        rng.choice([4, 8, 16, 32, 64, rng.randint(4, 64)]),
        rng.choice([8, 16, 32, 64, 128, rng.randint(8, 128)]),
        rng.randint(1, 3) if length < 60 else 1,
        rng.randint(1, 8) if length < 30 else 1,
        sequences,
        rng.choice([None, 2 * rng.randint(0, length - 1) + 1]),
        rng.choice([ALL_TERMS[0], rng.choice(ALL_TERMS)]),
        rng.choice(["BCSL", "BCLS", "BSLC"]),
        rng.choice(["float32", "bfloat16"]),
        rng.choice([False, True]),
    )


def inputs(case: Case, device: str) -> Given:
    """Slices of one tensor in the case's order; scales that give the softmax something to do."""
    generator = torch.Generator().manual_seed(sum(map(hash, case[:7] if case.span else case[:6])))
    channels = [case.heads * d for d in (case.key_depth, case.key_depth, case.value_depth)]
    sizes = {"B": case.batch, "C": sum(channels), "S": case.sequences, "L": case.length}
    memory = torch.randn([sizes[d] for d in case.order], generator=generator)
    qkv = memory.to(device, getattr(torch, case.dtype)).permute(*map(case.order.index, "BCSL"))
    query, key, value = qkv.split(channels, dim=1)
    span = case.span or 2 * case.length - 1
    offset = torch.arange(-(span // 2), span // 2 + 1)
    limit = max(case.length // 3, 1) if case.clamped else case.length
    row = offset.clamp(-limit, limit) + limit

    def table(is_there: int, depth: int) -> Tensor | None:
        rows = torch.randn(2 * limit + 1, depth, generator=generator)[row]
        return rows.to(device) if is_there else None

    scales = torch.randn(sum(case.terms[:3]), case.heads, generator=generator)
    given = AxialInputs(
        query,
        key,
        value if case.terms[3] else None,
        table(case.terms[1], case.key_depth),
        table(case.terms[2], case.key_depth),
        table(case.terms[4], case.value_depth),
        span,
        case.heads,
        bool(case.terms[0]),
    )
    return given, (2 * scales / case.key_depth**0.5).to(device)


def step(core: AttentionCore, given: Given) -> list[Tensor | None]:
    """The output and the gradients of the inputs and of the scales."""
    inputs, scales = given
    tensors = (*inputs.tensors, scales)
    leaves = [None if x is None else x.detach().requires_grad_() for x in tensors]
    y = core(AxialInputs(*leaves[:6], *inputs[6:]), leaves[6])
    weight = torch.linspace(0, 9, y.numel(), dtype=torch.float64).sin().view(y.shape)
    (y * weight.to(y)).sum().backward()
    return [y.detach(), *(None if x is None else x.grad for x in leaves)]


def errors(core: AttentionCore, case: Case, device: str = "cpu") -> dict[str, list[float]]:
    """Largest errors of the output and of each gradient: of this core, and of the portable one.

    They are relative to the largest value, at least 1, of the truth: the same inputs in float64.
    """
    given, scales = inputs(case, device)
    doubles = (None if x is None else x.double() for x in given.tensors)
    truths = step(chunked_attention, (AxialInputs(*doubles, *given[6:]), scales.double()))
    found = {}
    pair = (step(form, (given, scales)) for form in (core, chunked_attention))
    for name, *ours, truth in zip(NAMES, *pair, truths, strict=True):
        if truth is not None:
            scale = truth.abs().max().clamp(min=1.0)
            assert all(x is not None and x.shape == truth.shape for x in ours)
            found[name] = [float((x - truth).abs().max() / scale) for x in ours]
    return found


def layer_errors(formulation: object, device: str = "cpu") -> dict[str, float]:
    """Of a whole layer in training, of its gradients and running statistics, in float32."""
    from axialseg.layers.axial_attention import AxialAttention, reference_attention

    found: dict[str, float] = {}
    for span, axis in ((None, "height"), (7, "width")):
        states = []
        for form, dtype in ((formulation, torch.float32), (reference_attention, torch.float64)):
            torch.manual_seed(0)
            layer = AxialAttention(6, 8, 16, axis, heads=2, span=span, formulation=form)
            layer.to(device, dtype)
            image = torch.randn(2, 6, 17, 11).to(device, dtype).requires_grad_()
            y = layer(image)
            weight = torch.linspace(0, 9, y.numel(), dtype=torch.float64).sin().view(y.shape)
            (y * weight.to(y)).sum().backward()
            gradients = {name: p.grad for name, p in layer.named_parameters()}
            states.append({"y": y, "x": image.grad, **gradients, **dict(layer.named_buffers())})
        for name, truth in states[1].items():
            error = (states[0][name] - truth).abs().max() / truth.abs().max().clamp(min=1.0)
            found[f"{name}, span {span}"] = float(error.detach())
    return found


if __name__ == "__main__":
    from functools import partial

    from axialseg.layers.lean_axial_attention import lean_attention
    from axialseg.layers.triton_axial_attention import triton_attention

    number, first = map(int, sys.argv[1:])
    cases = FIXED + [random_case(first + index) for index in range(number)]
    for case in cases:
        print(json.dumps([case, errors(triton_attention, case)]), flush=True)
    print(json.dumps(["layer", layer_errors(partial(lean_attention, core=triton_attention))]))
