"""Two ranks train as one does: with the same total batch, the same losses and gradients."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from axialseg.commands import train
from axialseg.loggers.csv import read_table

Command = Callable[[Callable[[], None], list[str]], None]
STEPS = 20
TOLERANCE = 1e-9  # relative to the largest value of a tensor


@pytest.mark.parametrize("model", ["tiny_run", "tiny_max_run"])
def test_losses_and_gradients_in_float64(
    model: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Path(__file__).parent
    paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    arguments = [*request.getfixturevalue(model), "trainer.precision=64-true"]
    arguments += [f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}"]
    arguments += ["schedule.batch_size=4", "+callbacks.record._target_=step_record.StepRecord"]
    for ranks in (1, 2):
        where = [f"trainer.devices={ranks}", f"hydra.run.dir={tmp_path / str(ranks)}"]
        command(train.main, [*arguments, *where])
    logged = [dict(read_table(tmp_path / ranks / "metrics.csv")) for ranks in "12"]
    for name, value in logged[0][STEPS - 1].items():
        if name.startswith("train/"):  # Lightning keeps float32
            assert logged[1][STEPS - 1][name] == pytest.approx(value, rel=1e-6), name
    for step in range(STEPS):
        one, first, second = (
            torch.load(tmp_path / rank / f"loss_{step}.pt")
            for rank in ("1/rank_0", "2/rank_0", "2/rank_1")
        )
        assert one.dtype == torch.float64
        assert first != second
        torch.testing.assert_close((first + second) / 2, one, rtol=TOLERANCE, atol=0)
        alone, shared = (
            torch.load(tmp_path / rank / f"gradients_{step}.pt")
            for rank in ("1/rank_0", "2/rank_0")
        )
        assert alone.keys() == shared.keys()
        largest = max(gradient.abs().max() for gradient in alone.values())
        for name, gradient in alone.items():
            error = (shared[name] - gradient).abs().max()
            assert error <= TOLERANCE * largest, (step, name, float(error))
