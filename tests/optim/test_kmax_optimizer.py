"""AdamW of kMaX-DeepLab, its groups and its rates, against the authors' trainer."""

import pytest
import torch
from golden_data import arrays, facts
from published_models import KMAX, manifest, published_on_meta
from torch import nn

from axialseg.checkpoints.tensorflow.deeplab2 import variable_names
from axialseg.optim.adam import Adam
from axialseg.optim.param_groups import parameter_groups
from axialseg.optim.poly_schedule import PolySchedule

FILE = "kmax_optimizer"
RUNS = [
    f"{config}{part}_from_{first}"
    for config in ("kmax_axial_r50_os32_coco", "kmax_axial_r50_os32_cityscapes")
    for part in ("", "_backbone")
    for first in (0, 4998)
]


def weights(case: str, step: int, decayed: bool) -> dict[str, torch.Tensor]:
    names = [name for name, value in facts(FILE)[case]["decayed"].items() if value == decayed]
    return {name: torch.tensor(arrays(FILE)[f"{case}|w{step}|{name}"]) for name in names}


@pytest.mark.parametrize("case", ["constant_lr_1e-2", *RUNS])
def test_steps_are_the_authors(case: str) -> None:
    run = facts(FILE)[case]
    groups = [
        {"params": {n: nn.Parameter(w) for n, w in weights(case, 0, decayed).items()}, "decay": d}
        for decayed, d in ((True, 0.05), (False, 0.0))
    ]
    optimizer = Adam(
        [{"params": list(g["params"].values()), "weight_decay": g["decay"]} for g in groups]
    )
    for step in range(run["steps"]):
        first = run["first_iteration"]
        for group in optimizer.param_groups:
            group["lr"] = 0.01 if case.startswith("constant") else rate(case, first + step)
        for group in groups:
            for name, parameter in group["params"].items():
                parameter.grad = torch.tensor(arrays(FILE)[f"g{step}|{name}"])
        if step == 0 and first:  # as deeplab2 sets its count of steps, the moments being empty
            for parameter in (p for g in groups for p in g["params"].values()):
                zero = torch.zeros_like(parameter)
                optimizer.state[parameter] = {
                    "step": first,
                    "first_moment": zero,
                    "second_moment": zero.clone(),
                }
        optimizer.step()
        for group, decayed in zip(groups, (True, False), strict=True):
            for name, expected in weights(case, step + 1, decayed).items():
                actual = group["params"][name].detach()
                # A few roundings of weights of size 1.
                torch.testing.assert_close(actual, expected, rtol=0, atol=5e-7, msg=name)


def rate(case: str, iteration: int) -> float:
    config = case.partition("_from_")[0].removesuffix("_backbone")
    is_coco = config.endswith("coco")
    base = 5e-4 if is_coco else 3e-4
    curve = PolySchedule(150_000 if is_coco else 60_000, 5000)
    return base * curve(iteration) * (0.1 if "_backbone" in case else 1.0)


def test_rates_are_the_authors() -> None:
    for schedule in facts(FILE)["schedules"].values():
        curve = PolySchedule(schedule["total_steps"], schedule["warmup"])
        for step, value in schedule["values"].items():
            ours = schedule["base"] * schedule["multiplier"] * curve(int(step))
            assert ours == pytest.approx(value, rel=2e-5, abs=1e-10), step


@pytest.mark.parametrize("name", KMAX)
def test_groups_are_the_authors(name: str) -> None:
    """Kernels decay; tables, centres, biases and norms do not. The encoder is slower."""
    net = published_on_meta(name)
    theirs = variable_names(net)
    trainable = {row[0].removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): row for row in rows(name)}
    groups = parameter_groups(net, 1.0, 0.05, 0.1, decay_tables=False)
    facts_of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    parameters = dict(net.named_parameters())
    assert {theirs[ours] for ours in parameters} == set(trainable)
    for ours, parameter in parameters.items():
        lr, decay = facts_of[id(parameter)]
        assert lr == (0.1 if theirs[ours].startswith("encoder/") else 1.0), ours
        assert decay == (0.05 if theirs[ours].endswith("kernel") else 0.0), ours


def rows(name: str) -> list[list]:
    return [row for row in manifest(name)["variables"] if row[4]]
