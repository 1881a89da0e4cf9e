import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import axialseg
from axialseg.checkpoints.model_card import RunFacts, model_card
from axialseg.commands import share
from axialseg.errors import UserError

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "model"
    share.share([f"ckpt={trained_run}", f"out={folder}", "license=cc-by-4.0"])
    return folder


def test_what_is_loaded_is_what_was_shared(folder: Path, trained_run: Path) -> None:
    source = axialseg.load(trained_run)
    for place in (folder, folder / "model.safetensors"):
        model = axialseg.load(place)
        assert (model.name, model.step) == (source.name, source.step)
        assert model.categories == source.categories
        for name, value in source.net.state_dict().items():
            assert torch.equal(model.net.state_dict()[name], value)
    again = folder.with_name("again")
    share.share([f"ckpt={folder}", f"out={again}"])
    assert (again / "config.yaml").read_text() == (folder / "config.yaml").read_text()


def test_card(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["datasets"] == ["shapes"]
    assert "# axial_deeplab_tiny, trained on shapes\n" in card
    assert "68,709 weights after 4 optimiser steps; 9 classes: disk, square" in card
    assert "axialseg-train " in card
    assert "trainer.max_steps=4" in card
    assert "| PQ |" in card
    for picture in (folder / "images").iterdir():
        assert f"](images/{picture.name})" in card


def test_nothing_tells_of_the_machine(folder: Path, trained_run: Path) -> None:
    for name in ("README.md", "config.yaml"):
        text = (folder / name).read_text()
        assert str(trained_run) not in text
        assert "data.root" not in text
        assert "/tmp" not in text


def test_a_stranger_cannot_run_code(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["eval_transform"] = {"_target_": "os.system", "command": "true"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"os\.system"):
        axialseg.load(tmp_path)
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="is damaged"):
        axialseg.load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {}")
    with pytest.raises(UserError, match="does not tell model, data and classes"):
        axialseg.load(tmp_path)
    (tmp_path / "config.yaml").write_text("[" * 20_000)
    with pytest.raises(UserError, match="is damaged"):
        axialseg.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("net", 3), ("net", "${oc.env:HOME}"), ("backbone", {"_target_": ""})]
)
def test_what_cannot_be_built(key: str, value: object, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"][key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"does not describe a model|may only build"):
        axialseg.load(tmp_path)


def test_upload_when_asked(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    """The hub's package is played: nothing may leave this machine."""
    calls: list[tuple[str, dict[str, object]]] = []

    class HfApi:
        def create_repo(self, name: str, **options: object) -> str:
            calls.append((name, options))
            return f"https://hub/{name}"

        def upload_folder(self, **options: object) -> None:
            calls.append(("folder", options))
            if options["repo_id"] == "me/refused":
                raise RuntimeError("no token\nand a long story")

    hub = ModuleType("huggingface_hub")
    hub.HfApi = HfApi  # type: ignore[attr-defined]
    hub.__spec__ = ModuleSpec("huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    lines = [f"ckpt={trained_run}", f"out={tmp_path / 'model'}"]
    share.share(lines)
    assert calls == []
    share.share([*lines, "push=me/model"])
    created, uploaded = calls
    assert created == ("me/model", {"private": True, "exist_ok": True})
    assert uploaded[1]["folder_path"] == tmp_path / "model"
    message = refusal(share.main, [*lines, "push=me/refused"])
    assert "is written, but me/refused did not take it (no token)" in message
    assert "push=model must be <user>/<name>" in refusal(share.main, [*lines, "push=model"])


def test_card_of_the_authors_weights() -> None:
    facts = RunFacts(data="cityscapes", source="g3doc/projects/axial_deeplab.md")
    card = model_card("axial_swidernet_1_1_1", True, 60000, 1, ["road"], facts, "other")
    assert "deeplab2's authors (github.com/google-research/deeplab2, g3doc/projects/" in card
    assert "Cityscapes may be used for non-commercial purposes only." in card


def test_a_place_that_cannot_be_written(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        share.share([f"ckpt={trained_run}", f"out={tmp_path / 'file' / 'model'}"])


def test_what_is_missing_is_named(refusal: Refusal) -> None:
    assert "out is not set; give it as out=" in refusal(share.main, ["ckpt=x"])
