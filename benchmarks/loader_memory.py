"""Memory of the loader over five epochs with two worker processes: does it stay flat?

    python benchmarks/loader_memory.py [--quick] [--epochs N] [--images N]

COCO's recipe at 641 x 641 with Panoptic-DeepLab's targets on generated files of the real sizes.
After each epoch, of the main process and its workers together: PSS (shared pages counted once in
all), USS (pages that no other process has), and each worker's own USS, in MiB.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from generated_data import write_coco
from hydra import compose, initialize_config_dir

from axialseg.build import build_training_data
from axialseg.config.auto import without_auto
from axialseg.config.schema import conf_dir, register_schemas

FILES = 24
BATCH = 4
WORKERS = 2


def memory(pid: int) -> tuple[float, float]:
    """PSS and USS of a process, in MiB."""
    pss = uss = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            pss = int(rest.split()[0])
        elif name.startswith("Private_"):
            uss += int(rest.split()[0])
    return pss / 1024, uss / 1024


def repeat_images(table: Path, images: int) -> None:
    """Lists the images of a JSON file again and again, under other ids, until there are enough."""
    content = json.loads(table.read_text())
    listed, annotations = content["images"], content["annotations"]
    content["images"] = [listed[n % len(listed)] | {"id": n} for n in range(images)]
    content["annotations"] = [annotations[n % len(listed)] | {"image_id": n} for n in range(images)]
    table.write_text(json.dumps(content))


def main() -> None:
    """Prints a line for each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images in an epoch")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, help="images in an epoch")
    options = parser.parse_args()
    images = options.images or (48 if options.quick else 400)
    print(
        f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {images} images in an epoch, batches of {BATCH}"
    )
    register_schemas()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AXIALSEG_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "coco"
        write_coco(root, min(FILES, images))
        write_coco(root, 1, "val2017")
        repeat_images(root / "annotations" / "panoptic_train2017.json", images)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            overrides = [f"data.root={root}", f"data.num_workers={WORKERS}"]
            lines = ["data=coco", *overrides, f"schedule.batch_size={BATCH}"]
            cfg = without_auto(compose("train", lines))
        module = build_training_data(cfg, world_size=1)
        module.setup("fit")
        batches = iter(module.train_dataloader())
        print(f"{'epoch':>5}{'PSS of all':>14}{'USS of all':>14}   USS of each worker")
        for epoch in range(1, options.epochs + 1):
            for _ in islice(batches, images // BATCH):
                pass
            workers = [memory(worker.pid or 0) for worker in multiprocessing.active_children()]
            own = memory(os.getpid())
            pss, uss = (sum(column) for column in zip(own, *workers, strict=True))
            each = ", ".join(f"{worker[1]:.0f}" for worker in workers)
            print(f"{epoch:>5}{pss:14.0f}{uss:14.0f}   {each}", flush=True)


if __name__ == "__main__":
    main()
