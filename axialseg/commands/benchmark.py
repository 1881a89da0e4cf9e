"""`python -m axialseg benchmark`: time and memory of a model, beside its textbook form."""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.commands.complexity import FORMATS, classes_of, size_of
from axialseg.config.check import check_choice
from axialseg.errors import UserError
from axialseg.machine.hardware import check_compiler, resolve_hardware
from axialseg.visualization.text_table import text_table

if TYPE_CHECKING:
    from axialseg.costs.benchmark import Cost, Job

USAGE = (
    "python -m axialseg benchmark model=<name> [size=[height,width]] [batch=<images>] "
    "[device=auto|cpu|cuda] [precision=auto|32-true|bf16-mixed|16-mixed] [compile=true] "
    "[data=<name>] [seconds=<number>] [format=table|json] [key=value ...]"
)
SUMMARY = "Measures time and memory of a model on this machine, beside the textbook attention."
EXAMPLES = (
    "python -m axialseg benchmark model=axial_deeplab_s size=[513,513]",
    "python -m axialseg benchmark model=max_deeplab_s size=[641,641] data=coco device=cuda batch=4",
    "python -m axialseg benchmark model=axial_deeplab_tiny size=[129,129] seconds=5 format=json",
)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
MEBIBYTE = 2**20

Row = dict[str, Any]


def main() -> None:
    """The command."""
    run_tool(benchmark, SUMMARY, USAGE, EXAMPLES)


def benchmark(arguments: list[str]) -> None:
    """Measures one model and prints what was found.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting.
    """
    cfg = compose_config("benchmark", arguments)
    size = size_of("size", cfg.size)
    _check(cfg)

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.costs.benchmark import compare, contestants, multiply_adds

    job = _job(cfg, size)
    rows = []
    counted = {"training step": 3, "inference": 1}  # a backward pass is two forward passes
    forward = multiply_adds(job)
    for part, forms in contestants(job).items():
        costs = compare(forms, cfg.seconds, partial(_report, part))
        rows += rows_of(part, costs, job.batch, counted.get(part, 0) * forward)
    facts = _facts(cfg, job)
    if cfg.format == "json":
        print(json.dumps(facts | {"rows": rows}, indent=1))
    else:
        print(as_table(facts, rows))


def _check(cfg: DictConfig) -> None:
    """Refuses values that the schema cannot."""
    for key, options in (("format", FORMATS), ("device", DEVICES), ("precision", PRECISIONS)):
        check_choice(key, cfg[key], options)
    if cfg.batch < 1:
        raise UserError(f"batch={cfg.batch}, but it must be 1 or more")
    if cfg.seconds < 0:
        raise UserError(f"seconds={cfg.seconds}, but it must be 0 or more")
    if cfg.compile:
        check_compiler()


def _job(cfg: DictConfig, size: tuple[int, int]) -> "Job":
    """What is measured, `auto` resolved."""
    import torch

    from axialseg.costs.benchmark import Job

    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but no GPU is visible; use device=cpu")
    accelerator = "gpu" if device == "cuda" else "cpu"
    here = {"accelerator": accelerator, "devices": 1, "num_nodes": 1, "precision": cfg.precision}
    precision = resolve_hardware(OmegaConf.create(here), None).precision
    return Job(cfg, classes_of(cfg), size, cfg.batch, device, precision, cfg.compile)


def _report(part: str, what: str) -> None:
    """Progress: a large model on a CPU takes minutes."""
    print(f"{part}: {what} ...", file=sys.stderr, flush=True)


def rows_of(part: str, costs: dict[str, "Cost"], images: int, multiply_adds: int) -> list[Row]:
    """The rows of one part of the work; ratios are to its first form.

    Args:
        part: of the work.
        costs: form -> what was measured.
        images: of a batch.
        multiply_adds: of a batch.

    Returns:
        One row for each form; None stands for what could not be measured.
    """
    first = next(iter(costs.values()))
    return [
        {
            "part": part,
            "form": form,
            "seconds": cost.seconds,
            "rounds": cost.rounds,
            "images_per_second": cost.seconds and images / cost.seconds,
            "peak_bytes": cost.peak_bytes,
            "multiply_adds": multiply_adds or None,
            "time_ratio": _ratio(cost.seconds, first.seconds),
            "memory_ratio": _ratio(cost.peak_bytes, first.peak_bytes),
        }
        for form, cost in costs.items()
    ]


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value and to else None


def _facts(cfg: DictConfig, job: "Job") -> dict[str, Any]:
    """What was measured, where and how."""
    import torch

    from axialseg.costs.benchmark import machine
    from axialseg.machine.peak_memory import how_measured

    return {
        "model": cfg.model.name,
        "size": list(job.size),
        "batch": job.batch,
        "classes": len(job.categories),
        "precision": job.precision,
        "compile": job.compile,
        "device": job.device,
        "machine": machine(job.device),
        "peak_memory": how_measured(torch.device(job.device)),
    }


def as_table(facts: dict[str, Any], rows: list[Row]) -> str:
    """The rows, with a heading and what the columns mean."""
    height, width = facts["size"]
    compiled = ", compiled" if facts["compile"] else ""
    cells = [("", "latency", "images/s", "peak memory", "multiply-adds", "time", "memory")]
    part = ""
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            cells.append((part, "", "", "", "", "", ""))
        cells.append(
            (
                f"  {row['form']}",
                _cell(row["seconds"], 1e3, "{:,.1f} ms", "out of memory"),
                _cell(row["images_per_second"], 1, "{:,.2f}"),
                _cell(row["peak_bytes"], 1 / MEBIBYTE, "{:,.0f} MiB", "out of memory"),
                _cell(row["multiply_adds"], 1e-9, "{:,.2f} G"),
                _cell(row["time_ratio"], 1, "{:.2f} x"),
                _cell(row["memory_ratio"], 1, "{:.2f} x"),
            )
        )
    return "\n".join(
        [
            f"{facts['model']}, {height}x{width}, batch {facts['batch']}, {facts['classes']} "
            f"classes, {facts['precision']}{compiled}",
            facts["machine"],
            "",
            text_table(cells),
            "",
            "latency        of a batch, median of rounds in which the forms take turns, wall clock",
            f"peak memory    {facts['peak_memory']};",
            "               of weights, gradients, optimiser and features together",
            "multiply-adds  of convolutions and attention products as the textbook counts them; a",
            "               backward pass counts as two forward passes",
            "time, memory   ratios to the first form of each part",
        ]
    )


def _cell(value: float | None, factor: float, form: str, missing: str = "") -> str:
    return missing if value is None else form.format(value * factor)


if __name__ == "__main__":
    main()
