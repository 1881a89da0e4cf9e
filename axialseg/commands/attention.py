"""`python -m axialseg attention`: what one pixel of a picture attends to, drawn over it."""

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.commands.saved_run import saved_run
from axialseg.config.trust import refuse_composed_names
from axialseg.errors import UserError

USAGE = (
    "python -m axialseg attention ckpt=<checkpoint> image=<file> query=[y,x] layer=<name> "
    "[output=attention.png] [model=<name>]"
)
SUMMARY = "Draws what one pixel of an image attends to."
EXAMPLES = (
    "python -m axialseg attention ckpt=last.ckpt image=a.jpg query=[4,6] layer=stage4.1",
    "python -m axialseg attention ckpt=best.ckpt image=a.jpg query=[4,6] layer=stage3.0",
    "python -m axialseg attention ckpt=best.ckpt image=a.jpg query=[4,6] layer=stem output=b.png",
)
KEPT_FROM_RUN = ("seed", "model", "data")


def main() -> None:
    """The command."""
    run_tool(attention, SUMMARY, USAGE, EXAMPLES)


def attention(arguments: list[str]) -> None:
    """Draws the attention of one pixel in one layer, or through both axes of one block.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting or file.
    """
    cfg = _config(arguments)

    if not Path(cfg.image).is_file():
        raise UserError(f"image={cfg.image} does not exist; correct its name")

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.build import build, build_net_of_channels
    from axialseg.checkpoints.initial import load_initial_weights
    from axialseg.datasets.image_file import read_rgb
    from axialseg.inference.explain import explain_attention

    image = read_rgb(Path(cfg.image))
    y, x = cfg.query
    transform = None
    if cfg.data is not None:
        transform = build(cfg.data.eval_transform, crop_size=list(cfg.data.eval_size))
    # To the attention the classes do not matter.
    net = build_net_of_channels(cfg.model, 1).eval()
    load_initial_weights(net, cfg.ckpt)
    found = explain_attention(net, transform, image, (y, x), cfg.layer, cfg.model.name)
    try:
        Path(cfg.output).parent.mkdir(parents=True, exist_ok=True)
        found.plot().savefig(cfg.output)
    except OSError as error:
        raise UserError(f"output={cfg.output} cannot be written ({error.strerror})") from error
    print(f"{found.layer} of {cfg.ckpt}\nwritten: {cfg.output}")


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
        raise UserError(f"query={list(cfg.query)} is not a pixel; give query=[y,x]")
    if not cfg.output.endswith(".png"):
        raise UserError(f"output={cfg.output} must end with .png")
    return cfg
