"""`experiments/README.md` from the heads of the experiments; `python tests/recipe_table.py`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from axialseg.config.experiment_head import ExpectedScores, ExperimentHead, experiment_head

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
TARGET = EXPERIMENTS / "README.md"
# Title of each folder; the order is that of the page.
FOLDERS = {
    "cityscapes": "Cityscapes",
    "coco": "COCO panoptic",
    "mapillary_vistas": "Mapillary Vistas",
    "imagenet": "ImageNet",
    "shapes": "Generated shapes",
    "patterns": "Generated patterns",
}
TOP = """# Experiments

`python tests/recipe_table.py` writes this page from the heads of the files. One file holds one
published row, or rows that differ in a setting only. Its head tells the source, the commands, the
hardware, the batch, the memory and what is inferred.

    python train.py experiments=cityscapes/axial_swidernet_1_1_1 data.root=$CITYSCAPES_ROOT
    python evaluate.py experiments=<row> data.root=<folder> ckpt=<file or name> tolerance=0.3

The command line wins over the file. Settings of the column "and" are added to both commands. The
evaluation prints what was published beside what it has measured; with `tolerance=0.3` it ends
with exit code 3 if a score is further off. A published checkpoint that is not there is downloaded
first, after its size is told. [docs/reproduce.md](../docs/reproduce.md) goes through one row of
each kind.

Scores are in per cent. PQ has that of things and stuff in brackets. "Own" is the number of the
authors' own pipeline, where the official script gave them another one. "Measured" is empty until
someone measures it with this project. "Memory" is what the planner counts
(`python tests/recipe_memory.py`, or `python -m axialseg memory experiments=<row>` for one row and
your GPU): how 8 GPUs of 80 GiB make up the batch in bf16 with 10 % left free, and the peak of a
step on each.
"""
BOTTOM = """
## Rows that cannot be run here

Of the Axial-DeepLab paper: LR-Net-50 (ImageNet 77.3), because its authors published no code and
unofficial code has to guess what its geometry prior reads. Of deeplab2: the rows without axial
attention, but ResNet-50's.

## Your own

Put a file beside these, or into `<folder>/experiments/` with `--config-dir <folder>`. It needs no
head. [docs/reproduce.md](../docs/reproduce.md) has the options that any recipe takes: another
batch, averaged weights, clipped gradients, rates that fall layer by layer.
"""


def heads() -> dict[str, ExperimentHead]:
    """All heads by `<folder>/<name>`; every file in a folder must have one."""
    found = {}
    for file in sorted(EXPERIMENTS.glob("*/*.yaml")):
        name = str(file.relative_to(EXPERIMENTS).with_suffix(""))
        head = experiment_head(file)
        assert head is not None, f"{name} has no head as of axialseg/config/experiment_head.py"
        found[name] = head
    return found


def page() -> str:
    """The whole page."""
    parts = [TOP]
    known = heads()
    assert {name.split("/")[0] for name in known} == set(FOLDERS)
    for folder, title in FOLDERS.items():
        parts.append(f"\n## {title}\n\n")
        columns = ("`experiments=`", "what", "and", "steps x batch", "expected", "own", "measured")
        parts.append(_line((*columns, "memory")) + _line(["---"] * 8))
        for name, head in known.items():
            if name.split("/")[0] == folder:
                parts += [
                    _line(_cells(name, head, row, first=number == 0))
                    for number, row in enumerate(head.expected)
                ]
    return "".join([*parts, BOTTOM])


def _cells(name: str, head: ExperimentHead, row: ExpectedScores, first: bool) -> list[str]:
    added = list(row.overrides)
    if row.steps != head.steps:
        added.append(f"trainer.max_steps={row.steps}")
    settings = " ".join(f"`{line}`" for line in added)
    if row.split != "val":
        settings = f"{settings} ({row.split})".strip()
    return [
        f"[`{name}`]({name}.yaml)" if first else "",
        head.what if first else "",
        settings,
        f"{row.steps:,} x {head.batch}",
        _scores(row.scores),
        _scores(row.own),
        _scores(row.measured),
        (head.memory or "") if first else "",
    ]


def _scores(scores: Mapping[str, float]) -> str:
    values = dict(scores)
    things, stuff = values.pop("PQ_things", None), values.pop("PQ_stuff", None)
    parts = [f"{name} {_number(value)}" for name, value in values.items()]
    if things is not None and stuff is not None:
        parts[0] += f" ({_number(things)} / {_number(stuff)})"
    return ", ".join(parts)


def _number(value: float) -> str:
    """As published: one digit, or the two of the authors' own pipeline."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
