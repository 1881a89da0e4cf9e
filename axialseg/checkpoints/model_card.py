"""The text that tells others what a trained model is: the card of the Hugging Face hub."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from axialseg.errors import UserError

# Settings that tell of the machine or of folders, not of the result.
OF_THE_MACHINE = ("data.root", "hydra", "hardware", "logger", "resume")
NO_SCORES = ("step", "images")
LICENCES = {
    "coco": "COCO's annotations are CC BY 4.0; its images have the terms of Flickr.",
    "cityscapes": "Cityscapes may be used for non-commercial purposes only.",
    "imagenet": "ImageNet may be used for non-commercial research only.",
    "mapillary_vistas": "Mapillary Vistas' research edition is CC BY-NC-SA 4.0.",
}
AUTHORS = (
    "They are the weights of deeplab2's authors (github.com/google-research/deeplab2, {source}) in "
    "another file format; their code is Apache-2.0, and its README names no other licence."
)


class RunFacts(NamedTuple):
    """What a run's folder tells of its training.

    Attributes:
        data: name of the data set; empty if unknown.
        source: page of deeplab2 that publishes the weights; empty if they are others'.
        overrides: of the command line that trained; None if unknown.
        scores: of a validation of these very weights, by name, in per cent; empty if there is none.
        score_command: what gave them.
        images: number of images that were scored.
        pictures: of predictions.
    """

    data: str = ""
    source: str = ""
    overrides: tuple[str, ...] | None = None
    scores: Mapping[str, float] = {}
    score_command: str = ""
    images: int = 0
    pictures: tuple[Path, ...] = ()


def facts_of_run(folder: Path, step: int) -> RunFacts:
    """Reads the folder of a run.

    Args:
        folder: with `.hydra/`.
        step: of the weights; scores of other steps are left out.

    Raises:
        UserError: a file in it is damaged.
    """
    overrides = tuple(_read(folder / ".hydra" / "overrides.yaml", yaml.safe_load) or ())
    choices = _read(folder / ".hydra" / "hydra.yaml", yaml.safe_load) or {}
    for key in ("hydra", "runtime", "choices"):
        choices = choices.get(key) or {}
    data = str(choices.get("data", ""))
    for place, command in (
        (folder / "evaluation", "axialseg-evaluate run=<folder of the run>"),
        (folder, "axialseg-train, in its last validation"),
    ):
        record = _read(place / "metrics.json", json.loads) or {}
        if record.get("step") == step:
            scores = {
                name: float(value)
                for name, value in record.items()
                if isinstance(value, int | float) and name not in NO_SCORES
            }
            pictures = sorted((place / "images").rglob("*.png"))[-3:]
            images = record.get("images", 0)
            return RunFacts(data, "", overrides, scores, command, images, tuple(pictures))
    return RunFacts(data, overrides=overrides)


def model_card(
    name: str,
    segments: bool,
    step: int,
    parameters: int,
    classes: Sequence[str],
    facts: RunFacts,
    licence: str,
) -> str:
    """The text of `README.md`.

    Args:
        name: of the model.
        segments: whether it segments images; else it classifies them.
        step: optimiser steps behind the weights.
        parameters: their number.
        classes: names.
        facts: of the run.
        licence: of the weights, in the hub's words.
    """
    head = {
        "library_name": "axialseg",
        "pipeline_tag": "image-segmentation" if segments else "image-classification",
        "tags": ["axial-attention", name],
        "datasets": [facts.data or "unknown"],
        "license": licence,
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}, trained on {facts.data or 'data that it does not name'}",
        f"{parameters:,} weights after {step:,} optimiser steps; {len(classes)} classes: "
        f"{', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}.",
        "## Use\n\n```python\nimport axialseg\n\n"
        'model = axialseg.load("<this folder>")\nmodel.predict("photo.jpg").plot()\n```\n\n'
        "    axialseg predict ckpt=<this folder> images=<file or folder> out=<folder>",
    ]
    if facts.overrides is not None:
        kept = [line for line in facts.overrides if not _is_of_machine(line)]
        sections.append("## Training\n\n    " + shlex.join(["axialseg-train", *kept]))
    if facts.scores:
        rows = "\n".join(f"| {key} | {value:.1f} |" for key, value in facts.scores.items())
        sections.append(
            f"## Scores\n\n{facts.images:,} images, scored by `{facts.score_command}`, in per cent:"
            f"\n\n| metric | value |\n|---|---|\n{rows}"
        )
    if facts.pictures:
        shown = "\n\n".join(f"![prediction](images/{path.name})" for path in facts.pictures)
        sections.append(f"## Pictures\n\n{shown}")
    note = LICENCES.get(facts.data, "Look at the terms of the data that it was trained on.")
    if facts.source:
        note = f"{AUTHORS.format(source=facts.source)} {note}"
    sections.append(
        f"## Licence\n\nOf these weights: {licence}. {note} The code of axialseg is Apache-2.0."
    )
    return "\n\n".join(sections) + "\n"


def _is_of_machine(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    return any(key == name or key.startswith(f"{name}.") for name in OF_THE_MACHINE)


def _read(path: Path, parse: Any) -> Any:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it or copy it again") from None
