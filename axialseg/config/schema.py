"""The typed top level of the configuration, and where its files lie.

The values are in `conf/` and `experiments/`; here stand only names and types, so that Hydra
refuses an unknown key or a value of the wrong type while it composes. The arguments of a `_target_`
node are checked against its constructor (`axialseg/config/check.py`). Nothing here imports torch.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

# A node with `_target_`: its keys are the arguments of that class or function.
Target = dict[str, Any]


def conf_dir() -> Path:
    """The folder `conf/`: the checkout's, else the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "conf"


@dataclass
class ModelCallbacks:
    """Callbacks by their dotted names, because what there is to score and show is the method's."""

    evaluation: str = MISSING  # scores a validation and writes `metrics.json`
    images: str = MISSING  # draws predictions
    predictions: str = MISSING  # writes predictions in their official format
    # tells why a model fails, a callback with its settings; null where there is none
    diagnosis: Any = None


@dataclass
class ModelConf:
    """One network with all that belongs to it."""

    name: str = MISSING  # for pictures, tables and folders
    objective: str = MISSING  # key of `metrics.json` that sweeps maximise
    # (height, width) in pixels that costs are counted at unless another is named
    input_size: Any = MISSING
    # file, or published checkpoint, whose weights training starts from
    initial_checkpoint: str | None = None
    initial_backbone_only: bool = False  # take no more than the backbone from it
    # how axial attention is computed: `layer` and `formulation`, which the backbones refer to
    attention: Target | None = None
    backbone: Target = MISSING  # built first and handed to `net`
    net: Target = MISSING  # the whole network
    loss: Target = MISSING  # outputs + targets -> the loss of each image, and its terms
    # ground truth -> what the loss needs; null for classes of whole images
    targets: Target | None = None
    postprocess: Target | None = None  # heads -> panoptic map; null likewise
    task: Target = MISSING  # LightningModule that trains `net`
    # see `ModelCallbacks`; `conf/callbacks/` says with which settings
    callbacks: ModelCallbacks = field(default_factory=ModelCallbacks)


@dataclass
class ScheduleConf:
    """The recipe of the optimisation.

    Numbers that may be `auto` have no type here; `axialseg/config/auto.py` checks them.
    """

    # images per optimiser step, over all devices and accumulated batches
    batch_size: Any = MISSING
    lr: Any = MISSING  # base learning rate
    warmup_steps: Any = 0  # optimiser steps of the warm-up
    power: float = 0.9  # of the polynomial decay
    optimizer: Target = MISSING  # parameter groups -> optimiser (`_partial_: true`)
    parameter_groups: Target = MISSING  # network -> parameter groups (`_partial_: true`)
    curve: Target = MISSING  # optimiser step -> factor on the base learning rate


@dataclass
class TrainerConf:
    """Arguments of `lightning.pytorch.Trainer`, by its names; all others keep its defaults.

    As in `ScheduleConf`, numbers that may be `auto` have no type here.
    """

    accelerator: str = "auto"  # auto, cpu or gpu
    devices: Any = "auto"  # their number, a list of indices, or auto
    num_nodes: int = 1  # machines
    strategy: str = "auto"  # auto is one device, or ddp over several
    # 32-true, bf16-mixed, 16-mixed, ...; auto is 32-true on a CPU, else bf16-mixed, or 16-mixed
    # where the GPU has no bfloat16
    precision: str = "auto"
    max_steps: Any = -1  # optimiser steps of the whole training
    max_epochs: int = -1  # -1, because training counts in steps
    accumulate_grad_batches: Any = 1  # batches per optimiser step
    val_check_interval: Any = None  # optimiser steps between two validations
    check_val_every_n_epoch: int | None = None  # null, because the training data are endless
    num_sanity_val_steps: int = 0  # validation batches before training
    # training batches, a count; null is all, because a share of endless data is no number
    limit_train_batches: Any = None
    # validation batches; a count, or a share as a float; null is all
    limit_val_batches: Any = None
    # true, or a number: so many steps and validation batches, without loggers and checkpoints
    fast_dev_run: Any = False
    overfit_batches: Any = 0  # 0, because endless training data have no first batches to repeat
    gradient_clip_val: float | None = None  # largest norm of the gradient, null is no limit
    log_every_n_steps: int = 20  # optimiser steps between two logged values
    deterministic: bool = False  # true makes GPU runs repeatable bit for bit too, at some cost
    use_distributed_sampler: bool = False  # false, because our samplers know the ranks
    enable_progress_bar: bool = False  # Lightning's own; ours is a callback
    enable_model_summary: bool = False  # Lightning's table of the modules


# The top levels follow, one for each command. The comments in its YAML file explain the keys.


