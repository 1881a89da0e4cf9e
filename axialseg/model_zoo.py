"""Models from Python: `axialseg.create_model`, `axialseg.load` and `axialseg.models`."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from axialseg.checkpoints.published import PublishedCheckpoint, published_checkpoints
from axialseg.config.check import nearest
from axialseg.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from axialseg.build import Classes
    from axialseg.inference.loaded_model import LoadedModel

log = logging.getLogger(__name__)

TABLE_PATH = Path(__file__).with_name("model_zoo.yaml")


class ModelInfo(NamedTuple):
    """One of the models.

    Attributes:
        name: what `create_model` takes.
        family: Axial-DeepLab, MaX-DeepLab, Panoptic-DeepLab or Axial-ResNet (a classifier).
        parameters: trainable ones, with the heads of COCO's 133 classes, or ImageNet's 1000.
        published_pq: data set -> best PQ in % that the authors' weights reach on its validation
            images, single scale.
        checkpoints: names of the published checkpoints, which `load` takes once they are fetched by
            `python -m axialseg download <name>`.
    """

    name: str
    family: str
    parameters: int
    published_pq: dict[str, float]
    checkpoints: tuple[str, ...]


def models() -> list[ModelInfo]:
    """All models of `conf/model/`."""
    published = published_checkpoints().values()
    found = []
    for name, row in yaml.safe_load(TABLE_PATH.read_text(encoding="utf-8")).items():
        own = [checkpoint for checkpoint in published if checkpoint.model == name]
        scores: dict[str, float] = {}
        for checkpoint in own:
            if checkpoint.pq is not None:
                scores[checkpoint.data] = max(checkpoint.pq, scores.get(checkpoint.data, 0.0))
        names = tuple(checkpoint.name for checkpoint in own if checkpoint.pq is not None)
        found.append(ModelInfo(name, row["family"], row["parameters"], scores, names))
    return found


def create_model(
    name: str,
    categories: "Classes | str | int | None" = None,
    checkpoint: str | Path | None = None,
) -> "nn.Module":
    """Builds a network with the shipped settings.

    Args:
        name: one of `models()`.
        categories: what the heads tell apart: the classes themselves; the name of a data set of
            `conf/data/`, as "coco" or "cityscapes"; or their number. None is COCO, or ImageNet for
            a classifier. By number, class ids count from 0, and a semantic head has no channel for
            void.
        checkpoint: weights to start from: a file, or a published name. Last layers of another
            number of classes, and parts that the checkpoint does not hold, keep their
            initialisation; what they are is logged. For trained weights as they are, see `load`.

    Returns:
        A plain module in training mode: image ``[B, 3, H, W]`` in 0..255, and optionally the valid
        pixels, bool ``[B, H, W]`` -> raw heads, or logits.

    Raises:
        UserError: there is no such model or data set, or the checkpoint does not fit.
    """
    from omegaconf import OmegaConf

    from axialseg.build import build_net, build_net_of_channels
    from axialseg.checkpoints.initial import load_initial_weights
    from axialseg.config.compose import compose_shipped

    _check_choice("model", name)
    model = OmegaConf.create(compose_shipped([f"model={name}"])["model"])
    if categories is None:
        categories = "coco" if model.targets else "imagenet"
    if isinstance(categories, int):
        net = build_net_of_channels(model, categories, categories + 1)
    else:
        classes = _classes_of(categories) if isinstance(categories, str) else categories
        _check_kind(name, model, classes)
        net = build_net(model, classes)
    if checkpoint is not None:
        log.info("%s", load_initial_weights(net, checkpoint))
    return net


def load(source: str | Path, trust: Collection[str] = ()) -> "LoadedModel":
    """Loads a trained network with all that belongs to it.

    Nothing but numbers and plain values is read, and nothing is downloaded. What a checkpoint says
    of its model is only built from parts that cannot run code of whoever wrote it.

    Args:
        source: folder of a run (its last checkpoint is taken), folder that `python -m axialseg
            share` has made, checkpoint file of a run, file that `python -m axialseg export` has
            written (its network is run by onnxruntime or PyTorch), or the name of a published
            checkpoint that was fetched.
        trust: packages, as "mypackage", that its model may be built of too; "torch.export" for
            `.pt2` files of your own.

    Raises:
        UserError: there is no such thing, it is damaged, it does not tell its model, or it names
            a package that is not trusted.
    """
    from omegaconf import OmegaConf

    from axialseg.build import build, build_net, build_postprocess
    from axialseg.checkpoints.initial import load_trained_weights
    from axialseg.inference.exported_net import ExportedNet, GivenMaps, is_exported, read_facts
    from axialseg.inference.loaded_model import LoadedModel

    path, config, categories = describe(source, trust)
    with _described_by(path):
        cfg = OmegaConf.create(config)
        net: nn.Module
        if is_exported(path):
            net = ExportedNet(path, read_facts(path), trust)
        else:
            net = build_net(cfg.model, categories)
        transform = build(cfg.data.eval_transform, crop_size=list(cfg.data.eval_size))
        postprocess = build_postprocess(cfg.model, categories)
        name = str(cfg.model.name)
    if isinstance(net, ExportedNet):
        step = net.step
        if net.has_maps and postprocess is not None:
            postprocess = GivenMaps(postprocess.ignore_class)
    else:
        step = load_trained_weights(net, path)
    return LoadedModel(name, net.eval(), categories, config, step, transform, postprocess)


def describe(
    source: str | Path, trust: Collection[str] = ()
) -> tuple[Path, dict[str, Any], "Classes"]:
    """What a trained network tells of itself, without building it.

    Args:
        source: as of `load`.
        trust: as of `load`.

    Returns:
        The file of its weights, its config (`model` and `data`), and its classes.

    Raises:
        UserError: as of `load`.
    """
    from omegaconf import OmegaConf

    from axialseg.build import build_classes
    from axialseg.checkpoints.model_folder import WEIGHTS, read_description
    from axialseg.checkpoints.own_weights import stored_run
    from axialseg.checkpoints.run_checkpoints import newest_checkpoint
    from axialseg.checkpoints.sources import find_source
    from axialseg.config.saved import accepted
    from axialseg.inference.exported_net import is_exported, read_facts

    path = Path(source).expanduser()
    if (path / ".hydra").is_dir():
        path = newest_checkpoint(path) or path / "checkpoints" / "last.ckpt"
    elif (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    published = None if path.exists() else published_checkpoints().get(str(source))
    path = path if path.exists() else find_source(source)
    classes = None
    if published is not None:
        config = _published_config(published)
    else:
        stored = read_facts(path) if is_exported(path) else read_description(path)
        classes = stored.get("classes")
        if not stored:
            stored, classes = stored_run(path)
        used = {key: stored.get(key) for key in ("model", "data")}
        config = accepted(used, str(path), trust)
    with _described_by(path):
        if classes is None:
            return path, config, build_classes(OmegaConf.create(config["data"]))
        return path, config, _from_plain(classes)


@contextmanager
def _described_by(path: Path) -> Iterator[None]:
    """What is built of a damaged description can raise anything; here it is a sentence.

    Args:
        path: of the description, for the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} does not describe a model that can be built ({type(error).__name__}: "
            f"{reason}); copy it again"
        ) from error


