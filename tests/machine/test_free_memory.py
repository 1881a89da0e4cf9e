"""Free memory: the machine's, and what control groups of both versions leave."""

from pathlib import Path

import pytest

from axialseg.machine.free_memory import free_memory

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    write(tmp_path, {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {16 * 2**20} kB\n"})
    return tmp_path


def test_without_groups_it_is_the_machines(machine: Path) -> None:
    assert free_memory(machine) == 16 * GIB
    write(machine, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.stat": ""})
    assert free_memory(machine) == 16 * GIB


def test_limit_of_version_2_counts_also_from_above(machine: Path) -> None:
    write(
        machine,
        {
            "proc/self/cgroup": "0::/box/job\n",
            "sys/fs/cgroup/box/job/memory.max": "max\n",
            "sys/fs/cgroup/box/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/box/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/box/memory.stat": f"anon {3 * GIB}\ninactive_file {2 * GIB}\n",
        },
    )
    assert free_memory(machine) == 5 * GIB  # caches can be given back


def test_limit_at_the_top_of_a_container(machine: Path) -> None:
    write(
        machine,
        {
            "proc/self/cgroup": "0::/docker/abc\n",  # a path of the host, not mounted here
            "sys/fs/cgroup/memory.max": f"{4 * GIB}",
            "sys/fs/cgroup/memory.current": f"{GIB}",
        },
    )
    assert free_memory(machine) == 3 * GIB


def test_limit_of_version_1(machine: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    write(
        machine,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu:/\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{2 * GIB}",
            f"{group}/memory.usage_in_bytes": f"{GIB}",
            f"{group}/memory.stat": f"total_inactive_file {GIB // 2}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}",
        },
    )
    assert free_memory(machine) == 3 * GIB // 2


def test_unknown_systems_do_not_tell(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_this_machine() -> None:
    assert 0 < (free_memory() or 0) < 2**50
