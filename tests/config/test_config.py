"""The groups compose in the documented order, and every mistake is answered by its sentence."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from terminal import unwrapped

from axialseg.commands import evaluate, train
from axialseg.commands.command_line import check_command_line
from axialseg.config.mistakes import choices
from axialseg.config.parts import TrainerConf
from axialseg.config.schema import conf_dir, register_schemas, variants

Refusal = Callable[[Callable[[], None], list[str]], str]

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 2.0


def composed(*overrides: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(overrides))


ALL_CHOICES = [
    f"{group}={choice}"
    for group in ("model", "data", "schedule", "hardware", "logger", "callbacks", "experiments")
    for choice in choices(group)
    if (group, choice) not in {("schedule", "base"), ("schedule", "deeplab")}  # no recipes
]


def test_a_variant_is_in_a_group_of_files_and_in_no_file() -> None:
    for group, entries in variants().items():
        files = {file.stem for file in (conf_dir() / group).glob("*.yaml")}
        assert files
        assert not files & set(entries)
        assert set(entries) < set(choices(group))


def test_a_variant_means_what_a_file_of_its_name_would(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = composed("model=axial_deeplab_s", "model/backbone=axial_resnet_26_m")
    for group, name in (("model", "axial_deeplab_s"), ("model/backbone", "axial_resnet_26_m")):
        OmegaConf.save(variants()[group][name], project / "conf" / group / f"{name}.yaml")
        place = ConfigStore.instance().repo
        for part in group.split("/"):
            place = place[part]
        monkeypatch.delitem(place, f"{name}.yaml")
    with initialize_config_dir(str(project / "conf"), version_base="1.3"):
        line = ["model=axial_deeplab_s", "model/backbone=axial_resnet_26_m"]
        assert compose("train", line) == before
    assert (before.model.backbone.width, before.model.backbone.stage_blocks[2]) == (0.75, 4)


CLASSIFICATION_DATA = ("data=imagenet", "data=patterns")


@pytest.mark.parametrize("choice", ALL_CHOICES)
def test_each_choice_composes_and_is_right(choice: str) -> None:
    extra = ["schedule=coco"] if choice.startswith("data=") else []
    extra += ["model=axial_resnet_tiny"] if choice in CLASSIFICATION_DATA else []
    extra += ["data=patterns"] if re.match("model=.*_resnet_", choice) else []
    extra += ["data.root=somewhere"] if choice == "data=coco_format" else []
    extra += ["callbacks=default"] if choice == "callbacks=evaluation" else []
    train.check_training(composed(choice, *extra))


@pytest.mark.parametrize("backbone", choices("model/backbone"))
def test_each_backbone_composes(backbone: str) -> None:
    train.check_training(composed(f"model/backbone={backbone}"))


@pytest.mark.parametrize("stem", choices("model/stem"))
def test_each_stem_composes(stem: str) -> None:
    stem = f"model/stem@model.backbone.stem={stem}"
    train.check_training(composed("model=axial_deeplab_s", stem))
    cfg = composed("model=axial_resnet_50_s", "data=imagenet", stem)
    train.check_training(cfg)
    assert set(cfg.model.backbone.stem) >= {"_target_", "channels"}


def test_attention_is_a_choice_for_each_model() -> None:
    for model, attention in zip(choices("model"), cycle(choices("model/attention"))):
        data = "patterns" if "_resnet_" in model else "shapes"
        cfg = composed(f"model={model}", f"data={data}", f"model/attention={attention}")
        train.check_training(cfg)
        if "attention_2d" in cfg.model.backbone:  # in windows
            continue
        layer = cfg.model.backbone.attention
        assert layer._target_ == cfg.model.attention.layer
        assert layer.formulation == cfg.model.attention.formulation


def test_attention_of_a_model_without_changes_nothing_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["model=panoptic_deeplab_resnet50", "model/attention=reference"]
    assert command_line_check(arguments, capsys) == (
        "note: model/attention=reference changes nothing, because panoptic_deeplab_resnet50 has no "
        "axial attention\n"
    )
    assert command_line_check([*arguments, "model.backbone.attention_stages=[5]"], capsys) == ""


def command_line_check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What checking the command line of `train.py` prints on stderr."""
    register_schemas()
    args = get_args_parser().parse_args(arguments)
    check_command_line("train", args, train.check_training)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "examples"), [(train.main, "train.py"), (evaluate.main, "evaluate.py")]
)
def test_help_is_one_screen_of_examples_and_groups(
    main: Callable[[], None],
    examples: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    with suppress(SystemExit):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    count = {"train.py": 3, "evaluate.py": 4}[examples]
    assert sum(line.startswith(f"  python {examples}") for line in lines) == count
    groups = {line.split()[0] for line in lines if line.startswith("  ")}
    shown = {"model", "model/attention", "data", "hardware", "logger", "callbacks"}
    if examples == "train.py":
        # A model's file chooses its base; `tta` is for evaluations.
        shown = set(GROUPS) - {"model/base", "tta"}
    assert groups >= shown


GROUPS = sorted(
    str(folder.relative_to(conf_dir()))
    for folder in conf_dir().rglob("*")
    if folder.is_dir() and any(folder.glob("*.yaml")) and "hydra" not in folder.parts
)


def test_the_readme_of_conf_names_each_group_once() -> None:
    text = (conf_dir() / "README.md").read_text()
    named = re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)
    assert sorted(named) == sorted([*GROUPS, "experiments", "hydra/help", "hydra/job_logging"])


