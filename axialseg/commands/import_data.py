"""`python -m axialseg import-data`: annotations of other tools into a data set to train on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from axialseg.commands.check_data import check_data
from axialseg.commands.command_line import compose_config, run_tool
from axialseg.errors import UserError

if TYPE_CHECKING:
    from axialseg.data_import.source import Source

USAGE = (
    "python -m axialseg import-data from=<file or folder> to=<folder> [images=<folder>] "
    "[instances=<folder>] [classes=<file>|voc] [things=[name,...]] [split_things=false] "
    "[rest=void|<class>] [val_share=0.1] [seed=0]"
)
SUMMARY = "Imports annotations of another tool as a data set that trains, and checks it."
EXAMPLES = (
    "python -m axialseg import-data from=instances.json images=photos to=own",
    "python -m axialseg import-data from=labelme_folder to=own val_share=0.1",
    "python -m axialseg import-data from=labels images=photos classes=a.txt things=[car] to=own",
)
VOID = "void"
VOC_FOLDERS = ("SegmentationClass", "SegmentationObject", "JPEGImages")


def main() -> None:
    """The command."""
    run_tool(import_data, SUMMARY, USAGE, EXAMPLES)


def import_data(arguments: list[str]) -> None:
    """Imports annotations, tells what was decided by rule, and checks the result.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting or file.
        SystemExit: code 1 if the result has errors.
    """
    cfg = compose_config("import_data", arguments)
    if not isinstance(cfg.val_share, int | float) or not 0 <= cfg.val_share < 1:
        raise UserError(f"val_share={cfg.val_share}, but it must be 0 or more and less than 1")
    if not isinstance(cfg.split_things, bool):
        raise UserError(f"split_things={cfg.split_things}, but it must be true or false")
    things = cfg.things
    if things is not None and not OmegaConf.is_list(things):
        raise UserError(f"things={things}, but it must be a list, as things=[car,person]")
    folder = _path(cfg.to)

    # Only now: these imports take seconds, and a wrong command line shall not wait for them.
    from axialseg.data_import.write import REPORT, write_panoptic

    say = partial(print, flush=True)
    source = _source(cfg)
    say(f"{len(source.images):,} images, {len(source.categories)} classes")
    totals = write_panoptic(source, folder, float(cfg.val_share), int(cfg.seed), say)
    for what, count in source.counts.items():
        if count:
            say(f"  {count:,} {what}")
    written = ", ".join(f"{count:,} {split}" for split, count in totals.items() if count)
    say(f"{folder}: {written} images; what was decided by rule is in {folder / REPORT}")
    split = "all" if all(totals.values()) else next(s for s, count in totals.items() if count)
    root = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    output = str(folder / "check").replace("\\", "\\\\").replace("'", "\\'")
    check_data(["data=coco_format", f"data.root='{root}'", f"split={split}", f"output='{output}'"])


def _path(value: Any) -> Path:
    return Path(str(value)).expanduser()


def _source(cfg: DictConfig) -> "Source":
    """What `from` is."""
    from axialseg.data_import.coco_instances import CocoInstances
    from axialseg.data_import.labelme import LabelmeFolder, is_labelme

    place = _path(cfg["from"])
    images = None if cfg.images is None else _path(cfg.images)
    things = None if cfg.things is None else [str(name) for name in cfg.things]
    rest = None if cfg.rest in (None, VOID) else str(cfg.rest)
    for path in (place, images):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist; give what is to be imported as from=<path>.")
    if images is not None and not images.is_dir():
        raise UserError(f"images={images} is not a folder; give the folder of the photographs.")
    if place.is_file():
        return CocoInstances([(place, None)], images, things, rest)
    tables = sorted(place.rglob("*.json"))
    if (place / VOC_FOLDERS[0]).is_dir() or cfg.instances is not None or cfg.classes is not None:
        return _label_images(cfg, place, images, things)
    if not tables:
        if cfg.images is not None:
            return _label_images(cfg, place, images, things)
        raise UserError(
            f"{place} holds no JSON file and no {VOC_FOLDERS[0]}; for label images give also "
            "images=<folder> and classes=<file>."
        )
    if is_labelme(tables[0]):
        return LabelmeFolder(place, images, things, rest)
    return CocoInstances(_with_splits(place, tables), images, things, rest)


def _label_images(
    cfg: DictConfig, place: Path, images: Path | None, things: list[str] | None
) -> "Source":
    from axialseg.data_import.class_lists import read_class_list
    from axialseg.data_import.label_images import LabelImages

    labels = place
    instances = None if cfg.instances is None else _path(cfg.instances)
    listed = cfg.classes
    if (place / VOC_FOLDERS[0]).is_dir():  # PASCAL VOC, and CVAT's export of masks
        labels = place / VOC_FOLDERS[0]
        own = place / VOC_FOLDERS[1]
        instances = instances or (own if own.is_dir() else None)
        images = images or place / VOC_FOLDERS[2]
        labelmap = place / "labelmap.txt"
        listed = listed or (str(labelmap) if labelmap.is_file() else None)
    if images is None or not images.is_dir():
        raise UserError(
            f"label images of {place} need the folder of their photographs; give images=<folder>."
        )
    if instances is not None and not instances.is_dir():
        raise UserError(f"instances={instances} is not a folder; give that of the instance images.")
    if listed is None:
        raise UserError(
            "label images need a list of their classes; give classes=<file> (JSON, CSV or TXT), or "
            "classes=voc."
        )
    source = listed if listed == "voc" else str(_path(listed))
    classes = read_class_list(source)
    return LabelImages(labels, images, instances, classes, things, cfg.split_things)


def _with_splits(place: Path, tables: list[Path]) -> list[tuple[Path, str | None]]:
    """The JSON files of a folder with their splits, told by names of folders and files."""
    if len(tables) == 1:
        return [(tables[0], None)]
    found: dict[str, Path] = {}
    for path in tables:
        name = path.relative_to(place).as_posix().lower()
        split = next((s for s, key in SPLIT_NAMES if key in name), None)
        if split in found or split is None:
            names = ", ".join(str(table.relative_to(place)) for table in tables[:5])
            raise UserError(
                f"{place} holds several JSON files ({names}); give one of them as from=<file>, or "
                "name them after their splits, train and val."
            )
        found[split] = path
    return [(path, split) for split, path in found.items() if split in ("train", "val")]


SPLIT_NAMES = (("train", "train"), ("val", "val"), ("test", "test"))
