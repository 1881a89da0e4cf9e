"""Start-up and memory with COCO's 118,287 training images, whose JSON lists 800,000 segments.

    python benchmarks/coco_index.py [--quick] [--images N] [--segments N] [--root ROOT]

Without a root, a JSON file of that size is generated, with an empty file for each image and PNG.
Each start is a process of its own: imports, configuration, both annotation files, comparison of all
file names, and the first key of the sampler, that is all up to the first image.

Then loader processes walk over the whole index, and over the same JSON as Python objects: what each
has for itself (USS) is printed before and after. Pages of a forked process are shared until they
are written to, and counting a reference writes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
WORKERS = 2


def write_root(root: Path, images: int, segments: int) -> None:
    """Both splits: the JSON files as they are published, and files without content."""
    for split, count in (("train2017", images), ("val2017", max(images // 24, 1))):
        (root / split).mkdir(parents=True)
        (root / "annotations" / f"panoptic_{split}").mkdir(parents=True)
        write_json(
            root / "annotations" / f"panoptic_{split}.json", count, segments * count // images
        )
        for number in range(count):
            (root / split / f"{number:012d}.jpg").touch()
            (root / "annotations" / f"panoptic_{split}" / f"{number:012d}.png").touch()


def write_json(path: Path, images: int, segments: int) -> None:
    """A panoptic JSON file with all that the published ones say of an image and of a segment."""
    from axialseg.formats.coco_panoptic import official_categories
    from axialseg.panoptic.coco_classes import COCO

    rng = random.Random(0)
    categories = official_categories(COCO)
    ids = [category["id"] for category in categories]

    def image(number: int) -> dict[str, Any]:
        name = f"{number:012d}"
        return {
            "license": 3,
            "file_name": f"{name}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{name}.jpg",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": f"http://farm9.staticflickr.com/8186/8119368305_{name[2:]}_z.jpg",
            "id": number,
        }

    def annotation(number: int) -> dict[str, Any]:
        count = segments * (number + 1) // images - segments * number // images
        rows = [
            {
                "id": number_in_png,
                "category_id": rng.choice(ids),
                "iscrowd": int(rng.random() < 0.01),
                "bbox": [rng.randrange(600), rng.randrange(400), 40, 80],
                "area": rng.randrange(1, 100_000),
            }
            for number_in_png in rng.sample(range(1, 256**3), count)
        ]
        return {"segments_info": rows, "file_name": f"{number:012d}.png", "image_id": number}

    with path.open("w") as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        file.write(", ".join(json.dumps(image(number)) for number in range(images)))
        file.write('], "annotations": [')
        for number in range(images):
            file.write(", " * (number > 0) + json.dumps(annotation(number)))
        file.write(f'], "categories": {json.dumps(categories)}}}')


# --- one start, in a process of its own ---


def start(root: str, started: float) -> None:
    """All up to the first image; prints seconds and memory as JSON."""
    from hydra import compose, initialize_config_dir

    from axialseg.build import build_training_data
    from axialseg.config.schema import conf_dir, register_schemas

    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "train",
            ["data=coco", f"data.root={root}", "schedule.batch_size=8", "data.num_workers=2"],
        )
    imported = time.time()
    module = build_training_data(cfg, world_size=1)
    module.setup("fit")
    loader = module.train_dataloader()
    length = len(module.train_dataset)
    next(iter(loader.sampler))
    opened = time.time()
    for dataset in (module.train_dataset, module.val_dataset):
        assert not dataset.inspector().check_files()
    compared = time.time()
    result = {
        "images": length,
        "segments": len(module.train_dataset._annotations.segment_ids),
        "imports": imported - started,
        "annotations": opened - imported,
        "file names": compared - opened,
        "all": compared - started,
        "CPU": time.process_time(),
        "peak MiB": memory(os.getpid(), "VmHWM"),
    }
    print(json.dumps(result))


def started(root: Path, cache: Path) -> subprocess.Popen[str]:
    """Begins a start."""
    command = [sys.executable, __file__, "--start", str(root), str(time.time())]
    environment = os.environ | {"AXIALSEG_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The result of a start."""
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def memory(pid: int, key: str) -> float:
    """A line of /proc/<pid>/status, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def own_memory() -> float:
    """What this process has for itself, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


# --- what loader processes copy ---


def _run(work: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    return work()


_index: Any = None
_objects: Any = None


def walk_index() -> tuple[float, float]:
    """Visits every image and segment as the reader does; own memory before and after."""
    before, total = own_memory(), 0
    for place in range(len(_index.image_ids)):
        rows = slice(_index.offsets[place], _index.offsets[place + 1])
        total += int(_index.segment_ids[rows].sum()) + int(_index.class_ids[rows].sum())
        total += len(str(_index.image_files[place])) + len(str(_index.png_files[place]))
    assert total
    return before, own_memory()


def walk_objects() -> tuple[float, float]:
    """The same over the parsed JSON."""
    before, total = own_memory(), 0
    for annotation in _objects["annotations"]:
        total += len(annotation["file_name"])
        total += sum(row["id"] + row["category_id"] for row in annotation["segments_info"])
    assert total
    return before, own_memory()


def compare_processes(root: Path, cache: Path) -> None:
    """Prints what loader processes come to have for themselves."""
    global _index, _objects
    os.environ["AXIALSEG_CACHE"] = str(cache)
    from axialseg.datasets.coco import CocoPanoptic

    path = root / "annotations" / "panoptic_train2017.json"
    dataset = CocoPanoptic(root, "train2017", f"annotations/{path.name}", "annotations")
    _index = dataset._annotations
    print(f"\n{WORKERS} loader processes, own memory (USS) in MiB before and after a walk over all")
    _show_processes("index", walk_index)
    _objects = json.loads(path.read_bytes())
    _show_processes("Python objects", walk_objects)


def _show_processes(name: str, work: Callable[[], tuple[float, float]]) -> None:
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        results = pool.map(_run, [work] * WORKERS, chunksize=1)
    cells = ", ".join(f"{before:.0f} -> {after:.0f}" for before, after in results)
    print(f"  {name:<16}{cells}")


def main() -> None:
    """Prints a table of the starts, and one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of it all, one rank")
    parser.add_argument("--images", type=int, help="118,287 unless said otherwise")
    parser.add_argument("--segments", type=int, help="800,000 unless said otherwise")
    parser.add_argument("--root", type=Path, help="root of the real data set")
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        start(options.start[0], float(options.start[1]))
        return
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder) / "coco"
        if options.root is None:
            share = 10 if options.quick else 1
            images = options.images or 118_287 // share
            write_root(root, images, options.segments or 800_000 // share)
        size = (root / "annotations" / "panoptic_train2017.json").stat().st_size / MIB
        time.sleep(2.5)  # an index of a file just written is not kept
        cache = Path(folder) / "cache"
        rows = {
            "first": finished(started(root, cache)),
            "second": finished(started(root, cache)),
        }
        if not options.quick:
            ranks = [started(root, Path(folder) / "other cache") for _ in range(2)]
            rows |= {f"first, rank {n} of 2": finished(rank) for n, rank in enumerate(ranks)}
        first = rows["first"]
        print(f"{first['images']:,} images, {first['segments']:,} segments, JSON of {size:.0f} MiB")
        keys = ("imports", "annotations", "file names", "all", "CPU", "peak MiB")
        print(f"\n{'start, seconds':<20}" + "".join(f"{key:>13}" for key in keys))
        for name, row in rows.items():
            print(f"{name:<20}" + "".join(f"{row[key]:13.1f}" for key in keys))
        compare_processes(root, cache)


if __name__ == "__main__":
    main()