@dataclass
class TrainConf:
    """Top level of `conf/train.yaml`."""

    seed: int = 0
    resume: str | None = None
    compile: bool = False
    model: ModelConf = field(default_factory=ModelConf)
    data: Target = MISSING
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    logger: dict[str, Any] = field(default_factory=dict)  # name -> logger; null switches one off
    callbacks: dict[str, Any] = field(default_factory=dict)  # likewise
    trust: list[str] = field(default_factory=list)
    expected: dict[str, float] = field(default_factory=dict)  # metric -> what it should be


@dataclass
class EvaluateConf:
    """Top level of `conf/evaluate.yaml`; model, data and trainer come from the run."""

    run: str | None = None
    ckpt: str | None = None
    output: str = MISSING
    images: str | None = None
    predictions: str | None = None
    scales: list[float] | None = None
    flip: bool = False
    tile: list[int] | None = None
    tile_overlap: float = 0.25
    expected: dict[str, float] = field(default_factory=dict)
    tolerance: float | None = None
    fold_batch_norms: bool = False
    compile: bool = False
    seed: int = 0
    model: ModelConf = field(default_factory=ModelConf)
    data: Target = MISSING
    schedule: ScheduleConf | None = None
    trainer: TrainerConf = field(default_factory=TrainerConf)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class ConvertConf:
    """Top level of `conf/convert.yaml`."""

    model: ModelConf = field(default_factory=ModelConf)


@dataclass
class AttentionConf(ConvertConf):
    """Top level of `conf/attention.yaml`."""

    ckpt: str = MISSING
    data: Any = None
    image: str = MISSING
    query: list[int] = MISSING
    layer: str = MISSING
    output: str = "attention.png"
    seed: int = 0
    trust: list[str] = field(default_factory=list)


@dataclass
class PredictConf:
    """Top level of `conf/predict.yaml`."""

    ckpt: str = MISSING
    images: str = MISSING
    out: str = MISSING
    things_only: bool = False
    min_score: float = 0.0
    scales: list[float] | None = None
    flip: bool = False
    tile: list[int] | None = None
    batch: int = 1
    fold_batch_norms: bool = True
    device: str = "auto"
    precision: str = "32"
    trust: list[str] = field(default_factory=list)


@dataclass
class ShareConf:
    """Top level of `conf/share.yaml`."""

    ckpt: str = MISSING
    out: str = MISSING
    license: str = "other"
    trust: list[str] = field(default_factory=list)


@dataclass
class ExportConf:
    """Top level of `conf/export.yaml`."""

    ckpt: str = MISSING
    out: str = MISSING
    format: str = "onnx"
    trust: list[str] = field(default_factory=list)


@dataclass
class ComplexityConf(ConvertConf):
    """Top level of `conf/complexity.yaml`."""

    data: Any = None
    size: Any = MISSING
    format: str = "table"
    seed: int = 0


@dataclass
class BenchmarkConf(ComplexityConf):
    """Top level of `conf/benchmark.yaml`."""

    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    batch: int = 1
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    seconds: float = 20.0


@dataclass
class MemoryConf(ConvertConf):
    """Top level of `conf/memory.yaml`."""

    data: Target = MISSING
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    crop: Any = MISSING
    gpu: str = "80GiB"
    reserve: float = 0.1
    precision: str = "bf16-mixed"
    batch: int | None = None
    masks: int = 50
    format: str = "table"
    seed: int = 0


@dataclass
class CheckDataConf:
    """Top level of `conf/check_data.yaml`."""

    data: Target = MISSING
    split: str = "all"
    workers: int | None = None
    samples: int = 12
    output: str | None = None
    seed: int = 0


@dataclass
class BenchmarkLoaderConf(ConvertConf):
    """Top level of `conf/benchmark_loader.yaml`."""

    data: Target = MISSING
    batch_size: int = 4
    images_per_second: float | None = None
    devices: int = 1
    seconds: float = 15.0
    seed: int = 0


SCHEMAS = {
    "train": TrainConf,
    "evaluate": EvaluateConf,
    "convert": ConvertConf,
    "attention": AttentionConf,
    "predict": PredictConf,
    "share": ShareConf,
    "export": ExportConf,
    "complexity": ComplexityConf,
    "memory": MemoryConf,
    "check_data": CheckDataConf,
    "benchmark_loader": BenchmarkLoaderConf,
    "benchmark": BenchmarkConf,
}


def register_schemas() -> None:
    """Makes the typed top levels known to Hydra, and the project's folder to `hydra.searchpath`."""
    os.environ["AXIALSEG_ROOT"] = str(conf_dir().parent)
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
