import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_server import FileServer, running_server
from reference_checkpoint import as_archive, assert_golden_outputs, tiny_net

from axialseg.checkpoints import published
from axialseg.checkpoints.initial import load_initial_weights
from axialseg.checkpoints.published import published_checkpoints
from axialseg.commands import download, evaluate
from axialseg.commands.command_line import compose_config
from axialseg.config.mistakes import choices

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

NAME = "axial_swidernet_tiny_os16"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AXIALSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Has the reference checkpoint, which is the only published one."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as running:
        running.content = as_archive(tmp_path).read_bytes()
        publish(running, tmp_path, monkeypatch, model="axial_swidernet_tiny")
        yield running


def publish(
    server: FileServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    experiment: str | None = None,
) -> None:
    row = {
        "experiment": experiment,
        "url": server.url,
        "model": model,
        "data": "cityscapes",
        "output_stride": 16,
    }
    row |= {"input_size": [65, 97], "pq": 50.0, "weights_mb": 7, "source": "here"}
    (folder / "published.yaml").write_text(json.dumps({NAME: row}))
    monkeypatch.setattr(published, "TABLE_PATH", folder / "published.yaml")


def test_downloaded_model_gives_the_golden_outputs(
    server: FileServer, cache: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(download.main, [NAME])
    said = capsys.readouterr().out
    assert f"{NAME}.tar.gz: 100 %" in said
    assert "357 of the model's 357 tensors are loaded" in said
    model = "model=axial_swidernet_tiny model.backbone.output_stride=16"
    assert f"python train.py {model} model.initial_checkpoint={NAME}\n" in said
    assert f"python evaluate.py ckpt={NAME} {model} data=cityscapes\n" in said
    net = tiny_net()
    load_initial_weights(net, NAME)
    assert_golden_outputs(net)

    command(download.main, [NAME])
    assert f"{NAME}: in the cache already" in capsys.readouterr().out
    assert len(server.asked_ranges) == 1
    command(download.main, [])
    assert f"{NAME}  axial_swidernet_tiny  cityscapes  50.0  yes\n" in capsys.readouterr().out


def test_row_with_an_experiment(
    server: FileServer,
    cache: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = "coco/max_deeplab_s_641"
    publish(server, tmp_path, monkeypatch, "axial_swidernet_tiny", experiment)
    command(download.main, [NAME])
    line = f"python evaluate.py ckpt={NAME} experiments={experiment}\n"
    assert line in capsys.readouterr().out


def test_an_evaluation_fetches_what_is_not_there(
    server: FileServer,
    cache: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The size is said before anything else."""
    from cityscapes_tree import write_tree

    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "data")
    size = "model.backbone.output_stride=16 data.eval_size=[65,97] data.val_num_workers=0"
    line = f"ckpt={NAME} model=axial_swidernet_tiny data=cityscapes data.root=data {size}"
    for _ in range(2):
        command(evaluate.main, [*line.split(), "callbacks.images=null"])
    said = capsys.readouterr().out
    assert said.startswith(f"{NAME}: 7 MB of weights from ")
    assert f"{NAME}.tar.gz: fetching " in said
    assert said.count("Validation at step") == 2
    assert server.asked_ranges == [None]


def test_an_evaluation_does_not_fetch_another_models_weights(
    server: FileServer, cache: Path, tmp_path: Path, refusal: Refusal
) -> None:
    line = f"ckpt={NAME} model=axial_deeplab_tiny data=cityscapes data.root={tmp_path}"
    assert (
        f"the published checkpoint {NAME} is of model=axial_swidernet_tiny, and the network of "
        "this command is another one; give model=axial_swidernet_tiny or another checkpoint"
    ) in refusal(evaluate.main, line.split())
    assert server.asked_ranges == []


def test_goes_on_after_an_interruption(
    server: FileServer, cache: Path, command: Command, refusal: Refusal
) -> None:
    server.break_off_after = 50_000
    assert "broke off after 50000 of" in refusal(download.main, [NAME])
    server.break_off_after = None
    command(download.main, [NAME])
    assert server.asked_ranges == [None, "bytes=50000-"]
    load_initial_weights(tiny_net(), NAME)


def test_checkpoint_of_another_model_is_not_kept(
    server: FileServer,
    cache: Path,
    tmp_path: Path,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(server, tmp_path, monkeypatch, model="panoptic_deeplab_resnet50")
    assert "is of another architecture" in refusal(download.main, [NAME])
    assert not list(cache.glob("*.safetensors"))


def test_nothing_is_fetched_for_a_model_that_does_not_exist(
    server: FileServer,
    cache: Path,
    tmp_path: Path,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(server, tmp_path, monkeypatch, model="axial_swidernet_tinny")
    assert "model=axial_swidernet_tinny does not exist" in refusal(download.main, [NAME])
    assert server.asked_ranges == []


def test_two_names(refusal: Refusal) -> None:
    assert "one checkpoint at a time" in refusal(download.main, ["one", "two"])


def test_all_published_models_have_a_configuration() -> None:
    models = {checkpoint.model for checkpoint in published_checkpoints().values()}
    assert models <= set(choices("model"))
    for model in models:
        assert compose_config("convert", [f"model={model}"]).model.name == model
