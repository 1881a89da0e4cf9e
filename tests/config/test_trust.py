"""A saved config builds nothing that could run a stranger's code."""

import importlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import axialseg
from axialseg.commands import evaluate, train
from axialseg.config.parts import ModelCallbacks
from axialseg.config.schema import conf_dir
from axialseg.config.trust import is_harmless, refuse_strangers, trusted_packages
from axialseg.errors import UserError

# Ways around an allow-list of packages: what these re-export, member functions, other spellings.
DETOURS = """
axialseg.build.torch.load axialseg.build.instantiate axialseg.build.os.system axialseg.build.build
axialseg.launch.run_on_ranks axialseg.launch.subprocess.run axialseg.launch.subprocess.Popen
axialseg.commands.train.main axialseg.commands.command_line.run_command axialseg.errors.UserError
axialseg.checkpoints.download.download_checkpoint axialseg.checkpoints.run_checkpoints.load_plain
axialseg.checkpoints.run_checkpoints.torch.load axialseg.datasets.loaders.multiprocessing.Process
axialseg.datasets.generated.make_once.make_once axialseg.datasets.coco.CocoPanoptic.read
axialseg.datasets.generated.make_once.tempfile.mkdtemp axialseg.callbacks.scores.write_json
axialseg.datasets.file_lock.file_lock axialseg.loggers.csv.os.replace axialseg.loggers.csv.os
axialseg.machine.child_process.end_with_parent axialseg.tasks.training_task.torch.manual_seed
axialseg.layers.axial_attention axialseg axialseg.layers..axial_attention.AxialAttention
torch.load torch.save torch.hub.load torch.hub.load_state_dict_from_url torch.serialization.load
torch.utils.cpp_extension.load_inline torch.utils.cpp_extension.load torch.jit.load torch.package
torch.package.PackageImporter torch.compile torch.optim.optimizer.torch.load torch.optim.os.system
torch.nn.functional.torch.load torch.nn.functional.relu torch.nn.modules.module.torch.load
torch.nn.Module.load_state_dict torch.nn.Module.__init__ torch.nn.parallel.DistributedDataParallel
torch.nn.modules.module.warnings.warn torch.nn.Embedding.from_pretrained torch.nn.utils.skip_init
torch.nn.init.normal_ torch.nn.Parameter torch.nn.modules.lazy.LazyModuleMixin
torch.nn.modules.module.OrderedDict torch.optim.optimizer.defaultdict
torch.optim.swa_utils.AveragedModel torch.optim.lr_scheduler.partial
torch.distributed.init_process_group torch.multiprocessing.spawn albumentations.load
albumentations.from_dict albumentations.core.serialization.load
albumentations.core.serialization.yaml.unsafe_load albumentations.check_version.fetch_version_info
albumentations.core.composition.Path lightning.pytorch.Trainer lightning.pytorch.cli.LightningCLI
lightning.pytorch.LightningModule.load_from_checkpoint lightning.pytorch.callbacks.Path
lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree lightning.pytorch.loggers.csv_logs.os
lightning.pytorch.callbacks.model_checkpoint.torch.load lightning.fabric.utilities.cloud_io._load
hydra.utils.get_class hydra.utils.get_method hydra.utils.get_static_method hydra.utils.instantiate
hydra.utils.call hydra._internal.utils._locate hydra.main hydra.compose omegaconf.OmegaConf.load
os.system os.popen os.execv os.remove subprocess.Popen subprocess.check_output shutil.rmtree
builtins.eval builtins.exec builtins.open builtins.__import__ builtins.print pickle.load
pickle.loads numpy.load numpy.memmap numpy.fromfile numpy.save numpy.ctypeslib.load_library
yaml.unsafe_load runpy.run_path runpy.run_module importlib.import_module ctypes.CDLL code.interact
pdb.set_trace socket.create_server webbrowser.open pty.spawn tempfile.mkdtemp pathlib.Path
pathlib.Path.unlink functools.partial operator.methodcaller types.FunctionType
logging.config.dictConfig antigravity.fly wandb.init wandb.restore pycocotools.coco.COCO
cv2.imwrite cv2.FileStorage PIL.Image.open torchmetrics.Metric matplotlib.pyplot.savefig
pip._internal.main setuptools.setup _pytest.config.main
"""
PACKAGES = (
    *("os", "subprocess", "shutil", "pickle", "tempfile", "runpy", "importlib", "builtins"),
    *("torch", "torch.hub", "torch.jit", "torch.serialization", "torch.nn.functional"),
    *("torch.utils.cpp_extension", "numpy", "numpy.lib.format", "yaml", "hydra.utils", "cv2"),
    *("lightning.pytorch", "lightning.fabric", "wandb", "safetensors.torch", "logging.config"),
)
DOES = re.compile(
    r"load|open|exec|run|eval|write|save|remove|import|spawn|popen|call|system|get_|make"
)


