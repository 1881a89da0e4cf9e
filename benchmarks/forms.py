"""One trained model in all its forms: latency, memory and PQ.

    python benchmarks/forms.py [--run outputs/<run>] [--quick]

Without a run the default one is trained first, which takes minutes (`--quick`: 30 steps of it).
Latency is from an image to its panoptic map, CPU time of one thread, one process, the forms take
turns, medians. Peaks of memory, weights included, are of a process each. PQ is what `evaluate.py`
gives on the run's validation images.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import yaml

import axialseg
from axialseg.costs.benchmark import Work, machine, take_turns
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.inference.fused_convolutions import inference_form
from axialseg.inference.predict import predict
from axialseg.machine.peak_memory import PeakMemory, how_measured, in_fresh_process

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
MEBIBYTE = 2**20
# Form -> settings of `evaluate.py`, or the file that it scores.
FORMS: dict[str, list[str]] = {
    "as trained": [],
    "folded, fused": ["fold_batch_norms=true"],
    "folded, fused, bf16": ["fold_batch_norms=true", "trainer.precision=bf16-mixed"],
    "compiled": ["compile=true"],
    "ONNX, heads": ["heads.onnx"],
    "ONNX, post-processing inside": ["maps.onnx"],
    "torch.export, post-processing inside": ["maps.pt2"],
}


def work(form: str, checkpoint: Path, folder: Path, side: int) -> Work:
    """From an image to its panoptic map.

    Args:
        form: of `FORMS`.
        checkpoint: of the run.
        folder: of the exported files.
        side: of the image, in pixels.
    """
    torch.set_num_threads(1)
    settings = FORMS[form]
    source = folder / settings[0] if settings and "=" not in settings[0] else checkpoint
    model = axialseg.load(source, trust=["torch.export"])
    dtype = torch.bfloat16 if "bf16" in form else torch.float32
    net = model.net
    if "folded" in form:
        net = inference_form(net, "cpu", dtype)
    if form == "compiled":
        net = fold_batch_norms(net)
        net.compile(dynamic=False)
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    batch = {
        "image": torch.from_numpy(pixels)[None],
        "valid": torch.ones(1, side, side, dtype=torch.bool),
        "image_id": [0],
        "file_name": [""],
        "original_size": [(side, side)],
        "resized_size": [(side, side)],
    }

    def run_once() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            predict(net, model.postprocess, batch)

    return run_once


def peak(form: str, checkpoint: Path, folder: Path, side: int) -> int:
    """Bytes of a process of its own."""
    np.ones(1) + 1  # what the libraries set up once is nothing of the model's
    memory = PeakMemory(CPU)
    run_once = work(form, checkpoint, folder, side)
    run_once()
    memory.reset()
    run_once()
    return memory.bytes()


def score(form: str, checkpoint: Path, folder: Path) -> float:
    """PQ on the run's validation images, in per cent."""
    settings = FORMS[form]
    out = folder / form.replace(", ", "_").replace(" ", "-")
    lines = [f"ckpt={checkpoint}", *settings]
    if settings and "=" not in settings[0]:
        config = yaml.safe_load((checkpoint.parents[1] / ".hydra" / "config.yaml").read_text())
        root = (ROOT / config["data"]["root"]).resolve()
        lines = [f"ckpt={folder / settings[0]}", f"data.root={root}", "trust=[torch.export]"]
    line = [sys.executable, str(ROOT / "evaluate.py"), *lines, f"output={out}", "hardware=cpu"]
    subprocess.run(line, check=True, capture_output=True, cwd=ROOT)
    return float(json.loads((out / "metrics.json").read_text())["PQ"])


def trained(folder: Path, is_quick: bool) -> Path:
    """A new run of the default model."""
    run = folder / "run"
    steps = ["trainer.max_steps=30", "trainer.val_check_interval=30"] if is_quick else []
    line = [sys.executable, str(ROOT / "train.py"), f"hydra.run.dir={run}", "hardware=cpu", *steps]
    subprocess.run(line, check=True, capture_output=True, cwd=ROOT)
    return run


def main() -> None:
    """Prints one line per form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a trained run")
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    arguments = parser.parse_args()
    sides = (129,) if arguments.quick else (129, 513)
    print(machine("cpu"))
    print(f"memory: {how_measured(CPU)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = arguments.run or trained(folder, arguments.quick)
        best = run.resolve() / "checkpoints" / "best.ckpt"
        checkpoint = best if best.is_file() else best.with_name("last.ckpt")
        for file, kind, inside in (
            ("heads.onnx", "onnx", "false"),
            ("maps.onnx", "onnx", "true"),
            ("maps.pt2", "torch", "true"),
        ):
            line = [sys.executable, "-m", "axialseg", "export", f"ckpt={checkpoint}"]
            line += [f"format={kind}", f"out={folder / file}", f"postprocess={inside}"]
            subprocess.run(line, check=True, capture_output=True, cwd=ROOT)
        medians: dict[str, list[float]] = {form: [] for form in FORMS}
        for side in sides:
            works = {form: work(form, checkpoint, folder, side) for form in FORMS}
            times = take_turns(works, 2 if arguments.quick else 60, CPU, time.process_time)
            for form, found in times.items():
                medians[form].append(1000 * statistics.median(found))
            del works
        head = [f"ms at {side}x{side}" for side in sides]
        head = ["form", *head, f"MiB at {sides[-1]}x{sides[-1]}", "PQ"]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for form in FORMS:
            memory = in_fresh_process(partial(peak, form, checkpoint, folder, sides[-1])) / MEBIBYTE
            row = [f"{median:.1f}" for median in medians[form]]
            row += [f"{memory:.0f}", f"{score(form, checkpoint, folder):.2f}"]
            print(f"| {form} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
