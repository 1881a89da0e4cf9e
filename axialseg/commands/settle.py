"""Before training: chooses what is `auto`, and refuses or names what cannot work.

What was chosen is written into the run's composed config and beside it (`.hydra/chosen.yaml`). So
all ranks have the same numbers, and so does a run that goes on or is repeated on another machine.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from axialseg.checkpoints.saved_values import yaml_text
from axialseg.commands.doubts import name_doubts, name_idle_gpus, shared_batch
from axialseg.commands.scaled_rate import RATE, scaled_rate, scales_rate
from axialseg.config.auto import AUTO, open_settings, without_auto
from axialseg.errors import UserError
from axialseg.launch import is_launched_rank
from axialseg.machine.free_memory import free_memory, gpu_free_memory
from axialseg.machine.hardware import Hardware, cpu_count, resolve_hardware, started_rank

if TYPE_CHECKING:
    from axialseg.costs.fit import Room
    from axialseg.datasets.survey import Survey

log = logging.getLogger(__name__)

ACCUMULATED = "trainer.accumulate_grad_batches"
WEIGHTS = "model.loss.class_weights"
THING_LIMIT = "model.postprocess.thing_area_limit"
STUFF_LIMIT = "model.postprocess.stuff_area_limit"
CHOSEN = Path(".hydra") / "chosen.yaml"


def settle(cfg: DictConfig, folder: Path) -> None:
    """Replaces every `auto` in place, says what was chosen, and checks that training fits.

    Args:
        cfg: composed config, checked.
        folder: of the run.

    Raises:
        UserError: a step does not fit into the memory, or the data cannot be read.
    """
    if is_launched_rank():  # the process that started the ranks has done it
        return
    open_keys = _open_keys(cfg)
    missing: list[str] = []
    if open_keys:
        missing = _settle_open(cfg, open_keys, folder)
    hardware = resolve_hardware(cfg.trainer, cfg.schedule.batch_size)
    if started_rank(os.environ) == 0:
        if not missing:
            _Settler(cfg, hardware).check_memory()
        log.info("%s", shared_batch(cfg, hardware.world_size))
        name_doubts(cfg)
        name_idle_gpus(cfg, hardware)


def _settle_open(cfg: DictConfig, open_keys: list[str], folder: Path) -> list[str]:
    """Chooses, says and stores what is open; returns what was not stored before."""
    from filelock import FileLock

    speaks = started_rank(os.environ) == 0
    (folder / CHOSEN).parent.mkdir(parents=True, exist_ok=True)
    # Of ranks that srun or torchrun has started, the first one chooses.
    with FileLock((folder / CHOSEN).with_suffix(".lock")):
        # A scaled rate follows from the command line, whatever the run had before.
        kept = set(open_keys) - ({RATE} if scales_rate(cfg) else set())
        rows = [row for row in _stored(cfg.resume, folder) if row["key"] in kept]
        for row in rows:
            OmegaConf.update(cfg, row["key"], row["value"], merge=False)
        if not _can_share(cfg):  # a run that goes on on other devices
            rows = [row for row in rows if row["key"] != ACCUMULATED]
        missing = [key for key in open_keys if key not in {row["key"] for row in rows}]
        if missing:
            if speaks and set(missing) - {ACCUMULATED, RATE}:
                log.info("Looking at the images and the machine, to choose the recipe")
            batch = cfg.schedule.batch_size
            hardware = resolve_hardware(without_auto(cfg).trainer, None if batch == AUTO else batch)
            rows += _Settler(cfg, hardware).choose(missing)
        # That one pass is enough goes without saying, if nothing else was open.
        if speaks and (len(rows) > 1 or rows[0]["value"] != 1):
            lines = [f"  {row['key']}={_shown(row['value'])}  ({row['reason']})" for row in rows]
            log.info("Chosen for these data and this machine:\n%s", "\n".join(lines))
        OmegaConf.save(OmegaConf.create(rows), folder / CHOSEN)
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    return missing


class _Settler:
    """One run on its data and its machine; heavy things are imported and read when asked for."""

    def __init__(self, cfg: DictConfig, hardware: Hardware) -> None:
        self.cfg = cfg
        self.hardware = hardware
        self.is_gpu = hardware.accelerator == "gpu"
        self.ranks = hardware.world_size // cfg.trainer.num_nodes  # of this machine

    def choose(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Settles these keys in the config; a row with key, value and reason for each."""
        rows: list[dict[str, Any]] = []
        scales = RATE in keys and scales_rate(self.cfg)
        others = [key for key in keys if key != ACCUMULATED and not (scales and key == RATE)]
        if others:
            rows += self._by_rules(others)
        if scales:
            rows.append(scaled_rate(self.cfg))
            OmegaConf.update(self.cfg, RATE, rows[-1]["value"])
        if ACCUMULATED in keys:
            OmegaConf.update(self.cfg, ACCUMULATED, 1)
            accumulated, reason = self._accumulated()
            OmegaConf.update(self.cfg, ACCUMULATED, accumulated)
            rows.append({"key": ACCUMULATED, "value": accumulated, "reason": reason})
        else:
            self.check_memory()
        return rows

    def _by_rules(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        from axialseg.build import build_data
        from axialseg.config.auto import SETTINGS
        from axialseg.datasets.datamodule import PanopticDataModule
        from axialseg.datasets.inspection.inspector import void_findings
        from axialseg.datasets.survey import balanced_weights, survey
        from axialseg.recipes.own_data import choices

        datamodule = build_data(without_auto(self.cfg), batch_size=1)
        if not isinstance(datamodule, PanopticDataModule):
            raise UserError(f"{keys[0]} can be auto for panoptic data only; give a value")
        found = survey(datamodule.opened_train_dataset)
        self._name_caps(found)
        for finding in void_findings(found.void_share):
            log.warning("%s", finding.text)
        validated = 0 if datamodule.val_dataset is None else len(datamodule.val_dataset)
        facts = self._facts(found, found.images + validated)
        given = {
            key: OmegaConf.select(self.cfg, key, throw_on_missing=False)
            for key in SETTINGS
            if key not in keys
        }
        made = choices(facts, {key: _plain(value) for key, value in given.items()})
        rows = [choice._asdict() for choice in made if choice.key in keys]
        if WEIGHTS in keys:
            weights = balanced_weights(found.class_share)
            reason = "rare classes count more, by the inverse root of their share"
            rows.append({"key": WEIGHTS, "value": weights, "reason": reason})
        for row in rows:
            OmegaConf.update(self.cfg, row["key"], row["value"], merge=False)
        return rows

    def _name_caps(self, found: "Survey") -> None:
        """Says if an image holds more than the model can predict."""
        for key in ("model.net.slots", "model.postprocess.keep_centers"):
            most = OmegaConf.select(self.cfg, key)
            if most is not None and found.most_things > most:
                log.warning(
                    "An image holds %d things, and %s=%d finds no more than that; give more",
                    *(found.most_things, key, most),
                )

    def _facts(self, found: "Survey", images: int) -> Any:
        from axialseg.recipes.own_data import Facts

        return Facts(
            images=found.images,
            size=found.size,
            small_stuff=found.small_stuff,
            small_thing=found.small_thing,
            is_gpu=self.is_gpu,
            devices=self.hardware.world_size,
            cores=cpu_count(),
            parameters=self._parameters(),
            is_pretrained=self.cfg.model.initial_checkpoint is not None
            or bool(self.cfg.model.backbone.get("pretrained")),
            decoded_bytes=images * found.decoded_bytes,
            free_bytes=free_memory(),
        )

    def _parameters(self) -> int:
        from axialseg.build import build_net_on_meta

        # The heads' few channels more or less change no rule.
        net = build_net_on_meta(without_auto(self.cfg).model, 20)
        return sum(parameter.numel() for parameter in net.parameters())

    def check_memory(self) -> None:
        """Refuses a step that does not fit.

        Raises:
            UserError: with what would fit.
        """
        found = self._fit()
        if found is None or found.accumulated == 1:
            return
        images, crop = self._images(), _shape(self.cfg)
        needed, free = _gib(found.needed), _gib(found.free)
        lack = f"{images} images of {crop} need {needed} GiB, {free} are free"
        accumulated = self.cfg.trainer.accumulate_grad_batches
        if found.accumulated is None:
            raise UserError(
                f"{lack}, and one image does not fit either: give a smaller data.crop_size, or "
                "+model.backbone.activation_checkpointing=true"
            )
        raise UserError(f"{lack}: {ACCUMULATED}={accumulated * found.accumulated} fits")

    def _accumulated(self) -> tuple[int, str]:
        """The value, and why."""
        found = self._fit()
        images, crop = self._images(), _shape(self.cfg)
        if found is None:
            return 1, f"{images} images of {crop} are little for the free memory"
        if found.accumulated is None:
            self.check_memory()
        assert found.accumulated is not None
        needed, free = _gib(found.needed), _gib(found.free)
        return found.accumulated, f"{images} images of {crop} need {needed} GiB, {free} are free"

    def _images(self) -> int:
        """Of one rank and forward pass."""
        parts = self.hardware.world_size * self.cfg.trainer.accumulate_grad_batches
        return max(self.cfg.schedule.batch_size // parts, 1)

    def _fit(self) -> Any:
        """See `costs.fit.fit`; None where a step is too small to count, or the memory unknown."""
        room = self._room()
        crop = _crop(self.cfg)
        if room is None or crop is None:
            return None
        from axialseg.build import build_data
        from axialseg.costs.fit import MASKS, fake_sample, fake_step, fit, is_obviously_small

        if is_obviously_small(self._images(), crop, self._parameters(), room):
            return None
        if started_rank(os.environ) == 0:
            log.info("Counting the memory of a step, which takes up to a minute")
        cfg = without_auto(self.cfg)
        datamodule = build_data(cfg, batch_size=1)
        classes = datamodule.categories
        step = fake_step(cfg, classes, crop, self._counted_precision(), MASKS)
        room = room._replace(cached=_cached_bytes(cfg, datamodule))
        if not self.is_gpu:  # counting takes memory too, which this process keeps
            room = room._replace(free=free_memory() or room.free)
        sample = sum(array.nbytes for array in fake_sample(cfg, classes, crop).values())
        return fit(step, self._images(), room, sample)

    def _counted_precision(self) -> str:
        """The precision, or the nearest that the count knows."""
        from axialseg.costs.training_memory import AUTOCAST

        precision = self.hardware.precision
        return precision if precision in AUTOCAST else "32-true"

    def _room(self) -> "Room | None":
        from axialseg.costs.fit import Room

        free = gpu_free_memory(self.hardware.devices) if self.is_gpu else free_memory()
        if free is None:
            return None
        workers = OmegaConf.select(self.cfg, "data.num_workers") or 0
        return Room(free, self.is_gpu, self.ranks, workers, 0)


def _open_keys(cfg: DictConfig) -> list[str]:
    """What is to be chosen."""
    keys = open_settings(cfg)
    # Mask transformers have a limit for things too, which follows the images like that of stuff.
    named = [line.partition("=")[0].lstrip("+") for line in HydraConfig.get().overrides.task]
    has_limit = OmegaConf.select(cfg, THING_LIMIT) is not None
    if scales_rate(cfg):
        keys.append(RATE)
    if STUFF_LIMIT in keys and has_limit and THING_LIMIT not in [*named, *keys]:
        keys.append(THING_LIMIT)
    return keys


def _stored(resume: str | None, folder: Path) -> list[dict[str, Any]]:
    """What this run, or the one that it goes on from, has chosen before."""
    places = [folder]
    if resume is not None:
        path = Path(resume)
        places.insert(0, path if path.is_dir() else path.absolute().parent.parent)
    for place in places:
        if (place / CHOSEN).is_file():
            return _plain_rows(place / CHOSEN)
    return []


def _plain_rows(file: Path) -> list[dict[str, Any]]:
    """What a run has chosen: numbers, words and lists of them, or a stranger's file could build.

    Raises:
        UserError: the file is damaged or holds anything else.
    """
    try:
        rows: Any = yaml.safe_load(yaml_text(file))
        is_plain = all(
            set(row) == {"key", "value", "reason"} and _is_plain(row["value"]) for row in rows
        )
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError):
        is_plain = False
    if not is_plain:
        raise UserError(f"{file} does not hold what a run has chosen; copy it again, or delete it")
    return list(rows)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(member) for member in value)
    if isinstance(value, str):
        return "${" not in value
    return value is None or isinstance(value, int | float)


