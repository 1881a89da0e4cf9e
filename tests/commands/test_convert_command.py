import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reference_checkpoint import (
    PREFIX,
    as_archive,
    assert_golden_outputs,
    imagenet_variables,
    tiny_net,
    write_tensorflow,
)
from safetensors import safe_open

from axialseg.checkpoints.initial import load_initial_weights
from axialseg.commands import convert

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

CHECKPOINT = str(PREFIX.parent)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("arguments", [[], ["model=axial_swidernet_tiny"]])
def test_converts_and_says_what(
    arguments: list[str], command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.safetensors"
    command(convert.main, [str(as_archive(tmp_path)), str(output), *arguments])
    said = capsys.readouterr().out
    assert said.startswith("model=axial_swidernet_tiny\n")
    assert "357 of the model's 357 tensors are loaded" in said
    assert said.endswith(f"written: {output}\n")
    net = tiny_net()
    load_initial_weights(net, output)
    assert_golden_outputs(net)
    noted = metadata(output)
    assert (noted["source"], noted["model"]) == ("tiny.tar.gz", "axial_swidernet_tiny")
    assert "overrides" not in noted


def test_overrides_are_noted(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    stride = "model.backbone.output_stride=32"
    command(convert.main, [CHECKPOINT, str(output), "model=axial_swidernet_tiny", stride])
    assert metadata(output)["overrides"] == stride


def test_model_of_a_classifiers_backbone_is_found(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = write_tensorflow(tmp_path / "ckpt-3", imagenet_variables())
    command(convert.main, [str(prefix), str(tmp_path / "x.safetensors")])
    assert capsys.readouterr().out.startswith("model=axial_swidernet_tiny\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CHECKPOINT], "say what to convert, and to which file: python -m axialseg convert"),
        ([CHECKPOINT, "OUT.pth"], "say what to convert"),
        ([CHECKPOINT, "OUT.safetensors", "model.name=x"], "needs the name of the model"),
        ([CHECKPOINT, "OUT.safetensors", "model=axial_swidernet_tinny"], "did you mean"),
        ([CHECKPOINT, "OUT.safetensors", "model=axial_deeplab_tiny"], "another architecture"),
        (["OUT/nothing", "OUT.safetensors"], "OUT/nothing does not exist"),
    ],
)
def test_mistakes(arguments: list[str], message: str, refusal: Refusal, tmp_path: Path) -> None:
    place = str(tmp_path / "x")
    arguments = [argument.replace("OUT", place) for argument in arguments]
    assert message.replace("OUT", place) in refusal(convert.main, arguments)
    assert list(tmp_path.glob("*x*")) == []


def test_checkpoint_of_no_shipped_model(project: Path, refusal: Refusal, tmp_path: Path) -> None:
    (project / "conf/model/axial_swidernet_tiny.yaml").unlink()
    output = tmp_path / "x.safetensors"
    assert "is of no shipped model" in refusal(convert.main, [CHECKPOINT, str(output)])
    assert not output.exists()


def test_wrong_configurations_are_no_obstacle(
    project: Path, command: Command, tmp_path: Path
) -> None:
    (project / "conf/model/aaa.yaml").write_text("net:\n  _target_: axialseg.models.none.None\n")
    command(convert.main, [CHECKPOINT, str(tmp_path / "x.safetensors")])
    assert metadata(tmp_path / "x.safetensors")["model"] == "axial_swidernet_tiny"


def test_damaged_archive(refusal: Refusal, tmp_path: Path) -> None:
    archive = as_archive(tmp_path)
    archive.write_bytes(archive.read_bytes()[:-100])
    message = refusal(convert.main, [str(archive), str(tmp_path / "x.safetensors")])
    assert "tiny.tar.gz is not a .tar.gz archive, or is cut off or damaged" in message
    assert list(tmp_path.glob("*x*")) == []


def test_folder_with_two_checkpoints(refusal: Refusal, tmp_path: Path) -> None:
    for end in ("index", "data-00000-of-00001"):
        for name in ("a", "b"):
            shutil.copy(PREFIX.with_name(f"ckpt-1.{end}"), tmp_path / f"{name}.{end}")
    message = refusal(convert.main, [str(tmp_path), str(tmp_path / "x.safetensors")])
    assert "several checkpoints (a, b)" in message
