"""The typed top levels of the configuration, one for each command, and where its files lie.

Hydra refuses an unknown key or a value of the wrong type while it composes. The arguments of a
`_target_` node are checked against its constructor (`axialseg/config/check.py`). The values of the
two commands with many groups are in `conf/train.yaml` and `conf/evaluate.yaml`; the other commands
have theirs here. Nothing here imports torch.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from axialseg.config.parts import ModelConf, ScheduleConf, Target, TrainerConf


def conf_dir() -> Path:
    """The folder `conf/`: the checkout's, else the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if checkout.is_dir() else package / "conf"


def _self_and(*groups: Any) -> Callable[[], list[Any]]:
    """Makes the defaults list for Hydra: the values of the class, then those of the groups."""
    return lambda: ["_self_", *groups]


@dataclass
class TrainConf:
    """Top level of `conf/train.yaml`, whose comments explain the keys."""

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


# The settings of `python -m axialseg <command>`, whose `--help` has the usual ones.


@dataclass
class ConvertConf:
    """Settings of `convert` and `download`."""

    defaults: list[Any] = field(default_factory=_self_and({"model": None}))
    model: ModelConf = field(default_factory=ModelConf)  # that the checkpoint was made with


@dataclass
class AttentionConf(ConvertConf):
    """Settings of `attention`."""

    # saved_run: model and data of the checkpoint's run, from its composed config. A model is needed
    # where there is no run. Data say how pictures are prepared; null takes them as they are.
    defaults: list[Any] = field(
        default_factory=_self_and("saved_run", {"model": None}, {"data": None})
    )
    ckpt: str = MISSING  # a checkpoint as of `model.initial_checkpoint`
    data: Any = None
    image: str = MISSING  # a picture file
    query: list[int] = MISSING  # (y, x) of one of its pixels
    layer: str = MISSING  # name of an axial attention layer or of a block, or a part of it
    output: str = "attention.png"  # PNG file to write
    seed: int = 0
    # packages that the run's config may build objects of, see docs/running.md
    trust: list[str] = field(default_factory=list)


@dataclass
class PredictConf:
    """Settings of `predict`."""

    ckpt: str = MISSING  # folder of a run, its checkpoint, or a published name that was downloaded
    # a file, a folder with all its inner folders, a pattern such as a/*.jpg, or a video
    images: str = MISSING
    out: str = MISSING  # folder of the results
    things_only: bool = False  # leave out all stuff
    min_score: float = 0.0  # leave out segments with a lower score, 0..1
    scales: list[float] | None = None  # [0.5,1,2]: average the predictions at these scales
    flip: bool = False  # average the predictions for the mirrored image too
    tile: list[int] | None = None  # [H,W]: images keep their size and are cut into tiles
    batch: int = 1  # images at a time; neighbours of one size share a batch
    fold_batch_norms: bool = True  # faster, but the last digits may differ
    device: str = "auto"  # cpu, cuda or auto: cuda if there is one
    precision: str = "32"  # 32 or bf16
    trust: list[str] = field(default_factory=list)


@dataclass
class ShareConf:
    """Settings of `share`."""

    ckpt: str = MISSING  # folder of a run, its checkpoint, or a published name
    out: str = MISSING  # folder to write
    license: str = "other"  # license of the weights, as the Hugging Face hub names it
    push: str | None = None  # <user>/<name>: uploads the folder to the Hugging Face hub
    trust: list[str] = field(default_factory=list)


@dataclass
class ExportConf:
    """Settings of `export`."""

    ckpt: str = MISSING  # folder of a run, its checkpoint, or a published name
    out: str = MISSING  # file to write
    format: str = "onnx"  # onnx (.onnx), torch (.pt2, for torch.export.load) or safetensors
    # label maps come out of the graph too, not the heads alone
    postprocess: bool = False
    trust: list[str] = field(default_factory=list)


@dataclass
class DemoConf:
    """Settings of `demo`."""

    # folder of a run, its checkpoint, an exported file, or a published name
    ckpt: str = MISSING
    port: int = 7860  # of this machine; 0 takes a free one
    device: str = "auto"  # cpu, cuda or auto: cuda if there is one
    trust: list[str] = field(default_factory=list)


@dataclass
class ComplexityConf(ConvertConf):
    """Settings of `complexity`."""

    defaults: list[Any] = field(default_factory=_self_and({"model": MISSING}, {"data": None}))
    # whose classes the heads have; null is Cityscapes, 19 classes, or for a classifier 1000
    data: Any = None
    size: Any = "${model.input_size}"  # (height, width) of the images in pixels
    format: str = "table"  # table or json
    seed: int = 0


