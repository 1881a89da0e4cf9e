"""Which devices a job runs on, and how torch is set up for them."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig

from axialseg.errors import UserError
from axialseg.machine.freed_memory import keep_freed_memory


class Hardware(NamedTuple):
    """What `auto` stands for on this machine.

    Attributes:
        accelerator: cpu or gpu.
        devices: how many on this machine, or which.
        precision: Lightning's name.
        world_size: devices of all machines.
    """

    accelerator: str
    devices: int | list[int]
    precision: str
    world_size: int


def resolve_hardware(trainer: DictConfig, batch_size: int | None) -> Hardware:
    """Replaces `auto` and checks that the devices exist and fit the ranks.

    Args:
        trainer: the config's `trainer` node.
        batch_size: images per step over all devices; `devices=auto` takes as many GPUs as share it
            evenly. None for evaluation.

    Raises:
        UserError: too few devices, or another number of ranks was started.
    """
    import torch

    gpus = torch.cuda.device_count()
    accelerator = trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator} is not one of auto, cpu, gpu")
    if accelerator == "gpu" and not gpus:
        raise UserError("trainer.accelerator=gpu, but no GPU is visible; use hardware=cpu")

    share = batch_size and batch_size // trainer.accumulate_grad_batches
    devices = _devices(trainer.devices, gpus if accelerator == "gpu" else 1, share)
    count = devices if isinstance(devices, int) else len(devices)
    if accelerator == "gpu" and count > gpus:
        raise UserError(f"trainer.devices={trainer.devices}, but {gpus} GPUs are visible")

    world_size = count * trainer.num_nodes
    if batch_size is not None:
        batch_size_per_rank(batch_size, world_size, trainer.accumulate_grad_batches)
    precision = trainer.precision
    if precision == "auto" and accelerator == "cpu":
        precision = "32-true"
    elif precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"

    started = started_ranks(os.environ)
    if started is not None and started != world_size:
        raise UserError(
            f"{started} ranks were started, but trainer.devices={trainer.devices} x "
            f"trainer.num_nodes={trainer.num_nodes} is {world_size}; make them equal"
        )
    if started is None and trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs ranks that srun (hardware=slurm) or "
            "torchrun has started on each machine"
        )
    return Hardware(accelerator, devices, precision, world_size)


def batch_size_per_rank(batch_size: int, world_size: int, accumulated: int) -> int:
    """Images of one forward pass on one device.

    Args:
        batch_size: images per optimiser step.
        world_size: devices of all machines.
        accumulated: forward passes per optimiser step.

    Raises:
        UserError: the batch cannot be shared evenly.
    """
    parts = world_size * accumulated
    per_rank, rest = divmod(batch_size, parts)
    if rest or not per_rank:
        times = "" if accumulated == 1 else f" x trainer.accumulate_grad_batches={accumulated}"
        devices = "1 device" if world_size == 1 else f"{world_size} devices"
        fewer = next((n for n in range(world_size - 1, 0, -1) if batch_size % n == 0), None)
        cure = f"{per_rank * parts} or {(per_rank + 1) * parts}" if per_rank else f"{parts}"
        if fewer is not None and accumulated == 1:
            cure = f"{cure}, or take {fewer} device{'s' * (fewer > 1)}"
        raise UserError(
            f"schedule.batch_size={batch_size} cannot be shared evenly by {devices}{times}: "
            f"{batch_size} = {parts} x {per_rank} + {rest}; give schedule.batch_size={cure}"
        )
    return per_rank


def configure_torch(hardware: Hardware) -> None:
    """Threads and memory on a CPU, matrix products in TensorFloat-32 on a GPU."""
    import torch

    if hardware.accelerator == "gpu":
        torch.set_float32_matmul_precision("high")
        return
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpu_count())


def inference_device(wanted: str) -> str:
    """The device for one network: what is wanted, or for `auto` a GPU if there is one.

    Args:
        wanted: cpu, cuda or auto.

    Raises:
        UserError: there is no GPU.
    """
    import torch

    is_there = torch.cuda.is_available()
    if wanted == "cuda" and not is_there:
        raise UserError("device=cuda, but no GPU is visible; use device=cpu")
    return "cuda" if is_there and wanted != "cpu" else "cpu"


def check_compiler() -> None:
    """Refuses `torch.compile` where it would fail in the middle of the first step.

    Raises:
        UserError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"compile=true needs a C++ compiler, and there is no {compiler}; install one, or leave "
            "compile out"
        )


def started_ranks(environment: Mapping[str, str]) -> int | None:
    """How many ranks torchrun or srun has started this process as one of; None if it is alone."""
    if "RANK" in environment or "LOCAL_RANK" in environment:
        return int(environment.get("WORLD_SIZE", "1"))
    # One SLURM task is a place to start ranks from, as a submitit job is.
    tasks = int(environment.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in environment else 1
    return tasks if tasks > 1 else None


def started_rank(environment: Mapping[str, str]) -> int:
    """The number of this process among the ranks that torchrun or srun has started; 0 if alone."""
    if started_ranks(environment) is None:
        return 0
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return int(next(environment[name] for name in names if name in environment))


def cpu_count() -> int:
    """Cores that this process may use: its affinity, and the container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _devices(wanted: object, visible: int, batch_size: int | None) -> int | list[int]:
    """The number of devices, or their indices.

    Args:
        wanted: `trainer.devices`.
        visible: devices of this machine.
        batch_size: images that they share, None for any number.
    """
    if wanted in ("auto", -1):
        return next(n for n in range(visible, 0, -1) if batch_size is None or batch_size % n == 0)
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0:
        return wanted
    if isinstance(wanted, ListConfig) and wanted and all(isinstance(i, int) for i in wanted):
        return list(wanted)
    raise UserError(
        f"trainer.devices={wanted} is not a number of devices, a list of indices or auto"
    )
