"""What a training step and a prediction cost: time and peak memory, ours beside the textbook form.

Times are taken in one process in which the contestants take turns, so that other work of the
machine slows all of them alike. Peaks of memory are taken in a process for each, see
`axialseg.machine.peak_memory`. Images are noise, and the ground truth is a generated scene.
"""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from axialseg.build import Classes, build, build_net_of_channels, build_net_on_meta, build_task
from axialseg.costs.complexity import part_costs, total_cost
from axialseg.costs.synthetic_scene import perfect_outputs, scene
from axialseg.costs.training_memory import AUTOCAST, make_optimizer, training_step
from axialseg.datasets.image_classes import ImageClasses
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.inference.fused_convolutions import inference_form
from axialseg.inference.predict import predict
from axialseg.layers.axial_attention import AxialAttention
from axialseg.machine.hardware import Hardware, configure_torch
from axialseg.machine.peak_memory import PeakMemory, in_fresh_process
from axialseg.tasks.training_task import TrainingTask

TEXTBOOK = "axialseg.layers.textbook_axial_attention.TextbookAxialAttention"
PEAK_RUNS = 2
WARM_UP_SIZE = 65
FEWEST_ROUNDS, MOST_ROUNDS = 3, 200

Work = Callable[[], object]


class Job(NamedTuple):
    """What is measured, and on what; it can be sent to another process.

    Attributes:
        config: composed, with `model`, `schedule`, `trainer` and `seed`.
        categories: the classes.
        size: (height, width) of the images.
        batch: images at a time.
        device: as PyTorch names it.
        precision: Lightning's name, a key of `axialseg.costs.training_memory.AUTOCAST`.
        compile: networks run through `torch.compile`.
    """

    config: DictConfig
    categories: Classes
    size: tuple[int, int]
    batch: int
    device: str
    precision: str
    compile: bool


class Contestant(NamedTuple):
    """Something to be measured.

    Attributes:
        make: builds it from the job, ready to run again and again; of a module's top level.
        job: its job.
    """

    make: Callable[[Job], Work]
    job: Job


class Cost(NamedTuple):
    """What one contestant was measured at; all None where the memory did not suffice.

    Attributes:
        seconds: for one batch, the median.
        rounds: how often it was timed.
        peak_bytes: of all that it holds: weights, gradients, optimiser, features.
    """

    seconds: float | None
    rounds: int
    peak_bytes: int | None


def contestants(job: Job) -> dict[str, dict[str, Contestant]]:
    """What there is to compare for a model: part of the work -> form -> contestant.

    The first form of each part is ours as it is. Models without axial attention have no textbook
    form, and classifiers no post-processing.
    """
    folded = partial(inference_work, form=fold_batch_norms)
    last = partial(inference_work, form=folded_channels_last)
    parts = {
        "training step": {"ours": Contestant(training_work, job)},
        "inference": {
            "ours": Contestant(inference_work, job),
            "ours, batch norms folded": Contestant(folded, job),
            "ours, folded, channels last": Contestant(last, job),
        },
    }
    if job.device == "cpu":
        fused = partial(inference_work, form=fused_for(job.precision))
        parts["inference"]["ours, folded, fused"] = Contestant(fused, job)
    if _has_axial_attention(job):
        peer = job._replace(config=textbook_config(job.config))
        parts["training step"]["textbook attention"] = Contestant(training_work, peer)
        parts["inference"]["textbook attention"] = Contestant(inference_work, peer)
    if job.config.model.postprocess is not None:
        parts["post-processing"] = {"ours": Contestant(postprocess_work, job)}
    return parts


def _has_axial_attention(job: Job) -> bool:
    net = build_net_on_meta(job.config.model, _channels(job.categories))
    return any(isinstance(module, AxialAttention) for module in net.modules())


def compare(
    forms: Mapping[str, Contestant], seconds: float, report: Callable[[str], None]
) -> dict[str, Cost]:
    """Measures contestants that do the same.

    Args:
        forms: by name; all on the same device.
        seconds: that the timing shall take, at the least.
        report: told what begins.
    """
    device = torch.device(next(iter(forms.values())).job.device)
    _configure(device)
    peaks = {}
    for name, contestant in forms.items():
        report(f"memory, {name}")
        peaks[name] = peak_bytes(contestant)
        if peaks[name] is None:
            report(f"{name}: no memory, or its process was killed")
    report("time")
    works = {name: c.make(c.job) for name, c in forms.items() if peaks[name] is not None}
    times = take_turns(works, seconds, device)
    works.clear()
    _give_back(device)
    return {
        name: Cost(
            statistics.median(times[name]) if times.get(name) else None,
            len(times.get(name, ())),
            peak,
        )
        for name, peak in peaks.items()
    }


def peak_bytes(contestant: Contestant) -> int | None:
    """Peak memory of a contestant in a process of its own; None if that did not suffice."""
    try:
        return in_fresh_process(_peak_bytes_here, contestant)
    except BrokenProcessPool:  # the system has killed it
        return None


def _peak_bytes_here(contestant: Contestant) -> int | None:
    make, job = contestant
    device = torch.device(job.device)
    _configure(device)
    height, width = (min(n, WARM_UP_SIZE) for n in job.size)
    try:
        # What the libraries set up once and keep is nothing of the model's.
        make(job._replace(size=(height, width), batch=1, compile=False))()
        _give_back(device)
        memory = PeakMemory(device)
        work = make(job)
        work()  # makes the optimiser's state, and compiles
        memory.reset()
        for _ in range(PEAK_RUNS):
            work()
    except torch.OutOfMemoryError:
        return None
    return memory.bytes()