def dangerous_names() -> Iterator[str]:
    yield from DETOURS.split()
    for package in PACKAGES:
        members = inspect.getmembers(importlib.import_module(package), callable)
        yield from (f"{package}.{name}" for name, _ in members if DOES.search(name))


def test_200_names_that_load_run_or_write_are_refused() -> None:
    names = set(dangerous_names()) - {"hydra.utils.get_object"}
    assert len(names) > 200
    for name in names:
        for node in (
            {"_target_": name},
            {"_target_": "hydra.utils.get_object", "path": name},
            {
                "_target_": "axialseg.tasks.max_deeplab_task.MaxDeepLabTask",
                "loss": [{"_target_": name}],
            },
        ):
            assert refused(node), name


def refused(node: dict[str, Any]) -> bool:
    try:
        refuse_strangers({"model": {"loss": node}}, [], "run")
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    "value",
    [
        "${oc.create:{_target_: os.system, command: id}}",
        "${oc.decode:'{_target_: os.system}'}",
        "${ oc.create:{}}",
        "${oc.env:NONE,${oc.create:{_target_: os.system}}}",
        "${oc.decode:${oc.env:NONE,'{_target_: os.system}'}}",
        "${oc.decode:${oc.env:NONE,${oc.env:NONE,'{_target_: os.system}'}}}",
        "${oc.dict.values:model}",
        "${oc.select:model,${oc.create:{}}}",
        "\\${oc.create:{}}",
    ],
)
def test_text_that_becomes_a_node_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="computes a value"):
        refuse_strangers({"model": {"loss": [{"weights": value}]}}, [], "run")


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "${model.name}"},
        {"_target_": "${oc.env:HOME}"},
        {"_target_": ["os", "system"]},
        {"_target_": None},
        {"_target_": "hydra.utils.get_object", "path": "${model.name}"},
        {"_target_": "hydra.utils.get_object", "path": None},
        {"_target_": "hydra.utils.get_object", "_args_": ["os.system"]},
        {"_target_": "hydra.utils.get_object", "path": "axialseg.panoptic.coco_classes.COCO"}
        | {"_args_": ["os.system"]},
        {"_target_": "hydra.utils.get_object", "_partial_": True},
    ],
)
def test_a_name_must_be_written_out(node: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="run: loss"):
        refuse_strangers({"loss": node}, [], "run")


def test_references_and_the_environment_are_plain() -> None:
    plain = [
        "${data.crop_size}",
        "${oc.env:A,data}/coco",
        "${hydra:runtime.output_dir}/x",
        "${..a.b}",
    ]
    plain += ["${oc.decode:${oc.env:SLURM_NNODES,1}}", "${a.${b}}"]
    plain += ["${oc.decode:${oc.env:A,${oc.env:B,8}}}"]
    refuse_strangers({"data": {"values": plain, "path": "anything at all"}}, [], "run")


