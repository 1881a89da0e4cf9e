"""The fused kernel against the portable core: in Triton's interpreter, and on a GPU where one is.

More random shapes: `AXIALSEG_KERNEL_CASES=200 pytest tests/layers/test_triton_attention.py`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_core_cases import FIXED, Case, errors, inputs, layer_errors, random_case, step

from axialseg.build import build
from axialseg.commands.command_line import compose_config
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.fused_attention import fused_attention
from axialseg.layers.lean_axial_attention import AttentionCore, lean_attention

TESTS = Path(__file__).resolve().parents[1]
NUMBER = int(os.environ.get("AXIALSEG_KERNEL_CASES", "2"))
CASES = FIXED + [random_case(seed) for seed in range(NUMBER)]


def child(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Another Python: Triton must know before it is imported how kernels are run."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def interpreted() -> list[Any]:
    program = str(TESTS / "attention_core_cases.py")
    lines = child([program, str(NUMBER), "0"], TRITON_INTERPRET="1").stdout.splitlines()
    return [json.loads(line)[1] for line in lines]


def assert_close(found: dict[str, list[float]], case: Case, factor: float, limit: float) -> None:
    """The kernel may be a little further from the truth than the portable core is."""
    for name, (ours, portable) in found.items():
        assert ours <= factor * portable + limit, f"{case}: {name}: {ours} against {portable}"


@pytest.mark.parametrize("number", range(len(CASES)))
def test_interpreted(number: int, interpreted: list[Any]) -> None:
    # The interpreter cuts bfloat16 off instead of rounding it.
    is_float32 = CASES[number].dtype == "float32"
    found = dict(interpreted[number])
    if not is_float32:
        # A sum over all pairs, where errors of one sign add up; compared on GPUs, which round.
        del found["scales"]
    assert_close(found, CASES[number], 2, 3e-6 if is_float32 else 2**-8)


def test_interpreted_layer(interpreted: list[Any]) -> None:
    assert len(interpreted) == len(CASES) + 1
    assert len(interpreted[-1]) == 2 * 18  # output, input, 10 parameters, 6 statistics; two spans
    for name, error in interpreted[-1].items():
        assert error <= 1e-5, name


def test_compiles_for_gpus_without_one() -> None:
    """To machine code, within the shared memory that every program may have."""
    program = str(TESTS.parent / "benchmarks" / "triton_kernels.py")
    printed = json.loads(child([program, "--json", "90"], TRITON_INTERPRET="0").stdout)
    assert len(printed) == 4
    assert all(0 < kernel["shared"] <= 48 * 1024 for kernel in printed)


def test_without_a_gpu_the_portable_core_runs_and_says_so() -> None:
    program = (
        "import logging, torch; logging.basicConfig();"
        "from axialseg.layers.axial_attention import AxialAttention;"
        "from axialseg.layers.fused_attention import fused_attention;"
        "torch.manual_seed(0); x = torch.randn(1, 4, 7, 5);"
        "layer = AxialAttention(4, 4, 8, 'width', heads=2, formulation=fused_attention).eval();"
        "fused = layer(x);"
        "torch.manual_seed(0); torch.randn(1, 4, 7, 5);"
        "lean = AxialAttention(4, 4, 8, 'width', heads=2).eval();"
        "assert torch.equal(fused, lean(x))"
    )
    done = child(["-c", program], CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="0")
    notices = [line for line in done.stderr.splitlines() if "without the kernel" in line]
    assert len(notices) == 1


def test_without_triton_the_portable_core_runs_and_says_so() -> None:
    program = "import importlib.util; importlib.util.find_spec = lambda name: None;"
    program += "import axialseg.layers.fused_attention"
    assert "Triton is not installed" in child(["-c", program]).stderr


def test_one_key_chooses_the_kernel() -> None:
    cfg = compose_config("train", ["model=axial_deeplab_tiny", "model/attention=triton"])
    with torch.device("meta"):
        backbone = build(cfg.model.backbone)
    layers = [x for x in backbone.modules() if isinstance(x, AxialAttention)]
    assert layers
    assert all(layer.formulation is fused_attention for layer in layers)


def test_the_kernel_is_not_imported_unasked() -> None:
    program = "import sys; from axialseg.layers.axial_attention import AxialAttention;"
    program += "AxialAttention(4, 4, 8, 'width', heads=2);"
    program += "print([name for name in sys.modules if 'axialseg.layers.triton' in name])"
    assert child(["-c", program]).stdout == "[]\n"


@pytest.fixture
def exact() -> Iterator[None]:
    """float32 products in full."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def kernel() -> AttentionCore:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from axialseg.layers.triton_axial_attention import triton_attention

    return triton_attention


GPU_CASES = [*CASES, *(random_case(seed) for seed in range(1000, 1060))]


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("case", GPU_CASES)
def test_on_a_gpu(case: Case, kernel: AttentionCore) -> None:
    # bfloat16 is multiplied in TensorFloat-32, the portable core's float32 is not.
    limit = 3e-6 if case.dtype == "float32" else 2e-3
    assert_close(errors(kernel, case, "cuda"), case, 2, limit)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
def test_tensor_float_32_on_a_gpu(kernel: AttentionCore) -> None:
    torch.set_float32_matmul_precision("high")
    for case in (Case(129, 8, 16), Case(65, 32, 64, span=33)):
        assert_close(errors(kernel, case, "cuda"), case, 2, 5e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
def test_layer_on_a_gpu(kernel: AttentionCore) -> None:
    for name, error in layer_errors(partial(lean_attention, core=kernel), "cuda").items():
        assert error <= 1e-5, name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_repeat_bit_for_bit_on_a_gpu(dtype: str, kernel: AttentionCore) -> None:
    case = Case(129, 8, 16, 8, 2, 33, dtype=dtype)
    given = inputs(case, "cuda")
    first, second = (step(kernel, given) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.gpu
def test_no_map_in_memory_on_a_gpu(kernel: AttentionCore) -> None:
    case = Case(257, 8, 16, 8, 1, 257)
    given = inputs(case, "cuda")
    step(kernel, given)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(kernel, given)
    one_map = 4 * case.sequences * case.heads * case.length**2
    assert torch.cuda.max_memory_allocated() - before < one_map / 2


@pytest.mark.gpu
def test_compiles_whole_on_a_gpu(kernel: AttentionCore) -> None:
    given = inputs(Case(65, 8, 16), "cuda")
    compiled = torch.compile(kernel, fullgraph=True)
    for one, two in zip(step(compiled, given), step(kernel, given), strict=True):
        torch.testing.assert_close(one, two)
