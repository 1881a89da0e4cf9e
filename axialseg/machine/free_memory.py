"""How much memory this process may still take."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
NO_LIMIT = 1 << 60  # cgroup v1 writes about 2^63 where there is none


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that are free on this machine and within the limit of the container, on Linux.

    The kernel kills a process that goes beyond the limit of its container, without a message. So
    the limits of all control groups of the process count, of version 1 and 2. File caches count as
    free, because the kernel gives them back.

    Args:
        root: of the file system.

    Returns:
        None where the system does not tell.
    """
    found = [_of_machine(root), *_of_groups(root)]
    known = [size for size in found if size is not None]
    return min(known, default=None)


def _of_machine(root: Path) -> int | None:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_groups(root: Path) -> list[int]:
    """What each group with a limit has left."""
    left = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            mount = root / "sys/fs/cgroup"
            if controllers == "":
                names = ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                mount = mount / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # In a container the group's own folder may be mounted as the top.
            folder = mount / group.lstrip("/")
            for place in (folder, *(p for p in folder.parents if p.is_relative_to(mount))):
                size = _left(place, *names)
                if size is not None:
                    left.append(size)
    return left


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """What a group has left; None without a limit."""
    with suppress(OSError, ValueError):
        most = int((folder / limit).read_text())  # "max" is none
        if most < NO_LIMIT:
            facts = dict(line.split() for line in _lines(folder / "memory.stat"))
            used = int((folder / usage).read_text()) - int(facts.get(cache, 0))
            return max(most - used, 0)
    return None


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def gpu_free_memory(devices: int | list[int]) -> int | None:
    """Bytes that are free on the GPU with the least free memory; None if it cannot be told.

    A process of its own asks them: asking makes a CUDA context, which would stay in this one.
    """
    numbers = list(range(devices)) if isinstance(devices, int) else devices
    question = f"import torch; print(min(torch.cuda.mem_get_info(i)[0] for i in {numbers}))"
    try:
        done = subprocess.run([sys.executable, "-c", question], capture_output=True, check=True)
        return int(done.stdout)
    except (subprocess.CalledProcessError, OSError, ValueError):
        return None
