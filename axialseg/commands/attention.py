"""`python -m axialseg attention`: what one pixel of a picture attends to, drawn over it."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.commands.saved_run import saved_run
from axialseg.config.trust import refuse_composed_names
from axialseg.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from axialseg.layers.axial_attention import AxialAttention
    from axialseg.visualization.attention import AttentionPanel

USAGE = (
    "python -m axialseg attention ckpt=<checkpoint> image=<file> query=[y,x] layer=<name> "
    "[output=attention.png] [model=<name>]"
)
KEPT_FROM_RUN = ("seed", "model", "data")
SHOWN_LAYERS = 12


def main() -> None:
    """The command."""
    run_tool(attention, USAGE)


def attention(arguments: list[str]) -> None:
    """Draws the attention of one pixel in one layer, or through both axes of one block.

    Args:
        arguments: overrides of `conf/attention.yaml`.

    Raises:
        UserError: a wrong setting or file.
    """
    cfg = _config(arguments)

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    import torch

    from axialseg.build import build_net_of_channels
    from axialseg.checkpoints.initial import load_initial_weights
    from axialseg.inference.attention_maps import axial_layers, record_attention
    from axialseg.visualization.attention import attention_figure

    image, valid, query = _prepared_image(cfg)
    # To the attention the classes do not matter.
    net = build_net_of_channels(cfg.model, 1).eval()
    load_initial_weights(net, cfg.ckpt)
    layers = axial_layers(net)
    names = find_layers(layers, cfg.layer)
    with torch.inference_mode(), record_attention(net, names) as maps:
        # All of the network: MaX-DeepLab's memory changes what its backbone's blocks see.
        net(torch.tensor(image).permute(2, 0, 1)[None], torch.tensor(valid)[None])
    missing = [name for name in names if name not in maps]
    if missing:
        raise UserError(f"layer={missing[0]} is not run by this model; name another one")
    panels = _panels({layers[name]: maps[name] for name in names}, query, image)
    common = names[0] if len(names) == 1 else names[0].rpartition(".")[0]
    figure = attention_figure(image, query, panels, f"{cfg.model.name}: {common}")
    try:
        Path(cfg.output).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(cfg.output)
    except OSError as error:
        raise UserError(f"output={cfg.output} cannot be written ({error.strerror})") from error
    print(f"{common} of {cfg.ckpt}\nwritten: {cfg.output}")


def find_layers(layers: Iterable[str], wanted: str) -> list[str]:
    """The layer that is meant, or the height-axis and width-axis layers of the block.

    Args:
        layers: names of all axial attention layers.
        wanted: whole words of such a name, one after the other.

    Raises:
        UserError: there is none, or there are several.
    """
    layers = list(layers)
    found = [name for name in layers if f".{wanted}." in f".{name}."]
    if len(found) == 1 or len({name.rpartition(".")[0] for name in found}) == 1:
        return found
    if not layers:
        raise UserError("this model has no axial attention; choose one that has")
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in found or layers))
    listed = ", ".join(blocks[:SHOWN_LAYERS]) + (", ..." if len(blocks) > SHOWN_LAYERS else "")
    what = "stands for several layers" if found else "is no layer of this model"
    raise UserError(
        f"layer={wanted} {what}; name one of {listed}, or .height_axis or .width_axis below it"
    )


def _config(arguments: list[str]) -> DictConfig:
    folder, saved = saved_run(arguments, KEPT_FROM_RUN)
    ConfigStore.instance().store(name="saved_run", node=saved)
    named = {line.partition("=")[0] for line in arguments}
    if folder is None and "ckpt" in named and "model" not in named:
        raise UserError("ckpt= does not lie in the folder of a run; name its model=... too")
    cfg = compose_config("attention", arguments)
    if folder is not None:
        refuse_composed_names(cfg, cfg.trust, str(folder))
    if len(cfg.query) != 2:
        raise UserError(f"query={list(cfg.query)} is no pixel; give query=[y,x]")
    if not cfg.output.endswith(".png"):
        raise UserError(f"output={cfg.output} must end with .png")
    return cfg


def _prepared_image(
    cfg: DictConfig,
) -> "tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[int, int]]":
    """The picture as the network sees it in evaluation, its valid pixels, and the query in it."""
    import numpy as np

    from axialseg.build import build
    from axialseg.datasets.classification_transforms import CenterCrop
    from axialseg.datasets.image_file import read_rgb

    if not Path(cfg.image).is_file():
        raise UserError(f"image={cfg.image} does not exist; correct its name")
    image = read_rgb(Path(cfg.image))
    height, width = image.shape[:2]
    y, x = cfg.query
    if not (0 <= y < height and 0 <= x < width):
        raise UserError(
            f"query=[{y},{x}] lies outside {cfg.image}, which has {height} rows and {width} columns"
        )
    if cfg.data is None:
        return image, np.ones((height, width), bool), (y, x)
    transform = build(cfg.data.eval_transform, crop_size=list(cfg.data.eval_size))
    if isinstance(transform, CenterCrop):
        shown, (row, column) = transform(image), transform.place(height, width, (y, x))
        if not (0 <= row < transform.height and 0 <= column < transform.width):
            raise UserError(
                f"query=[{y},{x}] lies outside the middle of {cfg.image}, which is all that a "
                "classifier sees; name another pixel"
            )
        return shown, np.ones(shown.shape[:2], bool), (row, column)
    prepared, (new_height, new_width) = transform(image)
    y = round(y * (new_height - 1) / max(height - 1, 1))
    x = round(x * (new_width - 1) / max(width - 1, 1))
    return prepared.image, prepared.valid, (y, x)


def _panels(
    maps: "dict[AxialAttention, Tensor]", query: tuple[int, int], image: "NDArray[np.uint8]"
) -> "list[AttentionPanel]":
    """One map for each layer, and one for both axes together."""
    from axialseg.inference.attention_maps import FeatureGrid, axis_attention, block_attention
    from axialseg.visualization.attention import AttentionPanel

    panels = []
    for layer, weights in maps.items():
        grid = FeatureGrid.of(weights, layer.axis, image.shape[:2])
        attended = axis_attention(weights, layer.axis, grid.position(query))
        panels.append(AttentionPanel(f"{layer.axis} axis", attended.numpy(), grid.strides))
    if len(maps) == 2:
        height, width = maps.values()
        grid = FeatureGrid.of(height, "height", image.shape[:2])
        attended = block_attention(height, width, grid.position(query))
        panels.append(
            AttentionPanel("height axis, then width axis", attended.numpy(), grid.strides)
        )
    return panels