def _can_share(cfg: DictConfig) -> bool:
    """Whether the devices that are named can make up the batch in the passes that were stored."""
    batch, devices = cfg.schedule.batch_size, cfg.trainer.devices
    passes = cfg.trainer.accumulate_grad_batches
    if AUTO in (batch, passes) or not isinstance(devices, int) or devices < 1:
        return True
    return bool(batch % (devices * cfg.trainer.num_nodes * passes) == 0)


def _cached_bytes(cfg: DictConfig, datamodule: Any) -> int:
    """Of the images that the data module keeps, by the size of the first ones."""
    if not OmegaConf.select(cfg, "data.cache", default=False):
        return 0
    total = 0
    for dataset in (datamodule.opened_train_dataset, datamodule.val_dataset):
        if dataset is not None:
            samples = [dataset.read(place) for place in range(min(len(dataset), 8))]
            pixels = sum(sample.image.shape[0] * sample.image.shape[1] for sample in samples)
            total += pixels * (3 + 4) * len(dataset) // len(samples)  # RGB and int32 ids
    return total


def _plain(value: Any) -> Any:
    """Without OmegaConf's types."""
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _crop(cfg: DictConfig) -> tuple[int, int] | None:
    """(height, width) of a training image."""
    size = OmegaConf.select(cfg, "data.crop_size", throw_on_missing=False)
    return None if size is None or len(size) != 2 else (int(size[0]), int(size[1]))


def _shape(cfg: DictConfig) -> str:
    return "x".join(map(str, _crop(cfg) or ()))


def _gib(size: int) -> str:
    return f"{size / 2**30:.{0 if size >= 10 * 2**30 else 1}f}"


def _shown(value: Any) -> str:
    """As on the command line."""
    if value is None:
        return "null"
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)