def _published_config(row: PublishedCheckpoint) -> dict[str, Any]:
    """Model and data as of the authors' evaluation."""
    from axialseg.config.compose import compose_shipped

    if row.pq is None:
        raise UserError(
            f"{row.name} holds a backbone alone; start from it by "
            f"axialseg.create_model({row.model!r}, checkpoint={row.name!r})"
        )
    overrides = [f"model={row.model}", f"data={row.data}"]
    if row.experiment:
        overrides.append(f"experiments={row.experiment}")
    return compose_shipped([*overrides, f"model.backbone.output_stride={row.output_stride}"])


def _classes_of(data: str) -> "Classes":
    """The classes of a data set of `conf/data/`."""
    from omegaconf import OmegaConf

    from axialseg.build import build_classes
    from axialseg.config.compose import compose_shipped

    _check_choice("data", data)
    node = OmegaConf.create(compose_shipped([f"data={data}", "schedule=coco"])["data"])
    try:
        return build_classes(node)
    except UserError as error:
        raise UserError(
            f"only its files tell the classes of {data} ({error}); give a Categories object or a "
            "number"
        ) from error


def _from_plain(plain: dict[str, Any]) -> "Classes":
    from axialseg.datasets.image_classes import ImageClasses
    from axialseg.panoptic.categories import Categories

    if "ids" in plain:
        return ImageClasses(tuple(plain["ids"]), tuple(plain["names"]))
    return Categories.from_plain(plain)


def _check_choice(group: str, name: str) -> None:
    from axialseg.config.mistakes import choices

    known = choices(group)
    if name not in known:
        raise UserError(f"there is no {group} {name!r}; {nearest(name, known)}")


def _check_kind(name: str, model: Any, classes: "Classes") -> None:
    from axialseg.panoptic.categories import Categories

    if isinstance(classes, Categories) != bool(model.targets):
        kind = "segments images" if model.targets else "classifies whole images"
        raise UserError(f"the model {name} {kind}; its classes cannot be those of the other kind")
