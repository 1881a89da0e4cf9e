"""The commands from end to end, with the real classes in their smallest form."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image
from scoring_cases import assert_repeats
from terminal import unwrapped
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb_records import OfflineRun

from axialseg.commands import evaluate, train
from axialseg.commands.train import checkpoint_to_resume
from axialseg.errors import UserError

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

ROOT = Path(__file__).resolve().parents[2]
PERCENTAGES = ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU")


@pytest.fixture(scope="module")
def run_folder(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *tiny_run, f"hydra.run.dir={folder}"])
        train.main()
    return folder


def test_run_leaves_what_it_promises(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert metrics["step"] == 4
    assert all(0.0 <= metrics[name] <= 100.0 for name in PERCENTAGES)
    for name in (
        "curves.png",
        *(f"images/{image.name}" for image in run_folder.glob("images/*.png")),
    ):
        with Image.open(run_folder / name) as picture:
            assert min(picture.size) > 0
    assert len(list(run_folder.glob("images/*.png"))) == 4
    assert (run_folder / ".hydra/config.yaml").is_file()
    log = (run_folder / "train.log").read_text()
    shown = re.search(r"python evaluate.py run=(\S+)", log)
    assert shown
    assert Path(shown[1]).resolve() == run_folder.resolve()


def test_checkpoint_holds_plain_values_only(run_folder: Path) -> None:
    content = torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 4
    assert content["hyper_parameters"]["model"]["name"] == "axial_deeplab_tiny"


@pytest.mark.parametrize("named", ["run=RUN", "ckpt=RUN/checkpoints/last.ckpt"])
def test_evaluation_repeats_the_metrics_to_the_last_digit(
    named: str, run_folder: Path, tmp_path: Path, command: Command
) -> None:
    named = named.replace("RUN", str(run_folder))
    command(evaluate.main, [named, f"output={tmp_path / 'results'}"])
    results = tmp_path / "results"
    assert_repeats(results, run_folder)
    listed = json.loads((results / "predictions.json").read_text())["annotations"]
    assert len(listed) == 4
    assert all((results / "predictions" / entry["file_name"]).is_file() for entry in listed)
    assert len(list(results.glob("images/*.png"))) == 4


def test_training_compiled(
    tiny_run: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the last stage, which makes machine code for minutes."""
    compiled: list[torch.nn.Module] = []
    compile_module = torch.nn.Module.compile

    def quickly(net: torch.nn.Module, **options: bool) -> None:
        compiled.append(net)
        compile_module(net, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    command(train.main, [*tiny_run, "compile=true", f"hydra.run.dir={tmp_path}"])
    assert len(compiled) == 1
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 4
    weights = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in weights)  # it loads without compiling


@pytest.mark.parametrize("program", [train, evaluate])
def test_compiling_needs_a_compiler(
    program: ModuleType, run_folder: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    named = [f"run={run_folder}"] if program is evaluate else []
    message = refusal(program.main, [*named, "compile=true"])
    assert "compile=true needs a C++ compiler, and there is no no-such-compiler" in message


def test_evaluation_with_faster_networks(
    run_folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options: compiled.append(net))
    options = ["fold_batch_norms=true", "compile=true", f"output={tmp_path / 'results'}"]
    command(evaluate.main, [f"run={run_folder}", *options])
    (net,) = compiled
    assert isinstance(net.backbone.stem.conv1.norm, torch.nn.Identity)
    before, after = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (run_folder, tmp_path / "results")
    )
    assert after["mIoU"] == pytest.approx(before["mIoU"], rel=1e-3)  # a pixel may fall otherwise


def test_evaluation_goes_into_the_runs_folder(run_folder: Path, command: Command) -> None:
    command(evaluate.main, [f"run={run_folder}", "model.postprocess.stuff_area_limit=1000000"])
    metrics = json.loads((run_folder / "evaluation/metrics.json").read_text())
    assert metrics["PQ_stuff"] == 0.0