def take_turns(
    works: Mapping[str, Work],
    seconds: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Runs all works in turns after a first round that is not counted.

    Args:
        works: by name.
        seconds: the rounds go on until so much time has passed, `FEWEST_ROUNDS` at least.
        device: that each work is waited for on.
        clock: seconds, as of `time`.

    Returns:
        Seconds of each run; none of a work for which the device had no memory.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    fit = dict(works)
    end = None
    rounds = 0
    while end is None or rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        for name in tuple(fit):
            try:
                start = clock()
                fit[name]()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times[name].append(clock() - start)
            except torch.OutOfMemoryError:
                del fit[name]
                times[name] = []
        if end is None:
            end = time.perf_counter() + seconds
            times = {name: [] for name in works}
            continue
        rounds += 1
        if rounds == MOST_ROUNDS or not fit:
            break
    return times


def machine(device: str) -> str:
    """The processor or GPU, the threads and the versions, in one line."""
    threads = torch.get_num_threads()
    name = f"{threads} thread{'s' if threads > 1 else ''} of {processor()}"
    if device == "cuda":
        name = torch.cuda.get_device_name()
    system = f"{platform.system()} {platform.machine()}"
    return f"{name}; {system}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def processor() -> str:
    """The name that the machine gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def multiply_adds(job: Job) -> int:
    """Of one forward pass of what the outputs need, in the textbook's count."""
    net = build_net_on_meta(job.config.model, _channels(job.categories)).eval()
    parts = part_costs(net, job.size)
    return job.batch * total_cost([part for part in parts if part.is_run]).multiply_adds


def textbook_config(config: DictConfig) -> DictConfig:
    """The config with every axial attention in textbook form; the weights are the same."""
    textbook = {"model": {"attention": {"layer": TEXTBOOK}}}
    return cast(DictConfig, OmegaConf.merge(config, textbook))


def training_work(job: Job) -> Work:
    """One optimiser step: forward pass, loss, backward pass, update."""
    torch.manual_seed(0)
    task = cast(TrainingTask, build_task(job.config, job.categories)).to(job.device).train()
    optimizer = make_optimizer(task)
    if job.compile:
        task.net.compile(dynamic=False)
    batch = training_batch(job)
    return lambda: training_step(task, optimizer, batch, AUTOCAST[job.precision])


def inference_work(job: Job, form: Callable[[nn.Module], nn.Module] | None = None) -> Work:
    """One forward pass for predictions, from 8-bit images that are on the device.

    Args:
        job: what to run.
        form: makes a faster form of the network; None takes it as it is.
    """
    torch.manual_seed(0)
    net = build_net_of_channels(job.config.model, _channels(job.categories)).to(job.device).eval()
    if form is not None:
        net = form(net)
    batch = training_batch(job)
    image, valid = batch["image"], batch.get("valid")
    if job.compile:
        net.compile(dynamic=False)
    dtype = AUTOCAST[job.precision]

    def run() -> None:
        with torch.inference_mode(), torch.autocast(image.device.type, dtype, dtype is not None):
            net(image, valid)

    return run


def folded_channels_last(net: nn.Module) -> nn.Module:
    """A form for `inference_work`: batch norms folded, kernels channels last in memory."""
    folded = fold_batch_norms(net)
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fused_for(precision: str) -> Callable[[nn.Module], nn.Module]:
    """A form for `inference_work`: what `predict` runs on a CPU, see `inference_form`."""
    dtype = AUTOCAST[precision] or torch.float32
    return partial(inference_form, device_type="cpu", dtype=dtype)


def postprocess_work(job: Job) -> Work:
    """From heads that see the scene perfectly to panoptic maps in the main memory."""
    assert not isinstance(job.categories, ImageClasses)
    batch = training_batch(job)
    net = build_net_on_meta(job.config.model, job.categories.semantic_channels).eval()
    like = net(torch.zeros(job.batch, 3, *job.size, device="meta"))
    targets = {name: value.cpu() for name, value in batch.items()}
    heads = perfect_outputs(like, targets, job.categories)
    known = _Known(type(heads)(*(head.to(job.device) for head in heads)))
    postprocess = build(job.config.model.postprocess, categories=job.categories)
    listed = {
        "image_id": list(range(job.batch)),
        "file_name": [""] * job.batch,
        "original_size": [job.size] * job.batch,
        "resized_size": [job.size] * job.batch,
    }
    return lambda: predict(known, postprocess, {**batch, **listed})


class _Known(nn.Module):
    """A network that knows its outputs."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: Tensor, valid: Tensor) -> Any:
        """The outputs, whatever the images."""
        return self.outputs


def training_batch(job: Job) -> dict[str, Tensor]:
    """Noise with the targets of generated scenes, or with random classes, on the device."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (job.batch, 3, *job.size), np.uint8)
    if isinstance(job.categories, ImageClasses):
        arrays = {"image": image, "label": rng.integers(0, len(job.categories), job.batch)}
    else:
        targets = build(job.config.model.targets)
        scenes = (scene(job.categories, job.size, seed) for seed in range(job.batch))
        samples = [targets(segments, job.categories) for segments in scenes]
        valid = np.ones((job.batch, *job.size), bool)
        arrays = {"image": image, "valid": valid}
        arrays |= {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return {key: torch.from_numpy(array).to(job.device) for key, array in arrays.items()}


def _configure(device: torch.device) -> None:
    """PyTorch as training and evaluation set it."""
    configure_torch(Hardware("gpu" if device.type == "cuda" else "cpu", 1, "", 1))


def _channels(categories: Classes) -> int:
    """Channels of the layer that tells the classes apart."""
    if isinstance(categories, ImageClasses):
        return len(categories)
    return categories.semantic_channels


def _give_back(device: torch.device) -> None:
    """Frees memory that is no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
