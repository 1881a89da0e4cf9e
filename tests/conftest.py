"""Settings of the whole suite, and the smallest real run that tests of the commands share."""

import os
import shutil
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from terminal import unwrapped

from axialseg.commands import command_line
from axialseg.config import schema

# Before torch or OpenCV are imported: one thread each, no windows, no look-ups in the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
for name in ("WANDB_API_KEY", "WANDB_MODE", "AXIALSEG_DATA"):
    os.environ.pop(name, None)

ALLOWED_SKIPS = {"gpu", "external_data", "slurm"}
SHAPES_COUNTS = ("train_images=8", "val_images=4")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test fails, unless its marks say what is missing there."""
    report = yield
    marks = {mark.name for mark in item.iter_markers()}
    if report.skipped and os.environ.get("CI") and not marks & ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The suite leaves the user's cache alone."""
    os.environ["AXIALSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _can_be_stopped() -> None:
    """A handler that an earlier run has left would keep processes that a test forks alive."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for a run of the real classes that takes a second: 8 images, 68,709 weights."""
    root = tmp_path_factory.mktemp("shapes")
    counts = [f"+data.{s}_dataset.{c}" for s in ("train", "val") for c in SHAPES_COUNTS]
    return [
        *counts,
        f"data.root={root}",
        "data.crop_size=[33,33]",
        "data.num_workers=0",
        "data.val_batch_size=2",
        "hardware=cpu",
        "model=axial_deeplab_tiny",
        "model.backbone.stage_blocks=[1,1,1,1]",
        "model.backbone.stage_channels=[16,16,32,32]",
        "schedule.batch_size=2",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
    ]


@pytest.fixture(scope="session")
def trained_run(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, trained; to be left as it is."""
    from axialseg.commands import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *tiny_run, f"hydra.run.dir={folder}"])
        train.main()
    return folder


@pytest.fixture(scope="session")
def seeing_run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights that find things and stuff, which four steps do not teach."""
    import torch

    from axialseg import load

    folder = tmp_path_factory.mktemp("seeing") / "tiny"
    shutil.copytree(trained_run, folder, ignore=shutil.ignore_patterns("best.*", "step_*"))
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    net = load(folder).net
    image = torch.randint(0, 256, (1, 3, 65, 65), generator=generator).float()
    with torch.no_grad():
        # Heads as wide as those of a trained network. Near-ties would be decided by rounding.
        for name, middle, spread in (("semantic", 0, 3), ("center", 0.1, 0.2), ("offset", 0, 2)):
            predict = net.get_submodule(f"{name}_head").predict
            predict.weight.copy_(torch.randn(predict.weight.shape, generator=generator))
            values = getattr(net(image), name)
            scale = spread / values.std((0, 2, 3))
            predict.weight *= scale[:, None, None, None]
            predict.bias.copy_(middle + scale * (predict.bias - values.mean((0, 2, 3))))
    for name, value in net.state_dict().items():
        content["state_dict"][f"net.{name}"] = value
    torch.save(content, path)
    return folder


@pytest.fixture(scope="session")
def tiny_max_run(tiny_run: list[str]) -> list[str]:
    """The same for MaX-DeepLab."""
    others = [line for line in tiny_run if not line.startswith("model")]
    return [
        *others,
        "model=max_deeplab_tiny",
        "model.backbone.stage_blocks=[1,1,1,1]",
        "model.backbone.stage_channels=[16,16,32,32]",
        "model.net.transformer.feed_forward_channels=16",
        "model.net.slots=16",
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ and experiments/ that the commands read instead; tests may add files."""
    source = schema.conf_dir().parent
    for name in ("conf", "experiments"):
        shutil.copytree(source / name, tmp_path / name)
    for module in (schema, command_line):
        monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[], None], list[str]], str]:
    """Runs a command that must end with code 2, one line on stderr and no file; gives the line."""

    def run(main: Callable[[], None], arguments: list[str]) -> str:
        folder = tmp_path / "cwd"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        message = unwrapped(capsys.readouterr().err)
        assert stopped.value.code == 2
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert list(folder.iterdir()) == []
        return message

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None], list[str]], None]:
    """Runs a command as from the shell, in this process."""

    def run(main: Callable[[], None], arguments: list[str]) -> None:
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        main()

    return run
