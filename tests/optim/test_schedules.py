"""Learning-rate curves against the values of deeplab2 (``lr_schedules.json``)."""

import json
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from axialseg.optim.cosine_schedule import CosineSchedule
from axialseg.optim.poly_schedule import PolySchedule

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/deeplab2/lr_schedules.json").read_text())
POLY = sorted(name for name, golden in GOLDENS.items() if "values" in golden)


@pytest.mark.parametrize("name", POLY)
def test_poly_curve_is_that_of_deeplab2(name: str) -> None:
    golden = GOLDENS[name]
    schedule = PolySchedule(golden["total_steps"], golden["warmup"], golden["power"])
    assert golden["end"] == 0.0
    for step, expected in golden["values"].items():
        # The authors' curve is float32: near its end 1 - step / total has few digits left.
        assert golden["base"] * schedule(int(step)) == pytest.approx(
            expected, rel=1e-6, abs=1e-6 * golden["base"]
        ), step


def test_all_poly_goldens_are_read() -> None:
    assert len(POLY) == 7


def test_cosine_curve_is_that_of_deeplab2() -> None:
    schedule = CosineSchedule(max_steps=1000)
    for step, expected in GOLDENS["cosine_1e-3_1k"].items():
        assert 1e-3 * schedule(int(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9), step


@pytest.mark.parametrize("schedule", [PolySchedule(100, 10), CosineSchedule(100, 10)])
def test_warmup_is_linear_and_does_not_shift_the_curve(schedule: PolySchedule) -> None:
    assert [schedule(step) for step in (0, 1, 5)] == [0.0, 0.1, 0.5]
    without_warmup = type(schedule)(100)
    assert schedule(10) == without_warmup(10) < 1.0


def test_lambda_lr_follows_the_curve() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = PolySchedule(max_steps=4, warmup_steps=1)
    scheduler = LambdaLR(optimizer, schedule)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([2.0 * schedule(step) for step in range(6)])
    assert rates[0] == 0.0
    assert rates[4] == 0.0
