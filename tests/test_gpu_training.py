"""The whole training step on a GPU, in every way that it is run."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from axialseg.build import build_task
from axialseg.commands import train
from axialseg.commands.command_line import compose_config
from axialseg.commands.complexity import classes_of
from axialseg.costs.benchmark import Job, training_batch
from axialseg.costs.training_memory import AUTOCAST, make_optimizer, training_step
from axialseg.layers.axial_attention import AxialAttention
from axialseg.tasks.training_task import TrainingTask

pytestmark = pytest.mark.gpu

Command = Callable[[Callable[[], None], list[str]], None]
CHECKPOINTING = "+model.backbone.activation_checkpointing=true"
CHANNELS_LAST = "++model.task.channels_last=true"
KERNEL = "model/attention=triton"
MODELS = ("axial_deeplab_tiny", "max_deeplab_tiny")
SIZE = (97, 129)


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    """A device, and float32 products in full."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


def task_and_batch(
    model: str, *options: str, device: str = "cuda"
) -> tuple[TrainingTask, dict[str, Tensor]]:
    """A task with the same weights and the same batch of two images every time."""
    height, width = SIZE
    arguments = [f"model={model}", "data=coco", f"crop=[{height},{width}]", *options]
    cfg = compose_config("memory", arguments)
    categories = classes_of(cfg)
    batch = training_batch(Job(cfg, categories, SIZE, 2, device, "32-true", compile=False))
    torch.manual_seed(0)
    task = build_task(cfg, categories).train()
    assert isinstance(task, TrainingTask)
    return task.to(device), batch


def losses_and_gradients(
    task: TrainingTask, batch: dict[str, Tensor], precision: str = "32-true"
) -> dict[str, Tensor]:
    """Of one forward and backward pass, and the statistics that it has moved."""
    dtype = AUTOCAST[precision]
    torch.manual_seed(0)
    with torch.autocast(batch["image"].device.type, dtype, enabled=dtype is not None):
        losses = task.training_losses(task.ordered(batch))
    scale = 1024.0 if precision == "16-mixed" else 1.0
    (losses.total.sum() * scale).backward()
    gradients = {n: p.grad / scale for n, p in task.named_parameters() if p.grad is not None}
    results = {**losses.terms, **gradients, **dict(task.named_buffers())}
    return {name: value.detach().float().cpu() for name, value in results.items()}


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Of all results together, relative to their norm."""
    assert one.keys() == two.keys()
    difference = sum(float((one[n] - two[n]).square().sum()) for n in two)
    return (difference / sum(float(x.square().sum()) for x in two.values())) ** 0.5


@pytest.mark.parametrize("model", MODELS)
def test_gpu_does_what_the_cpu_does(model: str) -> None:
    cpu = losses_and_gradients(*task_and_batch(model, device="cpu"))
    assert distance(losses_and_gradients(*task_and_batch(model)), cpu) < 1e-3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options", [[CHANNELS_LAST], [CHECKPOINTING], [KERNEL], [KERNEL, CHANNELS_LAST, CHECKPOINTING]]
)
def test_options_change_no_number(options: list[str], model: str) -> None:
    plain = losses_and_gradients(*task_and_batch(model))
    assert distance(losses_and_gradients(*task_and_batch(model, *options)), plain) < 1e-3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [[], [KERNEL]])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_near(precision: str, options: list[str], model: str) -> None:
    plain = losses_and_gradients(*task_and_batch(model))
    mixed = losses_and_gradients(*task_and_batch(model, *options), precision)
    for name in ("semantic", "center", "offset", "pq_mask", "pq_class", "mask_id"):
        if name in plain:
            torch.testing.assert_close(mixed[name], plain[name], rtol=0.1, atol=0.02)
    assert all(value.isfinite().all() for value in mixed.values())


@pytest.mark.parametrize("options", [[], [KERNEL], [CHECKPOINTING]])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_is_the_same(precision: str, options: list[str]) -> None:
    task, batch = task_and_batch(MODELS[0], *options)
    compiled = copy.deepcopy(task)
    compiled.net.compile()
    eager = losses_and_gradients(task, batch, precision)
    limit = 1e-3 if precision == "32-true" else 0.1
    assert distance(losses_and_gradients(compiled, batch, precision), eager) < limit


def test_kernel_is_what_runs() -> None:
    task, batch = task_and_batch(MODELS[0], KERNEL)
    layers = sum(isinstance(module, AxialAttention) for module in task.net.modules())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        losses_and_gradients(task, batch)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["axialseg::triton_attention"] == layers
    assert calls["axialseg::triton_attention_backward"] == layers


@pytest.mark.parametrize("options", [[], [KERNEL]])
def test_peak_is_the_planned_one(options: list[str]) -> None:
    from axialseg.commands.memory import _fake_step

    model = "axial_deeplab_s"
    cfg = compose_config("memory", [f"model={model}", "data=coco", "precision=bf16-mixed"])
    task, batch = task_and_batch(model, *options)
    optimizer = make_optimizer(task)
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        training_step(task, optimizer, batch, torch.bfloat16)
    planned = _fake_step(cfg, SIZE).peak_bytes(2)
    assert planned == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("options", [[], [CHANNELS_LAST, CHECKPOINTING], [KERNEL]])
def test_training_runs(
    precision: str, options: list[str], tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    hardware = ["hardware=gpu1", f"trainer.precision={precision}", f"hydra.run.dir={tmp_path}"]
    command(train.main, [*tiny_run, *hardware, *options])
    assert json.loads((tmp_path / "metrics.json").read_text())["step"] == 4


def test_two_gpus_share_batch_norms(tiny_run: list[str], tmp_path: Path, command: Command) -> None:
    """Two ranks with one image each end with the statistics of one rank with both."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    states = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        hardware = ["hardware=gpu1", f"trainer.devices={devices}", "trainer.precision=32-true"]
        one_step = ["trainer.max_steps=1", "trainer.val_check_interval=1"]
        command(train.main, [*tiny_run, *hardware, *one_step, f"hydra.run.dir={folder}"])
        checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        states.append(checkpoint["state_dict"])
    for name, value in states[0].items():
        if "running" in name:
            torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)