def test_images_without_ground_truth_get_predictions_only(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    root = Path(yaml.safe_load((run_folder / ".hydra/config.yaml").read_text())["data"]["root"])
    listed = json.loads((root / "annotations/panoptic_val2017.json").read_text())
    images = {name: part for name, part in listed.items() if name != "annotations"}
    (tmp_path / "image_info.json").write_text(json.dumps(images))
    results = tmp_path / "results"
    results.mkdir()
    (results / "metrics.json").write_text('{"PQ": 1.0}')  # of an earlier evaluation
    overrides = [
        "data=coco_format",
        f"data.root={root}",
        f"data.val_dataset.annotation_file={tmp_path / 'image_info.json'}",
        "data.val_dataset.panoptic_folder=null",
        "++data.val_dataset.categories={_target_:hydra.utils.get_object,"
        "path:axialseg.datasets.generated.shape_scenes.CATEGORIES}",
        "data.val_num_workers=0",
    ]
    command(evaluate.main, [f"run={run_folder}", *overrides, f"output={results}"])
    assert not (results / "metrics.json").exists()
    predictions = json.loads((results / "predictions.json").read_text())["annotations"]
    assert len(predictions) == len(images["images"])


def test_checkpoint_without_a_run(
    run_folder: Path, tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    loose = tmp_path / "loose.ckpt"
    shutil.copy(run_folder / "checkpoints/last.ckpt", loose)
    named = ["data=shapes", *(line for line in tiny_run if "schedule" not in line)]
    for folder, lines in (("results", named), ("told", [])):  # it tells its model and its data
        command(evaluate.main, [f"ckpt={loose}", *lines, f"output={tmp_path / folder}"])
        assert_repeats(tmp_path / folder, run_folder)


def test_other_data_replace_the_runs(run_folder: Path, refusal_of_job: Refusal) -> None:
    message = refusal_of_job(evaluate.main, [f"run={run_folder}", "data=coco", "data.root=/none"])
    assert "/none does not exist" in message


@pytest.fixture
def refusal_of_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusal:
    """As `refusal`, for mistakes that show only once the job runs in its folder."""

    def run(main: Callable[[], None], arguments: list[str]) -> str:
        where = "output" if main is evaluate.main else "hydra.run.dir"
        monkeypatch.setattr("sys.argv", ["command", *arguments, f"{where}={tmp_path / 'out'}"])
        with pytest.raises(SystemExit) as stopped:
            main()
        message = unwrapped(capsys.readouterr().err)
        assert stopped.value.code == 2
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        return message

    return run


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "other"])
def test_bad_checkpoint_is_refused(
    damage: str, run_folder: Path, tmp_path: Path, refusal_of_job: Refusal
) -> None:
    good = (run_folder / "checkpoints/last.ckpt").read_bytes()
    file = tmp_path / "bad.ckpt"
    if damage == "other":
        torch.save({"state_dict": {"net.backbone.foo": torch.zeros(1)}}, file)
    elif damage != "missing":
        contents = {"empty": b"", "truncated": good[: len(good) // 2], "text": b"weights"}
        file.write_bytes(contents[damage])
    message = refusal_of_job(evaluate.main, [f"run={run_folder}", f"ckpt={file}"])
    assert str(file) in message
    if damage == "other":
        assert "backbone.foo" in message


def test_missing_data_are_refused(tiny_run: list[str], refusal_of_job: Refusal) -> None:
    arguments = [line for line in tiny_run if "dataset" not in line and "root" not in line]
    arguments += ["data=coco", "data.root=/none", "schedule=shapes"]
    assert "/none does not exist" in refusal_of_job(train.main, arguments)


def test_resumes_in_its_folder_and_from_another(
    run_folder: Path, tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder, symlinks=True)
    longer = [*tiny_run, "trainer.max_steps=6"]
    command(train.main, [*longer, f"hydra.run.dir={folder}"])
    command(train.main, [*longer, f"resume={run_folder}", f"hydra.run.dir={tmp_path / 'new'}"])
    for place in (folder, tmp_path / "new"):
        log = (place / "train.log").read_text()
        assert "from step 4 to 6" in log
        assert json.loads((place / "metrics.json").read_text())["step"] == 6


def test_initial_checkpoint_starts_at_step_0(
    run_folder: Path, tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    file = run_folder / "checkpoints/last.ckpt"
    start = [f"model.initial_checkpoint={file}", f"hydra.run.dir={tmp_path}", "schedule.lr=0"]
    command(train.main, [*tiny_run, *start, "trainer.max_steps=1"])
    log = (tmp_path / "train.log").read_text()
    assert "from step 0 to 1" in log
    assert re.search(r"last.ckpt: (\d+) of the model's \1 tensors are loaded", log)
    before, after = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (file, tmp_path / "checkpoints/last.ckpt")
    )
    kernels = [name for name, value in before.items() if value.ndim == 4]
    assert kernels
    assert all(torch.equal(before[name], after[name]) for name in kernels)


def test_sweep_has_a_folder_for_each_job(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    sweep = ["-m", *tiny_run, "schedule.lr=1e-3,3e-4", "trainer.max_steps=1"]
    command(train.main, [*sweep, f"hydra.sweep.dir={tmp_path}"])
    for job, lr in enumerate(("0.001", "0.0003")):
        assert (tmp_path / f"{job}/metrics.json").is_file()
        assert f"lr: {lr}" in (tmp_path / f"{job}/.hydra/config.yaml").read_text()


def test_each_job_of_a_sweep_is_a_wandb_run(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    sweep = ["-m", *tiny_run, "seed=1,2", "trainer.max_steps=1", "logger=wandb_offline"]
    command(train.main, [*sweep, f"hydra.sweep.dir={tmp_path}"])
    for job in ("0", "1"):
        found = OfflineRun(tmp_path / job)
        assert found.run.run_group == f"{tmp_path.parent.name}/{tmp_path.name}"
        assert found.run.display_name == f"{job} seed={int(job) + 1}"
        assert found.config["sweep"] == {"seed": int(job) + 1}


def test_a_job_of_a_wandb_agent_is_the_run_that_the_agent_has_made(
    tiny_run: list[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = yaml.safe_load((ROOT / "docs/wandb_sweep.yaml").read_text())
    assert file["program"] == "train.py"
    assert file["command"] == ["${env}", "python", "${program}", "${args_no_hyphens}"]
    asked = {"logger": "wandb", "schedule.lr": 0.001, "trainer.max_steps": 1, "compile": False}
    assert set(asked) & set(file["parameters"]) == set(asked) - {"compile"}
    written = create_sweep_command_args({"args": {k: {"value": v} for k, v in asked.items()}})
    monkeypatch.setenv("WANDB_SWEEP_ID", "asweep")
    monkeypatch.setenv("WANDB_RUN_ID", "therun")
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = [*tiny_run, *written["args_no_hyphens"], "trainer.devices=2"]
    command(train.main, [*arguments, f"hydra.run.dir={tmp_path}"])
    found = OfflineRun(tmp_path)  # of two ranks, one
    assert (found.run.run_id, found.run.sweep_id) == ("therun", "asweep")
    assert found.config["schedule"]["lr"] == 0.001
    assert "val/PQ" in found.keys


def test_several_devices_are_ranks_of_one_run(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    command(train.main, [*tiny_run, "trainer.devices=2", f"hydra.run.dir={tmp_path}"])
    assert "on 2 x cpu" in (tmp_path / "train.log").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (4, 4)
    assert "devices: 2" in (tmp_path / ".hydra/config.yaml").read_text()
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("switch", "reason"),
    [
        ("limit_train_batches=0.5", "without end, so there is no share of them; give trainer.max"),
        ("overfit_batches=2", "so there are no first batches to repeat; to learn a few images"),
        ("fast_dev_run=-1", "but it must be true or a number of steps"),
    ],
)
def test_switches_without_a_meaning_are_refused(switch: str, reason: str, refusal: Refusal) -> None:
    message = refusal(train.main, [f"trainer.{switch}"])
    assert message.startswith(f"error: trainer.{switch}")
    assert reason in message


def test_fast_dev_run_takes_a_step_and_validates(
    tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    command(train.main, [*tiny_run, "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (1, 2)


def test_finds_where_to_resume(tmp_path: Path) -> None:
    assert checkpoint_to_resume(None, tmp_path) is None
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    torch.save({}, last)
    assert checkpoint_to_resume(None, tmp_path) == last
    assert checkpoint_to_resume(str(tmp_path), tmp_path / "new") == last
    assert checkpoint_to_resume(str(last), tmp_path / "new") == last
    with pytest.raises(UserError, match="resume=nowhere"):
        checkpoint_to_resume("nowhere", tmp_path)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint_to_resume(str(last), tmp_path)
