"""What the benchmark compares: the same work in other forms, in turns, and what does not fit."""

import os
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from axialseg.build import build_net
from axialseg.commands.command_line import compose_config
from axialseg.costs import benchmark
from axialseg.costs.benchmark import (
    FEWEST_ROUNDS,
    Contestant,
    Job,
    Work,
    compare,
    contestants,
    multiply_adds,
    take_turns,
    textbook_config,
    training_batch,
)
from axialseg.datasets.image_classes import ImageClasses
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.textbook_axial_attention import TextbookAxialAttention
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

CPU = torch.device("cpu")
SMALL = ("model.backbone.stage_blocks=[1,1,1,1]", "model.backbone.stage_channels=[16,16,32,32]")


def config(*overrides: str) -> DictConfig:
    return compose_config("benchmark", list(overrides))


def job(*overrides: str, batch: int = 1) -> Job:
    classes = CITYSCAPES
    if "axial_resnet" in overrides[0]:
        classes = ImageClasses(("n1", "n2"), ("cat", "dog"))
    return Job(config(*overrides), classes, (33, 49), batch, "cpu", "32-true", False)


def idle(job: Job) -> Work:
    return lambda: None


def too_large(job: Job) -> Work:
    def work() -> None:
        raise torch.OutOfMemoryError

    return work


def killed(job: Job) -> Work:
    os.kill(os.getpid(), 9)
    return idle(job)


def test_textbook_has_the_same_weights_and_outputs() -> None:
    ours = config("model=axial_deeplab_tiny", *SMALL)
    nets = []
    for cfg in (ours, textbook_config(ours)):
        torch.manual_seed(0)
        nets.append(build_net(cfg.model, CITYSCAPES).eval())
    net, textbook = nets
    for name, weight in textbook.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name]), name
    kinds = [{type(m) for m in n.modules() if isinstance(m, AxialAttention)} for n in nets]
    assert kinds == [{AxialAttention}, {TextbookAxialAttention}]
    image = torch.rand(1, 3, 33, 49) * 255
    for one, other in zip(net(image), textbook(image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_compared() -> None:
    def forms(*overrides: str) -> dict[str, list[str]]:
        return {part: list(forms) for part, forms in contestants(job(*overrides)).items()}

    inference = [
        "ours",
        "ours, batch norms folded",
        "ours, folded, channels last",
        "ours, folded, fused",
    ]
    assert forms("model=max_deeplab_tiny") == {
        "training step": ["ours", "textbook attention"],
        "inference": [*inference, "textbook attention"],
        "post-processing": ["ours"],
    }
    assert forms("model=panoptic_deeplab_resnet50") == {
        "training step": ["ours"],
        "inference": inference,
        "post-processing": ["ours"],
    }
    assert "post-processing" not in forms("model=axial_resnet_tiny")


@pytest.mark.parametrize("model", ["axial_deeplab_tiny", "max_deeplab_tiny"])
def test_everything_runs(model: str) -> None:
    small = SMALL if model == "axial_deeplab_tiny" else ()
    for forms in contestants(job(f"model={model}", *small, batch=2)).values():
        for contestant in forms.values():
            work = contestant.make(contestant.job)
            work()
            work()


def test_a_classifier_learns_random_classes() -> None:
    task = job("model=axial_resnet_tiny", batch=3)
    batch = training_batch(task)
    assert batch["image"].shape == (3, 3, 33, 49)
    assert batch["label"].shape == (3,)
    for forms in contestants(task).values():
        for contestant in forms.values():
            contestant.make(contestant.job)()


def test_batches_multiply_the_work() -> None:
    one, three = (multiply_adds(job("model=axial_hybrid_tiny", batch=n)) for n in (1, 3))
    assert three == 3 * one > 0


def test_all_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    now = [0.0]

    def work(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds if calls.count(name) > 1 else 100.0

        return run

    works = {"a": work("a", 1.0), "b": work("b", 2.0)}
    times = take_turns(works, 0.0, CPU, clock=lambda: now[0])
    assert calls == ["a", "b"] * (FEWEST_ROUNDS + 1)
    assert times == {"a": [1.0] * FEWEST_ROUNDS, "b": [2.0] * FEWEST_ROUNDS}


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    task = job("model=axial_hybrid_tiny")
    reports: list[str] = []
    alone = {"a": Contestant(idle, task), "b": Contestant(too_large, task)}
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "in_fresh_process", lambda function, *args: function(*args))
        costs = compare(alone, 0.0, reports.append)
    assert costs["a"].rounds == FEWEST_ROUNDS
    assert costs["a"].seconds is not None
    assert costs["a"].peak_bytes is not None
    assert costs["b"] == (None, 0, None)
    lacking = "b: no memory, or its process was killed"
    assert reports == ["memory, a", "memory, b", lacking, "time"]


def test_a_killed_process_did_not_fit() -> None:
    assert benchmark.peak_bytes(Contestant(killed, job("model=axial_hybrid_tiny"))) is None


def test_out_of_memory_while_others_hold_some() -> None:
    task = job("model=axial_hybrid_tiny")
    works = {"a": idle(task), "b": too_large(task)}
    times = take_turns(works, 0.0, CPU)
    assert times["b"] == []
    assert len(times["a"]) == FEWEST_ROUNDS
