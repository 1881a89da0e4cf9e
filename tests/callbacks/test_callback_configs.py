"""The choices of `conf/callbacks/` build."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from axialseg.config.schema import register_schemas

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize(
    "name", [file.stem for file in sorted((CONF / "callbacks").glob("*.yaml"))]
)
def test_callbacks_build(name: str) -> None:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"callbacks={name}", "trainer.val_check_interval=7"])
    built = {key: instantiate(node) for key, node in cfg.callbacks.items()}
    assert all(isinstance(callback, pl.Callback) for callback in built.values())
    assert "evaluation" in built
    if name != "evaluation":
        assert built["last_checkpoint"].every_n_steps == 7
    assert ("ema" in built) == (name == "ema")
    assert ("early_stopping" in built) == (name == "early_stopping")
