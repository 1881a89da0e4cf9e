"""The typed parts of the configuration: model, schedule and trainer.

The values are in `conf/` and `experiments/`. What all panoptic models have in common stands here.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# A node with `_target_`: its keys are the arguments of that class or function.
Target = dict[str, Any]


@dataclass
class ModelCallbacks:
    """The callbacks that depend on the kind of task; the values are for panoptic segmentation.

    `conf/callbacks/` refers to the dotted names and adds settings.
    """

    # scores a validation and writes `metrics.json`
    evaluation: str = "axialseg.callbacks.panoptic_evaluation.PanopticEvaluation"
    images: str = "axialseg.callbacks.panoptic_images.PanopticImages"  # draws predictions
    # writes predictions in their official format
    predictions: str = "axialseg.callbacks.official_predictions.OfficialPredictions"
    # tells why a model fails, a callback with its settings; null where there is none
    diagnosis: Any = field(
        default_factory=lambda: {"_target_": "axialseg.callbacks.diagnosis.Diagnosis"}
    )


@dataclass
class ModelConf:
    """One network with all that belongs to it."""

    name: str = MISSING  # for pictures, tables and folders
    objective: str = "PQ"  # key of `metrics.json` that sweeps maximise
    # (height, width) in pixels at which costs are counted by default; here that of Cityscapes
    input_size: Any = field(default_factory=lambda: [1025, 2049])
    # where training starts from: .ckpt, .safetensors, .pth, a TensorFlow checkpoint (prefix,
    # folder, .tar.gz) or the name of a published one
    initial_checkpoint: str | None = None
    # true takes the backbone only: no decoders, no heads, no classifier
    initial_backbone_only: bool = False
    # how axial attention is computed: `layer` and `formulation`, which the backbones refer to
    attention: Target | None = None
    backbone: Target = MISSING  # built first and handed to `net`
    net: Target = MISSING  # the whole network
    loss: Target = MISSING  # outputs + targets -> the loss of each image, and its terms
    # ground truth -> what the loss needs; null for classes of whole images
    targets: Target | None = None
    postprocess: Target | None = None  # heads -> panoptic map; null likewise
    task: Target = MISSING  # LightningModule that trains `net`
    callbacks: ModelCallbacks = field(default_factory=ModelCallbacks)


@dataclass
class ScheduleConf:
    """The recipe of the optimisation.

    Numbers that may be `auto` have no type here; `axialseg/config/auto.py` checks them.
    """

    # images per optimiser step, over all devices and accumulated batches
    batch_size: Any = MISSING
    lr: Any = MISSING  # base learning rate
    scale_lr: bool = False  # multiply it by batch_size over the recipe's batch
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
