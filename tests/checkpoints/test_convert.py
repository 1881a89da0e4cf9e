import hashlib
import os
from pathlib import Path

import pytest
import torch
from reference_checkpoint import (
    PREFIX,
    assert_golden_outputs,
    imagenet_variables,
    imported,
    tiny_net,
    write_tensorflow,
)
from safetensors import safe_open
from safetensors.torch import load_file

from axialseg.checkpoints import own_weights
from axialseg.checkpoints.convert import convert
from axialseg.checkpoints.initial import load_initial_weights
from axialseg.checkpoints.own_weights import digest
from axialseg.errors import UserError


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_converted_model_gives_the_golden_outputs(tmp_path: Path) -> None:
    convert(PREFIX, tmp_path / "x.safetensors", tiny_net(), {})
    net = tiny_net()
    load_initial_weights(net, tmp_path / "x.safetensors")
    assert_golden_outputs(net)


def test_file_holds_the_model_and_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.safetensors"
    report = convert(PREFIX, path, tiny_net(), {"source": "here", "model": "tiny"})
    expected = imported().state_dict()
    weights = load_file(path)
    assert sorted(weights) == sorted(expected) == sorted(report.loaded)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    files = [PREFIX.with_name(f"ckpt-1.{end}") for end in ("index", "data-00000-of-00001")]
    assert metadata(path) == {
        "format": "pt",
        "source": "here",
        "model": "tiny",
        "source_sha256": hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest(),
        "global_step": "1",
        "sha256": digest(weights),
    }
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_weights_need_no_memory_in_the_model(tmp_path: Path) -> None:
    convert(PREFIX, tmp_path / "x.safetensors", tiny_net().to("meta"), {})
    load_initial_weights(tiny_net(), tmp_path / "x.safetensors")


def test_backbone_of_a_classifier(tmp_path: Path) -> None:
    prefix = write_tensorflow(tmp_path / "ckpt-3", imagenet_variables())
    report = convert(prefix, tmp_path / "x.safetensors", tiny_net(), {})
    weights = load_file(tmp_path / "x.safetensors")
    expected = {n: v for n, v in imported().state_dict().items() if n.startswith("backbone.")}
    assert sorted(weights) == sorted(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert report.left_out == {"backbone/_classifier/kernel": "the model has no such part"}
    assert metadata(tmp_path / "x.safetensors")["global_step"] == "0"


def test_other_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another number of classes"):
        convert(PREFIX, tmp_path / "x.safetensors", tiny_net(classes=7), {})
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    output = tmp_path / "x.safetensors"
    output.write_bytes(b"old")
    monkeypatch.setattr(own_weights, "save_file", fail)
    with pytest.raises(UserError, match=r"x\.safetensors cannot be written \(No space left"):
        convert(PREFIX, output, tiny_net(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert output.read_bytes() == b"old"


def test_digest_knows_names_values_and_places() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    reference = digest({"a": one, "b": two})
    assert digest({"b": two, "a": one.clone()}) == reference
    assert digest({"a": one, "c": two}) != reference
    assert digest({"a": torch.tensor([2.0, 1.0]), "b": two}) != reference
    strided = torch.tensor([[1.0, 0.0], [2.0, 0.0]])[:, 0]
    assert digest({"a": strided, "b": two}) == reference