def shipped_names() -> set[str]:
    files = [*conf_dir().rglob("*.yaml"), *(conf_dir().parent / "experiments").rglob("*.yaml")]
    text = "\n".join(file.read_text() for file in files)
    text += OmegaConf.to_yaml(OmegaConf.structured(ModelCallbacks))
    return set(
        re.findall(r"(?:_target_|path|evaluation|images|predictions): *([\w]+\.[\w.]+)", text)
    )


def test_all_that_is_shipped_is_allowed() -> None:
    names = shipped_names() - {"hydra.utils.get_object"}
    assert len(names) > 50
    assert [name for name in names if not is_harmless(name, is_path=True)] == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "torch.nn.ReLU",
            "torch.nn.modules.conv.Conv2d",
            "torch.optim.AdamW",
            "torch.optim.sgd.SGD",
        ),
        *("torch.optim.lr_scheduler.OneCycleLR", "albumentations.HorizontalFlip"),
        *("albumentations.Compose", "albumentations.augmentations.HorizontalFlip"),
        *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger"),
    ],
)
def test_constructors_of_other_packages(name: str) -> None:
    assert is_harmless(name)


def test_a_constant_is_looked_up_and_never_called() -> None:
    name = "axialseg.panoptic.coco_classes.COCO"
    refuse_strangers({"_target_": "hydra.utils.get_object", "path": name}, [], "run")
    with pytest.raises(UserError):
        refuse_strangers({"_target_": name}, [], "run")


def test_the_command_line_trusts_a_package_and_no_other() -> None:
    trusted = trusted_packages(["data=coco", "trust=[mine, other.part]"])
    assert trusted == ["mine", "other.part"]
    for name in ("mine.losses.Loss", "other.part.Net"):
        refuse_strangers({"_target_": name}, trusted, "run")
    for name in ("mineral.Loss", "other.Net", "other.partial.Net", "os.system"):
        with pytest.raises(UserError, match="a saved config may only build"):
            refuse_strangers({"_target_": name}, trusted, "run")


def test_the_refusal_tells_how_to_trust_what_is_not_ours() -> None:
    with pytest.raises(UserError, match=r"trust=\[mine\]"):
        refuse_strangers({"_target_": "mine.losses.Loss"}, [], "run")
    with pytest.raises(UserError, match="choose another run"):
        refuse_strangers({"_target_": "torch.load"}, [], "run")


@pytest.fixture
def strangers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], Path]:
    """The folder of a run whose config was changed; `strangers_code.run` leaves a file."""
    done = str(tmp_path / "done")
    code = f"def run(**kwargs):\n    open({done!r}, 'w')\n    raise ValueError('strangers_code')\n"
    (tmp_path / "strangers_code.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers_code", raising=False)

    def make(changes: dict[str, Any]) -> Path:
        folder = tmp_path / "run"
        (folder / ".hydra").mkdir(parents=True)
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf

        from axialseg.config.schema import register_schemas

        register_schemas()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", ["hardware=cpu"])
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)
        OmegaConf.save(cfg, folder / ".hydra/config.yaml")
        return folder

    return make


