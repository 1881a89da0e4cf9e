"""`import axialseg`: three functions that leave the rest of the program alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

import axialseg
from axialseg.build import build_net_on_meta
from axialseg.checkpoints.published import converted_path, published_checkpoint
from axialseg.config.compose import compose_shipped
from axialseg.config.mistakes import choices
from axialseg.datasets.image_classes import ImageClasses
from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.errors import UserError
from axialseg.machine.cache_folder import cache_folder
from axialseg.model_zoo import TABLE_PATH
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.panoptic.coco_classes import COCO

ROOT = Path(__file__).resolve().parents[1]
IMPORT_CPU_SECONDS = 0.1


def python(script: str, *arguments: str, cwd: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestModels:
    def test_the_table_is_right(self) -> None:
        table = yaml.safe_load(TABLE_PATH.read_text())
        assert sorted(table) == choices("model")
        for name, row in table.items():
            model = OmegaConf.create(compose_shipped([f"model={name}"])["model"])
            net = build_net_on_meta(model, COCO.semantic_channels if model.targets else 1000)
            assert row["parameters"] == sum(p.numel() for p in net.parameters()), name
            axial = row["family"].startswith("Axial")
            assert axial or type(net).__name__.lower().startswith(row["family"][:2].lower())

    def test_rows(self) -> None:
        rows = {row.name: row for row in axialseg.models()}
        assert rows["axial_swidernet_1_1_3"].published_pq == {"cityscapes": 67.1}
        assert rows["max_deeplab_l"].published_pq == {"coco": 51.3}
        assert rows["panoptic_deeplab_resnet50"].published_pq == {"cityscapes": 59.8, "coco": 35.1}
        assert len(rows["max_deeplab_s"].checkpoints) == 6
        assert rows["axial_resnet_50_s"].checkpoints == ()

    def test_import_is_light(self) -> None:
        script = (
            "import time; t = time.process_time(); import axialseg; t = time.process_time() - t\n"
            "import sys, axialseg.models.image_classifier\n"
            "axialseg.models()\n"  # the package of this name is loaded by now
            "print(t)"
        )
        assert float(python(script)) < IMPORT_CPU_SECONDS
        script = "import axialseg, sys; axialseg.models(); print('torch' in sys.modules)"
        assert python(script).strip() == "False"


class TestCreateModel:
    @pytest.mark.parametrize(
        ("categories", "channels"),
        [(None, 134), ("coco", 134), ("cityscapes", 19), (CITYSCAPES, 19), (7, 7), ("shapes", 10)],
    )
    def test_heads_follow_the_categories(self, categories: Any, channels: int) -> None:
        net = axialseg.create_model("axial_deeplab_tiny", categories=categories)
        assert net.semantic_head.predict.out_channels == channels
        assert net.training

    def test_max_deeplab_tells_a_number_of_classes_apart(self) -> None:
        net = axialseg.create_model("max_deeplab_tiny", categories=7).eval()
        with torch.inference_mode():
            heads = net(torch.zeros(1, 3, 65, 65, dtype=torch.uint8))
        assert isinstance(heads, MaskHeads)
        assert heads.class_logits.shape[-1] == 8
        assert heads.semantic.shape[1] == 7

    @pytest.mark.parametrize("categories", [None, 5, ImageClasses(("a",), ("a",))])
    def test_classifier(self, categories: Any) -> None:
        net = axialseg.create_model("axial_resnet_tiny", categories=categories)
        sizes = {None: 1000, 5: 5}.get(categories, 1)
        assert net.classifier.out_features == sizes

    def test_a_checkpoint_is_the_start(self, tmp_path: Path) -> None:
        source = axialseg.create_model("axial_deeplab_tiny", "cityscapes")
        torch.save(source.state_dict(), tmp_path / "weights.pth")
        net = axialseg.create_model("axial_deeplab_tiny", "coco", tmp_path / "weights.pth")
        own = net.state_dict()
        differ = {n for n, x in source.state_dict().items() if not torch.equal(x, own[n])}
        assert all(name.startswith("semantic_head.predict") for name in differ)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("axial_deeplab_sm",), "there is no model 'axial_deeplab_sm'; did you mean axial_"),
            (("axial_deeplab_tiny", "cocoo"), "there is no data 'cocoo'; did you mean coco"),
            (("axial_deeplab_tiny", "coco_format"), "give a Categories object or a number"),
            (("axial_deeplab_tiny", "patterns"), "segments images"),
            (("axial_resnet_tiny", COCO), "classifies whole images"),
            (("axial_deeplab_tiny", 3, "nowhere.ckpt"), "nowhere.ckpt does not exist"),
        ],
    )
    def test_mistakes(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            axialseg.create_model(*arguments)

    def test_without_lightning(self) -> None:
        script = (
            "import axialseg, sys\n"
            "axialseg.create_model('axial_deeplab_tiny', 'coco')\n"
            "print([name for name in sys.modules if name.startswith('lightning')])"
        )
        assert python(script).strip() == "[]"


class TestUsersHydra:
    """The process-wide state of Hydra is the user's."""

    def test_inside_initialize(self, tmp_path: Path) -> None:
        # Names as ours have; nodes that would not fit them as a schema.
        (tmp_path / "train.yaml").write_text("defaults: [model: mine, _self_]\nseed: 5\n")
        (tmp_path / "model").mkdir()
        (tmp_path / "model/mine.yaml").write_text("width: 3\n")
        store = ConfigStore.instance()
        store.store(name="train", node={"seed": 1})
        store.store(group="model", name="axial_deeplab_tiny", node={"name": 1})
        repository = repr(store.repo)
        try:
            with initialize_config_dir(str(tmp_path), version_base="1.2"):
                OmegaConf.register_new_resolver("now", lambda text: "mine", replace=True)
                before = dict(Singleton._instances)
                hydra = GlobalHydra.instance().hydra
                assert axialseg.create_model("axial_deeplab_tiny", 3) is not None
                assert GlobalHydra.instance().hydra is hydra
                assert dict(Singleton._instances) == before
                assert repr(store.repo) == repository
                cfg = compose("train")
                assert (cfg.model.width, cfg.seed) == (3, 5)
                assert OmegaConf.create({"a": "${now:x}"}).a == "mine"
        finally:
            store.repo.pop("train.yaml")
            store.repo.pop("model")
            OmegaConf.clear_resolver("now")

    def test_inside_hydra_main(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("model: axial_deeplab_tiny\nhydra: {job: {name: x}}")
        app = tmp_path / "app.py"
        app.write_text(
            "import hydra, axialseg\n"
            "from hydra.core.hydra_config import HydraConfig\n"
            "axialseg.create_model('axial_deeplab_tiny', 3)\n"
            "@hydra.main(config_path='.', config_name='config', version_base='1.2')\n"
            "def main(cfg):\n"
            "    folder = HydraConfig.get().runtime.output_dir\n"
            "    axialseg.create_model(cfg.model, 3)\n"
            "    assert HydraConfig.get().runtime.output_dir == folder\n"
            "    assert HydraConfig.get().runtime.version_base == '1.2'\n"
            "    print('job', cfg.model)\n"
            "main()\n"
            "axialseg.create_model('axial_deeplab_tiny', 3)\n"
            "main()\n"
        )
        script = (
            f"import sys, runpy; sys.argv = ['app']; runpy.run_path({str(app)!r}, None, '__main__')"
        )
        assert python(script, cwd=tmp_path).split("\n") == ["job axial_deeplab_tiny"] * 2 + [""]


@pytest.fixture(scope="module")
def run_folder(trained_run: Path) -> Path:
    return trained_run


class TestLoad:
    @pytest.mark.parametrize("where", ["", "checkpoints/last.ckpt"])
    def test_a_run(self, where: str, run_folder: Path) -> None:
        model = axialseg.load(run_folder / where)
        assert (model.name, model.step) == ("axial_deeplab_tiny", 4)
        assert [category.name for category in model.categories.classes][:2] == ["disk", "square"]
        assert not model.net.training
        stored = torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name, value in model.net.state_dict().items():
            assert torch.equal(value, stored[f"net.{name}"])
        assert model.config["model"]["postprocess"]["nms_kernel"] == 11
        assert model.config["data"]["eval_transform"]["stride"] == 16

    def test_where_the_data_are_not(self, run_folder: Path, tmp_path: Path) -> None:
        content = torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)
        content["hyper_parameters"]["data"]["root"] = str(tmp_path / "nowhere")
        torch.save(content, tmp_path / "moved.ckpt")
        assert len(axialseg.load(tmp_path / "moved.ckpt").categories) == 9
        assert not (tmp_path / "nowhere").exists()

    def test_a_checkpoint_of_before(self, run_folder: Path, tmp_path: Path) -> None:
        """It holds no classes, and names modules that have moved."""
        content = torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)
        del content["classes"]
        for split in ("train", "val"):
            node = content["hyper_parameters"]["data"][f"{split}_dataset"]
            node["_target_"] = "axialseg.datasets.shapes.shapes_panoptic"
        torch.save(content, tmp_path / "old.ckpt")
        assert len(axialseg.load(tmp_path / "old.ckpt").categories) == 9

    def test_a_published_checkpoint(self) -> None:
        """Its settings are the authors', the output stride too."""
        from safetensors.torch import save_file

        name = "resnet50_os16_panoptic_deeplab_coco_train"
        source = axialseg.create_model(published_checkpoint(name).model, "coco")
        file = converted_path(name, cache_folder())
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(source.state_dict(), file)
        try:
            model = axialseg.load(name)
        finally:
            file.unlink()
        assert model.categories is COCO
        assert model.net.backbone.output_stride == 16
        assert model.config["data"]["crop_size"] == [641, 641]
        assert torch.equal(
            model.net.semantic_head.predict.weight, source.semantic_head.predict.weight
        )

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nowhere", "the checkpoint nowhere does not exist"),
            (
                "resnet50_os16_panoptic_deeplab_coco_train",
                "python -m axialseg download resnet50_os16",
            ),
            ("weights.pth", "does not tell its model"),
            ("weights.safetensors", "does not tell its model"),
        ],
    )
    def test_mistakes(
        self, source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
        (tmp_path / "weights.safetensors").write_bytes(b"x")
        with pytest.raises(UserError, match=message):
            axialseg.load(source)

    def test_a_pickle_runs_no_code(self, tmp_path: Path) -> None:
        class Bad:
            def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
                return Path.touch, (tmp_path / "touched",)

        torch.save({"hyper_parameters": Bad(), "state_dict": {}}, tmp_path / "bad.ckpt")
        with pytest.raises(UserError, match=r"bad\.ckpt is refused"):
            axialseg.load(tmp_path / "bad.ckpt")
        assert not (tmp_path / "touched").exists()
