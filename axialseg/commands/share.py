"""`python -m axialseg share`: a trained model as a folder for others, with its model card."""

from pathlib import Path

from axialseg.checkpoints.hub import check_hub, upload
from axialseg.commands.command_line import compose_config, run_tool
from axialseg.errors import UserError

USAGE = (
    "python -m axialseg share ckpt=<run, checkpoint or published name> out=<folder> "
    "[license=other] [push=<user>/<name>]"
)
SUMMARY = "Writes a folder with weights, config and model card, to give a model to others."
EXAMPLES = (
    "python -m axialseg share ckpt=outputs/my_run out=my_model",
    "python -m axialseg share ckpt=outputs/my_run/checkpoints/best.ckpt out=my_model",
    "python -m axialseg share ckpt=outputs/my_run out=my_model license=cc-by-4.0 push=me/my_model",
)


def main() -> None:
    """The command."""
    run_tool(share, SUMMARY, USAGE, EXAMPLES)


def share(arguments: list[str]) -> None:
    """Writes weights, config and model card in the layout of the Hugging Face hub.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, or the model cannot be read, written or uploaded.
    """
    cfg = compose_config("share", arguments)
    if cfg.push is not None:
        check_hub(cfg.push)

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from dataclasses import asdict

    from axialseg.checkpoints.model_card import RunFacts, facts_of_run, model_card
    from axialseg.checkpoints.model_folder import CARD, without_places, write_model_folder
    from axialseg.checkpoints.published import published_checkpoints
    from axialseg.inference.exported_net import is_exported
    from axialseg.model_zoo import load
    from axialseg.panoptic.categories import Categories

    if is_exported(cfg.ckpt):
        raise UserError(f"{cfg.ckpt} holds a graph; give the run or its checkpoint")
    model = load(cfg.ckpt, cfg.trust)
    run = _run_folder(Path(cfg.ckpt))
    published = published_checkpoints().get(cfg.ckpt)
    facts = RunFacts(data=published.data, source=published.source) if published else RunFacts()
    if run is not None:
        facts = facts_of_run(run, model.step)
    classes = model.categories
    segments = isinstance(classes, Categories)
    names = [c.name for c in classes.classes] if isinstance(classes, Categories) else classes.names
    card = model_card(
        model.name,
        segments,
        model.step,
        sum(values.numel() for values in model.net.parameters()),
        names,
        facts,
        cfg.license,
    )
    description = {**without_places(model.config), "classes": asdict(classes)}
    folder = Path(cfg.out)
    write_model_folder(
        folder, model.net.state_dict(), model.step, description, card, facts.pictures
    )
    print(f"written: {folder}\nto open it:     axialseg.load({str(folder)!r})")
    if cfg.push is not None:
        print(f"uploaded:       {upload(folder, cfg.push)}    # a new one is private")
    else:
        print(f"to publish it:  read {folder / CARD}, then say push=<user>/<name> too")


def _run_folder(checkpoint: Path) -> Path | None:
    """The run that is meant, or in whose folder the checkpoint lies."""
    for folder in (checkpoint, checkpoint.absolute().parent.parent):
        if (folder / ".hydra").is_dir():
            return folder
    return None
