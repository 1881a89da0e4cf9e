"""Compiles the attention kernels for GPUs, without one: registers, spills and shared memory.

    python benchmarks/triton_kernels.py [--json] [CAPABILITY ...]

CAPABILITY is 75 (T4), 80 (A100), 90 (H100, H200), 100 (B200), ...; by default 80 and 90. For each
the kernels are compiled to machine code for heads of Axial-DeepLab and MaX-DeepLab. `spilled` is
the stack of a thread in bytes; with --json only the first case is compiled.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from axialseg.layers import triton_kernels
from axialseg.layers.triton_axial_attention import kernel_options

KERNELS = ("forward_kernel", "query_kernel", "key_kernel", "table_kernel")
# Type of the maps, length, key and value depth of a head, whether float32 is exact.
CASES = [
    ("bf16", 129, 8, 16, False),
    ("fp32", 129, 8, 16, True),
    ("bf16", 65, 32, 64, False),
    ("fp32", 33, 64, 128, True),
]
MAPS = {
    *("query", "key", "value", "output"),
    *("query_grad", "key_grad", "value_grad", "output_grad"),
}
NUMBERS = {
    *("scales", "query_rows", "key_rows", "value_rows", "lse", "mean"),
    *("scale_parts", "query_parts", "key_parts", "value_parts"),
}


def compiled(name: str, capability: int, case: tuple[str, int, int, int, bool]) -> dict:
    """One kernel for one card and case."""
    dtype, length, key_depth, value_depth, is_exact = case
    options = kernel_options(length, key_depth, value_depth, is_exact)
    launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
    terms = ("CONTENT", "QUERY_POSITION", "KEY_POSITION", "VALUE", "VALUE_POSITION")
    constants = {**options, **dict.fromkeys(terms, True)}
    kernel = getattr(triton_kernels, name)
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in MAPS:
            signature[argument] = f"*{dtype}"
        else:
            signature[argument] = "*fp32" if argument in NUMBERS else "i32"
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(ASTSource(kernel, signature, constants), target=target, options=launch)
    registers, spilled = _resources(binary.asm["cubin"])
    return {
        "capability": capability,
        "case": f"{dtype}{' exact' if is_exact else ''}, L {length}, {key_depth}/{value_depth}",
        "tile": constants["M"],
        "warps": launch["num_warps"],
        "kernel": name,
        "registers": registers,
        "spilled": spilled,
        "shared": binary.metadata.shared,
    }


def _resources(cubin: bytes) -> tuple[int | None, int | None]:
    """Registers and bytes of stack of a thread, by the tool that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.is_file():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (None, None)


def main() -> None:
    """Prints one line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("capability", nargs="*", type=int, default=[80, 90])
    arguments = parser.parse_args()
    if arguments.json:
        print(
            json.dumps(
                [compiled(name, c, CASES[0]) for c in arguments.capability for name in KERNELS]
            )
        )
        return
    print(f"triton {triton.__version__}")
    head = ("capability", "case", "tile", "warps", "kernel", "registers", "spilled", "shared")
    print(("{:>10}  {:<28}{:>5}{:>7}  {:<16}" + "{:>10}" * 3).format(*head))
    for capability in arguments.capability:
        for case in CASES:
            for name in KERNELS:
                row = compiled(name, capability, case).values()
                print(
                    ("{:>10}  {:<28}{:>5}{:>7}  {:<16}" + "{!s:>10}" * 3).format(*row), flush=True
                )


if __name__ == "__main__":
    main()
