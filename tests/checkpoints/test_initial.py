"""Weights from every kind of checkpoint into networks that fit, half fit or do not fit."""

import os
import pickle
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from reference_checkpoint import (
    FORMS,
    PREFIX,
    as_archive,
    as_folder,
    as_run_checkpoint,
    as_safetensors,
    assert_golden_outputs,
    imagenet_variables,
    imported,
    state,
    tensorflow_variables,
    tiny_net,
    write_tensorflow,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from axialseg.checkpoints import sources
from axialseg.checkpoints.initial import load_initial_weights, load_trained_weights
from axialseg.checkpoints.published import converted_path
from axialseg.errors import UserError

LAST_LAYER = ("semantic_head.predict.weight", "semantic_head.predict.bias")
PUBLISHED = "axial_swidernet_1_1_1_os16_axial_deeplab_cityscapes_trainfine"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return imported().state_dict()


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    different = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert different == []


class TestWhole:
    def test_golden_outputs(self) -> None:
        net = tiny_net()
        load_initial_weights(net, PREFIX)
        assert_golden_outputs(net)

    def test_folder_of_a_run(self, reference: dict[str, Tensor], tmp_path: Path) -> None:
        """The second stage of a recipe names the folder of the first."""
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(UserError, match="holds no checkpoint of a run"):
            load_initial_weights(tiny_net(), tmp_path)
        shutil.copy(as_run_checkpoint(tmp_path), tmp_path / "checkpoints/last.ckpt")
        net = tiny_net()
        load_initial_weights(net, tmp_path)
        assert_equal(net.state_dict(), reference)

    @pytest.mark.parametrize("form", FORMS)
    def test_every_form_gives_the_same_weights(
        self, form: str, reference: dict[str, Tensor], tmp_path: Path
    ) -> None:
        net = tiny_net()
        report = load_initial_weights(net, str(FORMS[form](tmp_path)))
        assert_equal(net.state_dict(), reference)
        assert sorted(report.loaded) == sorted(reference)
        assert report.initialised == {}

    @pytest.mark.parametrize("form", FORMS)
    def test_for_evaluation(self, form: str, reference: dict[str, Tensor], tmp_path: Path) -> None:
        net = tiny_net()
        steps = load_trained_weights(net, FORMS[form](tmp_path))
        assert_equal(net.state_dict(), reference)
        assert steps == (0 if "state_dict" in form else 1)

    def test_archive_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(sources.tempfile, "tempdir", str(temporary))
        load_initial_weights(tiny_net(), as_archive(tmp_path))
        assert list(temporary.iterdir()) == []

    def test_half_precision_is_converted(self, tmp_path: Path) -> None:
        net = tiny_net()
        save_file({n: v.half() for n, v in net.state_dict().items()}, tmp_path / "h.safetensors")
        expected = {name: value.half().float() for name, value in state(net).items()}
        load_initial_weights(net, tmp_path / "h.safetensors")
        assert_equal(net.state_dict(), expected)
        assert {value.dtype for value in net.state_dict().values()} == {torch.float32}


class TestReport:
    def test_tensorflow_checkpoint(self) -> None:
        report = load_initial_weights(tiny_net(), PREFIX)
        assert Counter(report.left_out.values()) == {
            "optimiser slot": 438,
            "optimiser state": 4,
            "graph of the saved objects": 1,
            "number of the checkpoint": 1,
            "number of the training step": 1,
        }
        lines = str(report).splitlines()
        assert lines[0] == f"{PREFIX}: 357 of the model's 357 tensors are loaded"
        assert lines[1].startswith("  loaded: backbone.stem 5, backbone.stages 246, ")
        slots = next(line for line in lines if "optimiser slot" in line)
        assert slots.startswith("  not taken from the file: 438 tensors (optimiser slot): encoder ")

    def test_checkpoint_of_a_run(self, tmp_path: Path) -> None:
        report = load_initial_weights(tiny_net(), as_run_checkpoint(tmp_path))
        assert report.left_out == {
            "optimizer_states": "state of the run",
            "global_step": "state of the run",
            "epoch": "state of the run",
            "loss.scale": "not of the network",
        }

    def test_other_number_of_classes(self, reference: dict[str, Tensor]) -> None:
        net = tiny_net(classes=7)
        before = state(net)
        report = load_initial_weights(net, PREFIX)
        assert tuple(report.initialised) == LAST_LAYER
        assert "[19, 16, 1, 1] in the file, [7, 16, 1, 1]" in report.initialised[LAST_LAYER[0]]
        assert report.left_out["semantic_last_layer/kernel"] == "another number of classes"
        assert_equal(net.state_dict(), {name: before[name] for name in LAST_LAYER})
        others = {n: v for n, v in reference.items() if n not in LAST_LAYER}
        assert_equal(net.state_dict(), others)
        assert re.search(
            r"left at initialisation: semantic_head.predict.bias \(.*\[7\]", str(report)
        )

    def test_backbone_only(self, reference: dict[str, Tensor]) -> None:
        net = tiny_net("model.net.semantic_decoder.channels=32")  # which is not an obstacle then
        before = state(net)
        report = load_initial_weights(net, PREFIX, backbone_only=True)
        heads = {n: v for n, v in before.items() if not n.startswith("backbone.")}
        assert_equal(net.state_dict(), heads)
        assert report.initialised == dict.fromkeys(heads, "only the backbone was asked for")
        backbone = {n: v for n, v in reference.items() if n.startswith("backbone.")}
        assert_equal(net.state_dict(), backbone)
        assert report.left_out["semantic_last_layer/bias"] == "not asked for"


class TestBackboneAlone:
    def bare(self, folder: Path) -> Path:
        torch.save(imported().get_submodule("backbone").state_dict(), folder / "bare.pth")
        return folder / "bare.pth"

    def prefixed(self, folder: Path) -> Path:
        weights = {n: v for n, v in imported().state_dict().items() if n.startswith("backbone.")}
        save_file(weights, folder / "backbone.safetensors")
        return folder / "backbone.safetensors"

    def imagenet(self, folder: Path) -> Path:
        return write_tensorflow(folder / "ckpt-60", imagenet_variables())

    @pytest.mark.parametrize("form", ["bare", "prefixed", "imagenet"])
    def test_heads_stay(self, form: str, reference: dict[str, Tensor], tmp_path: Path) -> None:
        net = tiny_net(classes=7)
        before = state(net)
        report = load_initial_weights(net, getattr(self, form)(tmp_path))
        backbone = {n: v for n, v in reference.items() if n.startswith("backbone.")}
        assert_equal(net.state_dict(), backbone)
        heads = {n: v for n, v in before.items() if n not in backbone}
        assert_equal(net.state_dict(), heads)
        assert report.initialised == dict.fromkeys(heads, "nothing of it is in the file")
        unknown = {"backbone/_classifier/kernel": "the model has no such part"}
        assert report.left_out == (unknown if form == "imagenet" else {})

    def test_is_not_enough_for_evaluation(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"another model or data set: .* more differ"):
            load_trained_weights(tiny_net(), self.prefixed(tmp_path))


class TestRefusal:
    """The network is as before after each."""

    def refused(self, source: str | Path, message: str, net: nn.Module | None = None) -> str:
        net = tiny_net() if net is None else net
        before = state(net)
        with pytest.raises(UserError, match=message) as caught:
            load_initial_weights(net, source)
        assert_equal(net.state_dict(), before)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("form", ["prefix", "safetensors", "run"])
    def test_other_backbone(self, form: str, tmp_path: Path) -> None:
        net = tiny_net("model.backbone.stage_channels=[16,16,32,64,256]")
        message = self.refused(FORMS[form](tmp_path), "is of another architecture", net)
        first = "backbone.stages.stage5.0.branch.conv1.conv.weight is [128, 64, 1, 1] in the file"
        assert f"than the model: {first} but [256, 64, 1, 1] in the model, " in message
        assert "initial_backbone_only" not in message

    def test_fewer_blocks_than_the_file(self) -> None:
        net = tiny_net("model.backbone.stage_blocks=[3,2,3,2,2]")
        self.refused(PREFIX, r"encoder/_stage3/_block4/\S+ is only in the file", net)

    def test_more_blocks_than_the_file(self) -> None:
        net = tiny_net("model.backbone.stage_blocks=[3,2,5,2,2]")
        self.refused(PREFIX, r"stage3\.4\.\S+ is not in the file", net)

    def test_other_decoder(self) -> None:
        net = tiny_net("model.net.semantic_decoder.channels=32")
        self.refused(PREFIX, r"semantic_decoder\..*model\.initial_backbone_only=true$", net)

    def test_other_width_of_a_head(self) -> None:
        self.refused(PREFIX, "center_head", tiny_net("model.net.instance_head_channels=16"))

    def test_nothing_in_common(self, tmp_path: Path) -> None:
        torch.save({"layer1.weight": torch.ones(3)}, tmp_path / "other.pth")
        self.refused(tmp_path / "other.pth", r"holds nothing of this model .*layer1\.weight")

    @pytest.mark.parametrize("form", ["index", "folder", "archive", "safetensors", "run"])
    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
    def test_truncated(self, form: str, kept: float, tmp_path: Path) -> None:
        path = self.copied(form, tmp_path)
        victim = path / "ckpt-1.data-00000-of-00001" if path.is_dir() else path
        content = victim.read_bytes()
        victim.write_bytes(content[: int(kept * len(content))])
        self.refused(path, re.escape(str(victim)))

    @pytest.mark.parametrize("form", ["index", "folder", "archive", "safetensors", "run"])
    @pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
    def test_damaged(self, form: str, place: float, tmp_path: Path) -> None:
        path = self.copied(form, tmp_path)
        victim = path / "ckpt-1.data-00000-of-00001" if path.is_dir() else path
        content = bytearray(victim.read_bytes())
        # The last two thirds of the TensorFlow checkpoint are optimiser slots, which nobody reads.
        end = len(content) // 3 if path.is_dir() else len(content)
        for position in range(int(place * end), end, 10_000):
            content[position] ^= 0x10
        victim.write_bytes(content)
        self.refused(path, re.escape(str(victim)))

    @staticmethod
    def copied(form: str, folder: Path) -> Path:
        if form == "index":
            return as_folder(folder) / "ckpt-1.index"
        return FORMS[form](folder)

    def test_code_in_a_checkpoint_does_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(tmp_path / "done"),)

        torch.save({"state_dict": {"net.x": torch.ones(1)}, "y": Evil()}, tmp_path / "e.ckpt")
        (tmp_path / "e.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
        for name in ("e.ckpt", "e.pth"):
            self.refused(tmp_path / name, "holds more than tensors")
        assert not (tmp_path / "done").exists()

    @pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"a": 1}, [torch.ones(1)]])
    def test_no_weights(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "none.ckpt")
        self.refused(tmp_path / "none.ckpt", "holds no weights of a network")

    def test_member_of_a_run_checkpoint_is_missing(self, tmp_path: Path) -> None:
        path = as_run_checkpoint(tmp_path)
        shutil.move(path, tmp_path / "whole.ckpt")
        with zipfile.ZipFile(tmp_path / "whole.ckpt") as whole, zipfile.ZipFile(path, "w") as part:
            for name in whole.namelist():
                if not name.endswith("data/7"):
                    part.writestr(name, whole.read(name))
        self.refused(path, "is damaged; copy it again")

    def test_converted_file_with_other_values(self, tmp_path: Path) -> None:
        path = as_safetensors(tmp_path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # one bit of one weight, which the format itself does not notice
        path.write_bytes(content)
        self.refused(path, "truncated or corrupt")

    def test_model_without_counterpart(self) -> None:
        class Other(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.Linear(2, 2)

        self.refused(PREFIX, "no counterpart there", Other())

    def test_missing_variable(self, tmp_path: Path) -> None:
        values = tensorflow_variables()
        del values["encoder/_stem/_conv/kernel"]
        path = write_tensorflow(tmp_path / "ckpt-2", values)
        self.refused(path, r"backbone\.stem\.conv\.conv\.weight is not in the file")


class TestSource:
    def test_published_name_is_taken_from_the_cache(
        self, reference: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AXIALSEG_CACHE", str(tmp_path))
        as_safetensors(tmp_path).rename(converted_path(PUBLISHED, tmp_path))
        net = tiny_net()
        load_initial_weights(net, PUBLISHED)
        assert_equal(net.state_dict(), reference)

    def test_published_name_that_is_not_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AXIALSEG_CACHE", str(tmp_path))
        with pytest.raises(UserError, match=f"python -m axialseg download {PUBLISHED}"):
            load_initial_weights(tiny_net(), PUBLISHED)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("source", "cure"),
        [
            (PUBLISHED.replace("fine", ""), f"did you mean the published {PUBLISHED}"),
            ("runs/last.ckpt", "correct its name"),
            ("runs/ckpt-7", "correct its name"),
        ],
    )
    def test_nothing_of_that_name(self, source: str, cure: str) -> None:
        with pytest.raises(UserError, match=f"{source} does not exist; {cure}"):
            load_initial_weights(tiny_net(), source)

    def test_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        as_safetensors(tmp_path)
        load_initial_weights(tiny_net(), "~/tiny.safetensors")

    def test_folder_without_a_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no TensorFlow checkpoint"):
            load_initial_weights(tiny_net(), tmp_path)


@pytest.mark.parametrize("classes", [7, 19])
def test_evaluation_takes_no_other_classes(classes: int) -> None:
    net = tiny_net(classes=classes)
    if classes == 19:
        load_trained_weights(net, PREFIX)
        return
    with pytest.raises(UserError, match=r"another model or data set: semantic_head\.predict\.w"):
        load_trained_weights(net, PREFIX)


def test_evaluation_takes_nothing_more(tmp_path: Path) -> None:
    values = tensorflow_variables() | {"pixel_space_head/x": imagenet_variables().popitem()[1]}
    path = write_tensorflow(tmp_path / "ckpt-2", values)
    load_initial_weights(tiny_net(), path)
    with pytest.raises(UserError, match="pixel_space_head/x differ"):
        load_trained_weights(tiny_net(), path)
