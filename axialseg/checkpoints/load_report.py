"""What of a file goes into a network, what does not, and why: decided before anything is loaded."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from axialseg.checkpoints.stored_weights import BACKBONE, StoredWeights, part_of
from axialseg.errors import UserError

STEM, STAGES = f"{BACKBONE}.stem", f"{BACKBONE}.stages"
SHOWN_DIFFERENCES = 3  # in a refusal
SHOWN_NAMES = 4  # of tensors that share a part and a reason, in a report

Shape = tuple[int, ...]


class LoadReport(NamedTuple):
    """Every tensor of a network and every entry of a file, each in one place.

    Attributes:
        source: The file.
        loaded: Our names of what is taken from the file.
        initialised: Our name of what keeps its initialisation -> why.
        left_out: Name in the file of what is not taken -> why.
    """

    source: str
    loaded: tuple[str, ...]
    initialised: dict[str, str]
    left_out: dict[str, str]

    def __str__(self) -> str:
        """Some lines of text; names are put together where there are many of a kind."""
        total = len(self.loaded) + len(self.initialised)
        counts = [f"{part} {len(names)}" for part, names in _by_part(self.loaded).items()]
        lines = [f"{self.source}: {len(self.loaded)} of the model's {total} tensors are loaded"]
        lines += [f"  loaded: {', '.join(counts)}"]
        lines += [f"  left at initialisation: {line}" for line in _lines(self.initialised)]
        lines += [f"  not taken from the file: {line}" for line in _lines(self.left_out)]
        return "\n".join(lines)


def compare(own: Mapping[str, Shape], stored: StoredWeights) -> LoadReport:
    """Decides what is loaded.

    A part (see `part_of`) of which the file holds nothing keeps its initialisation. All others must
    agree in every name and shape, but for two things, which keep their initialisation too: outside
    the backbone, the last layer may have another number of channels, because the file is of data
    with other classes; and the stem may be of another kind, because classifiers and segmentation
    models have different ones, and with it the layers that read the stem.

    Args:
        own: Shape of each tensor of the network that may be loaded; of some parts, or of all.
        stored: The file's content.

    Raises:
        UserError: The file is of another architecture; the message has the first differences.
    """
    parts = _by_part(own)
    strangers = {part: [n for n, p in stored.unknown.items() if p == part] for part in parts}
    # If no name is common, the stem is of another kind and not damaged.
    stem = [name for name in parts.get(STEM, ()) if name in stored.tensors]
    is_other_stem = not stem and bool(strangers.get(STEM))
    initialised: dict[str, str] = {}
    left_out: dict[str, str] = {}
    differences: dict[str, list[str]] = {}
    for part, names in parts.items():
        found = {name: stored.tensors[name].shape for name in names if name in stored.tensors}
        if not found and not strangers[part]:
            initialised |= dict.fromkeys(names, "nothing of it is in the file")
            continue
        if part == STEM and is_other_stem:
            initialised |= dict.fromkeys(names, "the file has another kind of stem")
            left_out |= dict.fromkeys(strangers[part], "another kind of stem")
            continue
        wrong = {name: found.get(name) for name in names if found.get(name) != own[name]}
        if part == STAGES and is_other_stem:
            for name in [n for n in wrong if _reads_stem(n, names[0], own[n], wrong[n])]:
                initialised[name] = "it reads the stem, which is of another kind in the file"
                left_out[stored.tensors[name].file_name] = "it reads another kind of stem"
                del wrong[name]
        if not strangers[part] and _is_last_layer(part, own, wrong):
            for name, shape in wrong.items():
                reason = f"{_text(shape)} in the file, {_text(own[name])} in the model"
                initialised[name] = f"another number of classes, {reason}"
                left_out[stored.tensors[name].file_name] = "another number of classes"
        elif wrong or strangers[part]:
            differences[part] = [
                *(_difference(name, stored, own) for name in wrong),
                *(f"{name} is only in the file" for name in strangers[part]),
            ]
    if differences or len(initialised) == len(own):
        raise UserError(_refusal(stored, differences))

    for name, tensor in stored.tensors.items():
        if name not in own:
            left_out[tensor.file_name] = "not asked for"
    for name, where in stored.unknown.items():
        if where not in parts:
            left_out[name] = "not asked for" if where else "the model has no such part"
    loaded = tuple(name for name in own if name not in initialised)
    return LoadReport(stored.source, loaded, initialised, left_out | stored.skipped)


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    others = len(names) - SHOWN_DIFFERENCES
    return ", ".join(names[:SHOWN_DIFFERENCES]) + (f" and {others} more" if others > 0 else "")


def _is_last_layer(part: str, own: Mapping[str, Shape], wrong: Mapping[str, Shape | None]) -> bool:
    """Whether all that differs is the number of channels of one layer with nothing behind it.

    Behind any other layer comes at least a batch norm, which would differ with it. Equal blocks may
    each have such a layer: kMaX-DeepLab's k-means layers tell classes too.
    """
    layers = {name.rpartition(".")[0] for name in wrong}
    return (
        len({layer.rpartition(".")[2] for layer in layers}) == 1
        and not part.startswith(BACKBONE)
        and all(shape is not None and shape[1:] == own[n][1:] for n, shape in wrong.items())
        and not any(n.rpartition(".")[0] in layers and n not in wrong for n in own)
    )


def _reads_stem(name: str, first: str, own: Shape, found: Shape | None) -> bool:
    """Whether a tensor is a kernel of the first block that differs in its input channels alone.

    Args:
        name: of the tensor.
        first: name of the stages' first tensor, which is in that block.
        own: shape in the network.
        found: shape in the file, None if it is not there.
    """
    block = ".".join(first.split(".")[:4])
    return (
        found is not None
        and name.startswith(f"{block}.")
        and len(own) == len(found) == 4
        and (own[0], *own[2:]) == (found[0], *found[2:])
    )


def _difference(name: str, stored: StoredWeights, own: Mapping[str, Shape]) -> str:
    tensor = stored.tensors.get(name)
    if tensor is None:
        return f"{name} is not in the file"
    return f"{name} is {_text(tensor.shape)} in the file but {_text(own[name])} in the model"


def _refusal(stored: StoredWeights, differences: Mapping[str, list[str]]) -> str:
    if not differences:
        names = [*stored.tensors, *stored.unknown]
        return (
            f"{stored.source} holds nothing of this model (its first names are {listed(names)}); "
            "choose the model that it was made with"
        )
    sentences = [sentence for part in differences.values() for sentence in part]
    cure = "choose the model that it was made with"
    if not any(part.startswith(BACKBONE) for part in differences):
        cure += ", or take the backbone alone with model.initial_backbone_only=true"
    return f"{stored.source} is of another architecture than the model: {listed(sentences)}; {cure}"


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)
    return parts


def _lines(reasons: Mapping[str, str]) -> Iterator[str]:
    """For each reason, its names, or their number where they are many."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        if len(names) <= SHOWN_NAMES:
            yield f"{', '.join(names)} ({reason})"
        else:
            parts = [f"{part} {len(members)}" for part, members in _by_first(names).items()]
            yield f"{len(names)} tensors ({reason}): {', '.join(parts)}"


def _by_first(names: Iterable[str]) -> dict[str, list[str]]:
    """By the first words of dotted names or paths."""
    groups: dict[str, list[str]] = {}
    for name in names:
        first = name.split("/")[0] if "/" in name else part_of(name)
        groups.setdefault(first, []).append(name)
    return groups


def _text(shape: Shape | None) -> str:
    return str(list(shape or ()))