def test_imagenet_command_composes() -> None:
    cfg = composed("model=axial_resnet_50_s", "data=imagenet", "trainer.devices=8")
    train.check_training(cfg)
    assert (cfg.model.objective, cfg.model.loss.label_smoothing) == ("top1", 0.1)
    assert (cfg.schedule.batch_size, cfg.schedule.optimizer.nesterov) == (1024, True)
    assert list(cfg.data.crop_size) == list(cfg.data.eval_size) == [224, 224]
    for name in ("evaluation", "images"):
        assert "Classification" in cfg.callbacks[name]._target_


def test_documented_command_composes() -> None:
    cfg = composed("model=axial_deeplab_l", "data=coco", "trainer.devices=8")
    train.check_training(cfg)
    assert cfg.model.name == "axial_deeplab_l"
    assert cfg.trainer.devices == 8
    assert "coco" in cfg.data.root


def test_schedule_follows_the_data() -> None:
    shapes, coco = composed("data=shapes"), composed("data=coco")
    assert shapes.schedule.batch_size != coco.schedule.batch_size
    assert shapes.trainer.max_steps != coco.trainer.max_steps
    chosen = composed("data=coco", "schedule=shapes")
    assert chosen.schedule == shapes.schedule
    assert chosen.trainer.max_steps == shapes.trainer.max_steps


def test_command_line_beats_experiment_beats_groups(project: Path) -> None:
    (project / "experiments/coco").mkdir(exist_ok=True)
    (project / "experiments/coco/mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /data: coco\n"
        "  - override /model: axial_deeplab_s\n"
        "seed: 7\n"
        "schedule: {lr: 0.5}\n"
        "trainer: {max_steps: 11}\n"
    )
    from axialseg.config import schema

    schema.register_schemas()
    with initialize_config_dir(str(project / "conf"), version_base="1.3"):
        groups = compose("train", ["data=coco", "model=axial_deeplab_s"])
        file = compose("train", ["experiments=coco/mine"])
        line = compose("train", ["experiments=coco/mine", "trainer.max_steps=12", "seed=3"])
        schedule = compose("train", ["experiments=coco/mine", "schedule=shapes"])
    assert file.model == groups.model
    assert file.schedule.batch_size == groups.schedule.batch_size  # data's recipe, by the override
    assert (file.seed, file.schedule.lr, file.trainer.max_steps) == (7, 0.5, 11)
    assert (line.seed, line.schedule.lr, line.trainer.max_steps) == (3, 0.5, 12)
    assert schedule.schedule.lr == 0.5
    assert schedule.schedule.batch_size != file.schedule.batch_size


def test_slurm_job_is_one_folder_for_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "77", "NNODES": "2", "NTASKS": "8"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["hardware=slurm"], return_hydra_config=True)
        assert cfg.trainer.devices == 8  # sbatch --ntasks=8 of one machine
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
        cfg = compose("train", ["hardware=slurm"], return_hydra_config=True)
    assert (cfg.trainer.devices, cfg.trainer.num_nodes) == (4, 2)
    assert cfg.hydra.run.dir == "outputs/slurm_77"