EVIL = {"_target_": "strangers_code.run"}


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"model.loss": EVIL}, "run"),
        ({"model.loss": EVIL}, "ckpt"),
        ({"model.loss": EVIL}, "config-path"),
        ({"data.train_transform.color": EVIL}, "run"),
        ({"schedule.optimizer": EVIL}, "run"),
        ({"callbacks.mine": EVIL}, "config-path"),
        (
            {"model.loss": {"_target_": "hydra.utils.get_method", "path": "strangers_code.run"}},
            "run",
        ),
        ({"model.callbacks.evaluation": "strangers_code.run"}, "run"),
        ({"model.callbacks.evaluation": "strangers_code.run"}, "config-path"),
        ({"model.callbacks.images": "${oc.env:EVIL,strangers_code.run}"}, "run"),
        ({"model.callbacks.images": "${oc.env:EVIL,strangers_code.run}"}, "config-path"),
        ({"model.loss": "${oc.create:{_target_: strangers_code.run}}"}, "ckpt"),
    ],
)
def test_a_strangers_run_runs_nothing(
    changes: dict[str, Any],
    how: str,
    strangers_run: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    refusal: Callable[[Callable[[], None], list[str]], str],
) -> None:
    folder = strangers_run(changes)
    if how == "config-path":
        arguments = ["--config-path", str(folder / ".hydra"), "--config-name", "config"]
        message = refusal(train.main, arguments)
    else:
        where = folder if how == "run" else folder / "checkpoints/last.ckpt"
        message = refusal(evaluate.main, [f"{how}={where}"])
    assert re.search(r"may only build|computes a value", message)
    assert os.path.relpath(folder) in message or str(folder) in message
    assert not (tmp_path / "done").exists()


def test_trust_lets_it_run(
    strangers_run: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    command: Callable[[Callable[[], None], list[str]], None],
) -> None:
    folder = strangers_run({"model.loss": EVIL, "data.root": str(tmp_path / "shapes")})
    with pytest.raises(SystemExit):  # what it raises is told in a sentence
        # The loss is built before the checkpoint is read.
        command(evaluate.main, [f"run={folder}", "ckpt=none.ckpt", "trust=[strangers_code]"])
    assert (tmp_path / "done").exists()


def test_loading_from_python_runs_nothing_either(
    strangers_run: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    root = str(tmp_path / "shapes")
    folder = strangers_run({"model.net.semantic_decoder": EVIL, "data.root": root})
    config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    checkpoint = tmp_path / "x.ckpt"
    weights = {"net.x": torch.zeros(1)}
    torch.save({"hyper_parameters": config, "state_dict": weights}, checkpoint)
    with pytest.raises(
        UserError, match=r"model\.net\.semantic_decoder\._target_ is strangers_code"
    ):
        axialseg.load(checkpoint)
    assert not (tmp_path / "done").exists()
    with pytest.raises(Exception, match="strangers_code"):
        axialseg.load(checkpoint, trust=["strangers_code"])
    assert (tmp_path / "done").exists()


def test_a_damaged_config_is_named(
    strangers_run: Callable[[dict[str, Any]], Path],
    refusal: Callable[[Callable[[], None], list[str]], str],
) -> None:
    folder = strangers_run({})
    file = folder / ".hydra/config.yaml"
    for damage in (b"", b"\xff\xfe", b"a: [", b"[" * 50_000, b"- 1"):
        file.write_bytes(damage)
        assert "config.yaml" in refusal(evaluate.main, [f"run={folder}"])


def test_another_folders_config_does_not_set_hydra(
    strangers_run: Callable[[dict[str, Any]], Path],
    refusal: Callable[[Callable[[], None], list[str]], str],
) -> None:
    folder = strangers_run({}) / ".hydra"
    content = (folder / "config.yaml").read_text()
    for addition in ("hydra: {callbacks: {x: {_target_: strangers_code.run}}}\n", "defaults: []\n"):
        (folder / "config.yaml").write_text(content + addition)
        arguments = ["--config-path", str(folder), "--config-name", "config"]
        assert "sets Hydra itself" in refusal(train.main, arguments)
    (folder / "config.yaml").write_text(content)
    (folder / "hydra").mkdir()
    assert "holds the folder hydra" in refusal(train.main, arguments)
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("name", ["evaluation", "evaluation/evaluate.log"])
def test_a_strangers_link_is_not_written_through(
    name: str,
    strangers_run: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    refusal: Callable[[Callable[[], None], list[str]], str],
) -> None:
    folder = strangers_run({})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is a link" in refusal(evaluate.main, [f"run={folder}"])


def test_saved_yaml_holds_no_python_objects(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: !!python/object/apply:os.system [id]")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(file.read_text())
