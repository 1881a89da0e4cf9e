"""`python -m axialseg complexity`: parameters and multiply-adds of a model, part by part."""

import json
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.config.check import check_choice, check_model_fits_data
from axialseg.errors import UserError
from axialseg.visualization.text_table import text_table

if TYPE_CHECKING:
    from axialseg.build import Classes
    from axialseg.costs.complexity import PartCost

USAGE = (
    "python -m axialseg complexity model=<name> [size=[height,width]] [data=<name>] "
    "[format=table|json] [key=value ...]"
)
SUMMARY = "Counts parameters and multiply-adds of a model, part by part."
EXAMPLES = (
    "python -m axialseg complexity model=axial_deeplab_l size=[1025,2049]",
    "python -m axialseg complexity model=max_deeplab_s data=coco size=[641,641]",
    "python -m axialseg complexity model=axial_resnet_50_s format=json",
)
FORMATS = ("table", "json")
IMAGENET_CLASSES = 1000


def main() -> None:
    """The command."""
    run_tool(complexity, SUMMARY, USAGE, EXAMPLES)


def complexity(arguments: list[str]) -> None:
    """Prints the costs of one model.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting.
    """
    cfg = compose_config("complexity", arguments)
    check_choice("format", cfg.format, FORMATS)
    height, width = size_of("size", cfg.size)

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.build import build_net_on_meta
    from axialseg.costs.complexity import part_costs
    from axialseg.datasets.image_classes import ImageClasses

    classes = classes_of(cfg)
    is_classifier = isinstance(classes, ImageClasses)
    channels = len(classes) if isinstance(classes, ImageClasses) else classes.semantic_channels
    net = build_net_on_meta(cfg.model, channels, len(classes) + 1).eval()
    parts = part_costs(net, (height, width))
    if cfg.format == "json":
        key = "classes" if is_classifier else "semantic_channels"
        facts = {"model": cfg.model.name, "size": [height, width], key: channels}
        print(json.dumps(facts | as_json(parts), indent=1))
    else:
        what = "classes" if is_classifier else "semantic channels"
        print(f"{cfg.model.name}, {height}x{width}, {channels} {what}\n")
        print(as_table(parts))


def size_of(key: str, value: Any) -> tuple[int, int]:
    """The value of a key as (height, width).

    Raises:
        UserError: it is none.
    """
    numbers = [n for n in value if isinstance(n, int) and n > 0] if OmegaConf.is_list(value) else []
    if len(numbers) != 2 or len(numbers) != len(value):
        raise UserError(f"{key}={value} is not a size in pixels; write it as {key}=[1025,2049]")
    return numbers[0], numbers[1]


def classes_of(cfg: DictConfig) -> "Classes":
    """Classes of the data set; without one Cityscapes', or 1000 for a classifier.

    Args:
        cfg: config with `model` and `data`; see `build_classes`.

    Raises:
        UserError: the model does not fit the data, or the data set cannot be opened.
    """
    from axialseg.build import build_classes
    from axialseg.datasets.image_classes import numbered_classes
    from axialseg.panoptic.cityscapes_classes import CITYSCAPES

    if cfg.data is None:
        return CITYSCAPES if cfg.model.targets else numbered_classes(IMAGENET_CLASSES)
    check_model_fits_data(cfg)
    return build_classes(cfg.data)


def as_json(parts: list["PartCost"]) -> dict[str, Any]:
    """Totals, of which `not_run` is what the outputs do not need, and the parts."""
    from axialseg.costs.complexity import total_cost

    counts = ("parameters", "non_trainable_parameters", "multiply_adds")
    total = total_cost(parts)
    idle = total_cost([part for part in parts if not part.is_run])
    return {
        **{key: getattr(total, key) for key in counts},
        "not_run": {key: getattr(idle, key) for key in counts},
        "parts": [part._asdict() for part in parts],
    }


def as_table(parts: list["PartCost"]) -> str:
    """One row each, and the totals."""
    from axialseg.costs.complexity import total_cost

    rows = [("part", "parameters", "running statistics", "multiply-adds")]
    rows += [_row(part, "" if part.is_run else " (not run)") for part in parts]
    rows.append(_row(total_cost(parts), ""))
    running = [part for part in parts if part.is_run]
    if len(running) < len(parts):
        rows.append(_row(total_cost(running), " of what is run"))
    return text_table(rows)


def _row(part: "PartCost", remark: str) -> tuple[str, str, str, str]:
    return (
        part.name + remark,
        f"{part.parameters:,}",
        f"{part.non_trainable_parameters:,}",
        f"{part.multiply_adds / 1e9:,.2f} G",
    )