def test_ranks_of_torchrun_say_how_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["hardware=torchrun"], return_hydra_config=True)
    assert (cfg.trainer.devices, cfg.trainer.num_nodes) == (4, 3)
    assert cfg.hydra.run.dir == "outputs/torchrun_x"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "give hydra.run.dir=<folder>"), (["-m", "seed=1,2"], "a sweep of its own")],
)
def test_started_ranks_must_be_one_job(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sentence in refusal(train.main, arguments)


def test_config_dir_adds_choices(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "more/experiments").mkdir(parents=True)
    file = tmp_path / "more/experiments/theirs.yaml"
    file.write_text("# @package _global_\ntrainer: {device: 8}\n")
    arguments = ["--config-dir", str(tmp_path / "more"), "experiments=theirs"]
    assert "experiments/theirs.yaml: trainer.device " in refusal(train.main, arguments)


def test_trainer_names_are_lightnings() -> None:
    import lightning.pytorch as pl

    ours = {field.name for field in dataclasses.fields(TrainerConf)}
    assert ours <= set(inspect.signature(pl.Trainer).parameters)


EXPERIMENTS = {
    "bad_trainer": "trainer: {device: 8}",
    "bad_model": "model: {bakbone: 8}",
    "bad_net": "model: {net: {semantic_decoder: {chanels: 8}}}",
    "bad_transform": "data: {train_transform: {min_scal: 0.5}}",
    "bad_list": "data: {train_transform: {transforms: ["
    "{_target_: albumentations.Rotate, limit: 5}, {_target_: albumentations.GausNoise}]}}",
    "bad_list_key": "data: {train_transform: {transforms: ["
    "{_target_: albumentations.Rotate, limt: 5}]}}",
    "bad_optimizer": "schedule: {optimizer: {beta: [0.9, 0.99]}}",
    "bad_top": "trainr: {max_steps: 8}",
    "bad_group": "defaults:\n  - override /modle: axial_deeplab_s",
    "bad_choice": "defaults:\n  - override /model: axial_deeplab_x",
    "bad_yaml": "trainer: [1\nb: }",
    "bad_target": "model: {loss: {_target_: axialseg.losses.panoptic_deeplab_loss.Los}}",
}


@pytest.mark.parametrize(
    ("arguments", "wrong", "right"),
    [
        ("trainer.device=8", "trainer.device ", "trainer.devices"),
        ("model.bakbone=x", "model.bakbone ", "model.backbone"),
        ("modle=x", "modle ", "model"),
        ("model.backbone.stage_block=[1]", "stage_block ", "model.backbone.stage_blocks"),
        ("+model.backbone.stage_block=[1]", "stage_block ", "model.backbone.stage_blocks"),
        ("+model.backbone.extra=3", "model.backbone.extra ", "stage_blocks"),
        ("+model.net.semantic_channels=5", "model.net.semantic_channels ", "classes of the data"),
        ("+data.batch_size=5", "data.batch_size ", "schedule.batch_size"),
        ("+model.task.seed=5", "model.task.seed ", "follows from seed"),
        ("model.backbone.output_stride=abc", "model.backbone.output_stride=abc", "int"),
        ("trainer.max_steps=abc", "trainer.max_steps", "whole number"),
        ("trainer.max_steps=0", "trainer.max_steps=0", "1 or more"),
        ("schedule.lr=fast", "schedule.lr", "not a number"),
        ("data=cocoo", "data=cocoo", "data=coco?"),
        ("~model", "model.name", "model.name=<value>"),
        ("model=axial_deeplab", "model=axial_deeplab ", "axial_deeplab_tiny"),
        ("model/backbone=nope", "model/backbone=nope", "axial_resnet_tiny"),
        ("experiments=coco/nope", "experiments=coco/nope", "none"),
        ("experiments=mine/goood", "experiments=mine/goood", "experiments=mine/good?"),
        ("+experiments=mine/good", "experiments", "without a +"),
        ("+formulation=reference", "formulation ", "train.yaml"),
        ("+kernel=triton", "kernel ", "train.yaml"),
        ("method/context@model.net=aspp", "method/context", "does not exist"),
        ("model/attention=leen", "model/attention=leen", "model/attention=lean?"),
        ("model/stem@model.backbone.stem=conv", "stem cannot be chosen", "uses model/stem"),
        ("model=axial_deeplab_s model/stem@model.backbone.stem=nope", "stem=nope", "inception"),
        ("model/context=aspp", "model/context is not a group", "mean model/context@model.net?"),
        ("trainer.max_steps={", "trainer.max_steps={", "key=value"),
        ("trainer.max_steps", "trainer.max_steps", "key=value"),
        ("trainer.max_steps=1,2", "trainer.max_steps=1,2", "-m"),
        ("data.root=${nope}", "data.root=${nope}", "nope"),
        ("callbacks=null", "callbacks=null is no choice", "evaluation"),
        ("callbacks.evaluatio=null", "callbacks.evaluatio ", "callbacks.evaluation"),
        ("+callbacks.evaluatio.count=3", "callbacks.evaluatio ", "evaluation"),
        ("callbacks.progress.every=3", "callbacks.progress.every ", "every_n_steps"),
        ("hydra.run.dirr=x", "hydra.run.dirr", "hydra.run.dir"),
        ("--config-name trian", "trian", "train"),
        ("-m trainer.device=1,2", "trainer.device ", "trainer.devices"),
        ("-m data=coco,cocoo", "data=cocoo", "data=coco"),
        ("-m trainer.max_steps=1,abc", "abc", "trainer.max_steps"),
        ("-m seed=1,2 +model.backbone.extra=3,4", "model.backbone.extra", "stage_blocks"),
        ("-m experiments=glob(x*)", "experiments=glob(x*)", "none"),
        ("experiments=bad_trainer", "experiments/bad_trainer.yaml: trainer.device ", "devices"),
        ("experiments=bad_model", "experiments/bad_model.yaml: model.bakbone ", "backbone"),
        ("experiments=bad_net", "model.net.semantic_decoder.chanels ", "semantic_decoder.channels"),
        ("experiments=bad_transform", "train_transform.min_scal ", "train_transform.min_scale"),
        ("experiments=bad_list", "transforms.1._target_: albumentations.GausNoise ", "GaussNoise?"),
        ("experiments=bad_list_key", "transforms.0.limt ", "transforms.0.limit?"),
        ("data/augmentation=strong", "data/augmentation=strong ", "strong_color"),
        ("experiments=bad_optimizer", "schedule.optimizer.beta ", "schedule.optimizer.betas"),
        ("experiments=bad_top", "experiments/bad_top.yaml: trainr ", "trainer"),
        ("experiments=bad_group", "experiments/bad_group.yaml: modle ", "model"),
        ("experiments=bad_choice", "model=axial_deeplab_x ", "axial_deeplab_xl"),
        ("experiments=bad_yaml", "bad_yaml.yaml", "YAML"),
        ("experiments=bad_target", "model.loss._target_", "PanopticDeepLabLoss"),
    ],
)
def test_wrong_training_config_is_refused(
    arguments: str, wrong: str, right: str, project: Path, refusal: Refusal
) -> None:
    for name, text in EXPERIMENTS.items():
        (project / f"experiments/{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    (project / "experiments/mine").mkdir()
    (project / "experiments/mine/good.yaml").write_text("# @package _global_\nseed: 1\n")
    message = refusal(train.main, arguments.split())
    assert wrong in message
    assert right in message


def test_unknown_experiment_lists_all_there_are(project: Path, refusal: Refusal) -> None:
    for name in ("coco/one", "coco/deep/two", "cityscapes/three"):
        file = project / f"experiments/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\n")
    message = refusal(train.main, ["experiments=coco/nope"])
    for name in ("coco/one", "coco/deep/two", "cityscapes/three", "none"):
        assert name in message


def test_argument_that_the_config_leaves_out_can_be_added(refusal: Refusal) -> None:
    key = "logger.csv.write_every"
    assert f"add it as +{key}=" in refusal(train.main, [f"{key}=3"])
    train.check_training(composed(f"+{key}=3"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    from omegaconf import OmegaConf

    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(composed("seed=5"), folder / ".hydra/config.yaml")
    return folder


@pytest.mark.parametrize(
    ("arguments", "wrong", "right"),
    [
        ("", "what to evaluate", "run=<folder"),
        ("run=nowhere", "run=nowhere", ".hydra/config.yaml"),
        ("ckpt=nowhere.ckpt", "nowhere.ckpt", "model=... and data=..."),
        ("run=RUN trainer.device=8", "trainer.device ", "trainer.devices"),
        ("run=RUN model.postprocess.threshold=8", "postprocess.threshold ", "center_threshold"),
        ("run=RUN outptu=x", "outptu ", "output"),
        ("run=RUN data=cocoo", "data=cocoo", "data=coco?"),
        ("run=RUN experiments=coco/nope", "experiments=coco/nope", "none"),
        ("run=RUN hardware=gpu9", "hardware=gpu9", "hardware=gpu8?"),
        ("run=RUN resume=x", "resume ", "there are"),
    ],
)
def test_wrong_evaluation_config_is_refused(
    arguments: str, wrong: str, right: str, run_folder: Path, refusal: Refusal
) -> None:
    message = refusal(evaluate.main, arguments.replace("RUN", str(run_folder)).split())
    assert wrong in message
    assert right in message


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "trainer.device=8"],
        ["train.py", "experiments=coco/nope"],
        ["train.py", "+model.backbone.extra=3"],
        ["train.py", "-m", "data=coco,cocoo"],
        ["evaluate.py", "run=nowhere"],
    ],
)
def test_refused_in_two_seconds_and_before_torch(command: list[str], tmp_path: Path) -> None:
    script = (
        "import atexit, resource, runpy, sys\n"
        "def report():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print('torch' in sys.modules, used.ru_utime + used.ru_stime)\n"
        "atexit.register(report)\n"
        f"sys.argv = {command}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / command[0])!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    imported_torch, seconds = done.stdout.split()
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert unwrapped(done.stderr).count("\n") == 1
    assert imported_torch == "False"
    assert float(seconds) < CPU_SECONDS
    assert os.listdir(tmp_path) == []
