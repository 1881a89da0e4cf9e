"""`python -m axialseg complexity`: parameters and multiply-adds of a model, part by part."""

import json
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from axialseg.command_line import compose_config, run_tool
from axialseg.config_check import nearest
from axialseg.errors import UserError

if TYPE_CHECKING:
    from axialseg.complexity import PartCost
    from axialseg.panoptic.categories import Categories

USAGE = (
    "python -m axialseg complexity model=<name> [size=[height,width]] [data=<name>] "
    "[format=table|json] [key=value ...]"
)
FORMATS = ("table", "json")


def main() -> None:
    """The command."""
    run_tool(complexity)


def complexity(arguments: list[str]) -> None:
    """Prints the costs of one model.

    Args:
        arguments: overrides of `conf/complexity.yaml`.

    Raises:
        UserError: a wrong setting.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(f"usage: {USAGE}")
        return
    cfg = compose_config("complexity", arguments)
    if cfg.format not in FORMATS:
        raise UserError(
            f"format={cfg.format} does not exist; {nearest(cfg.format, FORMATS, 'format=')}"
        )
    height, width = size_of("size", cfg.size)

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.build import build_net_on_meta
    from axialseg.complexity import part_costs

    categories = categories_of(cfg.data)
    channels = categories.semantic_channels
    net = build_net_on_meta(cfg.model, channels, len(categories) + 1).eval()
    parts = part_costs(net, (height, width))
    if cfg.format == "json":
        facts = {"model": cfg.model.name, "size": [height, width], "semantic_channels": channels}
        print(json.dumps(facts | as_json(parts), indent=1))
    else:
        print(f"{cfg.model.name}, {height}x{width}, {channels} semantic channels\n")
        print(as_table(parts))


def size_of(key: str, value: Any) -> tuple[int, int]:
    """The value of a key as (height, width).

    Raises:
        UserError: it is none.
    """
    numbers = [n for n in value if isinstance(n, int) and n > 0] if OmegaConf.is_list(value) else []
    if len(numbers) != 2 or len(numbers) != len(value):
        raise UserError(f"{key}={value} is no [height,width] in pixels, as {key}=[1025,2049]")
    return numbers[0], numbers[1]


def categories_of(data: DictConfig | None) -> "Categories":
    """Classes of a data set; without one, Cityscapes'.

    Args:
        data: config of the data set; it is opened only if neither its config nor its class knows
            the classes.
    """
    from axialseg.build import build
    from axialseg.panoptic.categories import Categories
    from axialseg.panoptic.cityscapes_classes import CITYSCAPES

    if data is None:
        return CITYSCAPES
    dataset = data.val_dataset
    known = getattr(get_object(dataset._target_), "categories", None)
    if dataset.get("categories") is not None:
        categories: Categories = build(dataset.categories)
    elif isinstance(known, Categories):
        categories = known
    else:
        categories = build(dataset, root=data.root).categories
    return categories


def as_json(parts: list["PartCost"]) -> dict[str, Any]:
    """Totals, of which `not_run` is what the outputs do not need, and the parts."""
    from axialseg.complexity import total_cost

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
    from axialseg.complexity import total_cost

    rows = [("part", "parameters", "running statistics", "multiply-adds")]
    rows += [_row(part, "" if part.is_run else " (not run)") for part in parts]
    rows.append(_row(total_cost(parts), ""))
    running = [part for part in parts if part.is_run]
    if len(running) < len(parts):
        rows.append(_row(total_cost(running), " of what is run"))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _row(part: "PartCost", remark: str) -> tuple[str, str, str, str]:
    return (
        part.name + remark,
        f"{part.parameters:,}",
        f"{part.non_trainable_parameters:,}",
        f"{part.multiply_adds / 1e9:,.2f} G",
    )