@dataclass
class BenchmarkConf(ComplexityConf):
    """Settings of `benchmark`; the optimiser of the schedule is the training step's."""

    defaults: list[Any] = field(
        default_factory=_self_and({"model": MISSING}, {"data": None}, {"schedule": "cityscapes"})
    )
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    batch: int = 1  # images at a time
    device: str = "auto"  # cpu, cuda or auto: cuda where there is one
    precision: str = "auto"  # 32-true, bf16-mixed or 16-mixed; auto is what training takes here
    compile: bool = False  # run the networks through torch.compile
    seconds: float = 20.0  # shortest time of each measurement


@dataclass
class MemoryConf(ConvertConf):
    """Settings of `memory`; the schedule is the recipe whose batch is to be reached."""

    defaults: list[Any] = field(
        default_factory=_self_and(
            {"model": MISSING},
            {"data": "cityscapes"},
            {"schedule": "${data}"},
            {"experiments": "none"},
        )
    )
    hydra: Any = field(default_factory=lambda: {"searchpath": ["file://${oc.env:AXIALSEG_ROOT}"]})
    data: Target = MISSING  # whose classes and crop are taken; no image is read
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    crop: Any = "${data.crop_size}"  # (height, width) of a training image in pixels
    gpu: str = "80GiB"  # memory of one device
    cpu: str | None = None  # of a machine that trains without a GPU, in place of `gpu`
    reserve: float = 0.1  # share of it for the driver, workspaces and fragmentation
    # bf16-mixed, 16-mixed or 32-true; null takes bf16-mixed, and 32-true with `cpu`
    precision: str | None = None
    # count a step with so many images too; null counts only the largest that fits
    batch: int | None = None
    masks: int = 50  # ground-truth masks of an image, for the losses that match masks
    format: str = "table"  # table or json
    seed: int = 0


@dataclass
class CheckDataConf:
    """Settings of `check-data`."""

    defaults: list[Any] = field(default_factory=_self_and({"data": MISSING}))
    data: Target = MISSING
    split: str = "all"  # train, val or all (both)
    workers: int | None = None  # processes that read images; null: one for each core
    samples: int = 12  # images of each split to show on the page
    output: str | None = None  # folder of the report; null: outputs/check_data/<data>
    seed: int = 0


@dataclass
class BenchmarkLoaderConf(ConvertConf):
    """Settings of `benchmark-loader`; of the model only the targets are made."""

    defaults: list[Any] = field(
        default_factory=_self_and({"model": "axial_hybrid_tiny"}, {"data": MISSING})
    )
    data: Target = MISSING
    batch_size: int = 4  # training images per batch
    images_per_second: float | None = None  # speed of the training; null shows some speeds
    devices: int = 1  # devices of the training; each has its own `data.num_workers`
    seconds: float = 15.0  # shortest time of each measurement
    seed: int = 0


# Settings of `import-data`. No dataclass, because `from` is a word of Python.
IMPORT_DATA = {
    # COCO instance JSON, or a folder: of label images, of labelme, of a CVAT or VOC export, of a
    # Roboflow export with its splits
    "from": MISSING,
    "to": MISSING,  # new folder; data=coco_format data.root=<folder> reads it
    "images": None,  # folder of the photographs, where they are not beside the annotation
    "instances": None,  # folder of instance images, beside a folder of label images
    "classes": None,  # of label images: .json, .csv, .txt (also CVAT's labelmap.txt), or voc
    "things": None,  # [names]: all that are things; null: see docs/data.md
    "split_things": True,  # of label images: each connected component is a thing; false: crowds
    "rest": "void",  # pixels without a shape: void, or the name of a stuff class
    # share of the images, drawn by the seed, where the source has no splits; 0: none
    "val_share": 0.1,
    "seed": 0,
}

# The values of the first two are in `conf/train.yaml` and `conf/evaluate.yaml`.
SCHEMAS: dict[str, Any] = {
    "train_schema": TrainConf,
    "evaluate_schema": EvaluateConf,
    "attention": AttentionConf,
    "benchmark": BenchmarkConf,
    "benchmark_loader": BenchmarkLoaderConf,
    "check_data": CheckDataConf,
    "complexity": ComplexityConf,
    "convert": ConvertConf,
    "demo": DemoConf,
    "export": ExportConf,
    "import_data": IMPORT_DATA,
    "memory": MemoryConf,
    "predict": PredictConf,
    "share": ShareConf,
}


def variants() -> dict[str, dict[str, Any]]:
    """The choices of `conf/variants.yaml`: group -> name -> content."""
    text = (conf_dir() / "variants.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def register_schemas() -> None:
    """Tells Hydra what has no file of its own: the top levels, the variants and the folder."""
    os.environ["AXIALSEG_ROOT"] = str(conf_dir().parent)  # for `hydra.searchpath`
    store = ConfigStore.instance().store
    for name, schema in SCHEMAS.items():
        store(name=name, node=schema)
    for group, entries in variants().items():
        for name, content in entries.items():
            store(group=group, name=name, node=content)
