"""`python -m axialseg memory`, and the fake step of real models against the real one."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from axialseg.build import build_net_on_meta, build_task
from axialseg.commands import memory
from axialseg.commands.command_line import compose_config
from axialseg.commands.complexity import classes_of
from axialseg.costs.fit import RANK_BYTES
from axialseg.costs.training_memory import LiveBytes, make_optimizer, training_step
from axialseg.machine.peak_memory import in_fresh_process
from axialseg.panoptic.coco_classes import COCO
from benchmarks.memory_planner import measure, measure_process, plan, plan_process

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]
SMALL = [
    "model=axial_hybrid_tiny",
    "model.backbone.stage_blocks=[1,1,1,1]",
    "data=coco",
    "crop=[33,49]",
    "precision=32-true",
]
CLASSIFIER = [
    "model=axial_resnet_tiny",
    "data=imagenet",
    "data.root=/none",
    "crop=[65,65]",
    "precision=32-true",
]
CHECKPOINTED = "+model.backbone.activation_checkpointing=true"


class Line:
    """Stands in for a `FakeStep` whose peak is a line."""

    weights, gradients, optimizer_state = 11 * 10**6, 10 * 10**6, 20 * 10**6

    def peak_bytes(self, images: int) -> int:
        return 60 * 10**6 + images * 25 * 10**6

    def process_bytes(self, images: int) -> int:
        return 2 * self.peak_bytes(images)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_fake_step", lambda cfg, crop: Line())


@pytest.mark.usefixtures("line")
def test_json(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(memory.main, [*SMALL, "gpu=200MB", "reserve=0.05", "batch=7", "format=json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "model": "axial_hybrid_tiny",
        "crop": [33, 49],
        "precision": "32-true",
        "gpu": 200 * 10**6,
        "batch_size": 64,
        "weights": 11 * 10**6,
        "gradients": 10 * 10**6,
        "optimizer_state": 20 * 10**6,
        "peak_of_one": 85 * 10**6,
        "per_image": 25 * 10**6,
        "largest_batch": 4,  # 60 + 4 * 25 and two copies of the gradients are 180 of 190
        "peak_of_largest": 160 * 10**6,
        "peak_of_batch": 235 * 10**6,
        "shares": [{"devices": n, "images": 4, "accumulated": 16 // n} for n in (1, 2, 4, 8, 16)],
    }


@pytest.mark.usefixtures("line")
def test_table(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(memory.main, [*SMALL, "gpu=0.25GiB", "batch=1", "schedule.batch_size=10"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "axial_hybrid_tiny, crop 33x49, 32-true; the recipe's batch is 10 images"
    assert lines[5].split() == ["peak", "of", "a", "step", "with", "1", "image", "81.06", "MiB"]
    assert "fits into 256.00 MiB, of which 10% are left free: 6 images." in lines[-5]
    assert lines[-3:] == [
        "devices  images each  trainer.accumulate_grad_batches  images of a batch norm",
        "      1            5                                2                       5",
        "      2            5                                1                      10",
    ]
    command(memory.main, [*SMALL, "gpu=100MB"])
    assert "Not one image fits into 95.37 MiB" in capsys.readouterr().out


@pytest.mark.usefixtures("line")
def test_a_process_on_a_cpu(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL[:-1], "cpu=2GB", "reserve=0", "data.num_workers=0", "format=json"]
    command(memory.main, arguments)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["precision"], printed["cpu"]) == ("32-true", 2 * 10**9)
    libraries = printed["peak_of_one"] - 2 * 85 * 10**6
    assert libraries == pytest.approx(RANK_BYTES, rel=0.001)  # and one small sample
    assert printed["per_image"] == pytest.approx(50 * 10**6, rel=0.001)
    assert printed["largest_batch"] == (2 * 10**9 - 120 * 10**6 - RANK_BYTES) // (50 * 10**6)
    assert [share["devices"] for share in printed["shares"]] == [1]
    command(memory.main, [*arguments[:-2], "data.num_workers=3"])
    assert "training on a CPU, workers included, with 1 image" in capsys.readouterr().out


def test_fake_step_is_the_real_one() -> None:
    masks = 5
    arguments = ["model=max_deeplab_tiny", *SMALL[1:], f"masks={masks}"]
    cfg = compose_config("memory", arguments)
    fake = memory._fake_step(cfg, (33, 49))
    targets = fake_targets(fake._sample, masks)
    with LiveBytes() as live:
        task = build_task(cfg, COCO).train()
        optimizer = make_optimizer(task)
        batch = {name: torch.from_numpy(np.stack([x, x])) for name, x in targets.items()}
        for _ in range(2):
            live.reset_peak()
            training_step(task, optimizer, batch, None)
    assert fake.weights == sum(x.nbytes for x in task.net.state_dict().values())
    assert fake.peak_bytes(2) == pytest.approx(live.peak, rel=0.03)


def fake_targets(sample: dict[str, np.ndarray], masks: int) -> dict[str, np.ndarray]:
    """Ground truth with so many masks, stripes of things, instead of none."""
    stripes = np.broadcast_to(np.arange(33)[:, None] * masks // 33, (33, 49)).astype(np.int32)
    filled = dict(sample, semantic=np.full_like(stripes, COCO.thing_ids[0]))
    if "thing_id_mask" in sample:
        classes = sample["thing_id_class"].copy()
        classes[:masks] = COCO.thing_ids[:masks]
        filled |= {"thing_id_mask": stripes, "thing_id_class": classes}
    return filled


def test_options_that_save_memory_save() -> None:
    peaks = []
    arguments = [*SMALL, "data=cityscapes", "crop=[257,257]"]
    for option in ([], ["precision=bf16-mixed"], [CHECKPOINTED]):
        fake = memory._fake_step(compose_config("memory", [*arguments, *option]), (257, 257))
        peaks.append(fake.peak_bytes(2))
    assert peaks[1] < 0.9 * peaks[0]
    assert peaks[2] < 0.95 * peaks[0]


def test_planned_peak_is_the_measured_one() -> None:
    arguments = ["model=axial_hybrid_tiny", "crop=[129,129]"]
    measured = in_fresh_process(measure, arguments, 4)
    assert in_fresh_process(plan, arguments, 4) == pytest.approx(measured, rel=0.15)


def test_planned_process_is_the_measured_one() -> None:
    arguments = ["model=axial_hybrid_tiny", "crop=[257,257]"]
    measured = in_fresh_process(measure_process, arguments, 4)
    assert in_fresh_process(plan_process, arguments, 4) == pytest.approx(measured, rel=0.1)


def test_classifier_without_its_data(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(memory.main, [*CLASSIFIER, "gpu=200MiB", "batch=3", "format=json"])
    printed = json.loads(capsys.readouterr().out)
    net = build_net_on_meta(compose_config("memory", CLASSIFIER).model, 1000)
    trained = sum(p.numel() for p in net.parameters())
    assert printed["gradients"] == printed["optimizer_state"] == 4 * trained
    assert printed["batch_size"] == 1024
    assert printed["peak_of_one"] < printed["peak_of_batch"] < printed["peak_of_largest"]
    assert printed["peak_of_largest"] < 180 * 2**20


def test_fake_step_of_a_classifier_is_the_real_one() -> None:
    cfg = compose_config("memory", CLASSIFIER)
    fake = memory._fake_step(cfg, (65, 65))
    with LiveBytes() as live:
        task = build_task(cfg, classes_of(cfg)).train()
        optimizer = make_optimizer(task)
        images = torch.zeros(2, 3, 65, 65, dtype=torch.uint8)
        for _ in range(2):
            live.reset_peak()
            batch = {"image": images.clone(), "label": torch.tensor([3, 999])}
            training_step(task, optimizer, batch, None)
    assert fake.peak_bytes(2) == pytest.approx(live.peak, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model=axial_resnet_50_s"], "classifies whole images, but the data are panoptic"),
        (["crop=[65,65]"], "model"),
        (["model=axial_deeplab_s", "crop=65"], "crop=65 is not a size in pixels"),
        (
            ["model=axial_deeplab_s", "gpu=80"],
            "gpu=80 is not a size of memory; write it as gpu=80GiB",
        ),
        (["model=axial_deeplab_s", "gpu=0GiB"], "gpu=0GiB is not a size of memory"),
        (["model=axial_deeplab_s", "precision=bf16"], "there are: bf16-mixed, 16-mixed, 32-true"),
        (["model=axial_deeplab_s", "reserve=1"], "reserve=1"),
        (["model=axial_deeplab_s", "batch=0"], "batch=0, but it must be 1 or more"),
        (["model=axial_deeplab_s", "format=jsn"], "there are: table, json"),
        (["model=axial_deeplab_s", "data=coco_formt"], "did you mean data=coco_format?"),
        (["model=axial_deeplab_s", "model.net.chanels=1"], "model.net.chanels does not exist"),
    ],
)
def test_mistakes(refusal: Refusal, arguments: list[str], sentence: str) -> None:
    assert sentence in refusal(memory.main, arguments)


def test_usage(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(memory.main, [])
    assert "usage: python -m axialseg memory model=<name>" in capsys.readouterr().out
