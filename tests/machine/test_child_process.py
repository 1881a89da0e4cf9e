"""Loader workers leave signals to their parent, and end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CODE = """
import os, signal, sys, time
from torch.utils.data import Dataset
from axialseg.datasets import loaders

class Items(Dataset):
    def __len__(self): return 10_000_000
    def __getitem__(self, index): return os.getpid()

def main(ending):
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    options = loaders._process_options(2)
    loader = loaders.UserErrorLoader(Items(), batch_size=1, **options)
    batches = iter(loader)
    workers = {int(next(batches)) for _ in range(6)}
    print(*workers, flush=True)
    sys.stdin.readline()
    assert {int(next(batches)) for _ in range(20)} == workers
    print("well", flush=True)
    if ending == "wait":
        time.sleep(60)

main(sys.argv[1])
"""


def start(ending: str) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def are_gone(workers: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stats = [Path(f"/proc/{worker}/stat") for worker in workers]
        states = [s.read_text().rpartition(")")[2].split()[0] for s in stats if s.exists()]
        if all(state in "ZX" for state in states):
            return True
        time.sleep(0.05)
    return False


def test_signals_to_the_group_do_not_end_workers() -> None:
    process, workers = start("end")
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.killpg(process.pid, number)
        for worker in workers:
            os.kill(worker, number)  # as SLURM does
    time.sleep(0.3)
    output, _ = process.communicate("go on\n", timeout=60)
    assert output == "well\n"
    assert process.returncode == 0
    assert are_gone(workers, 10)


def test_workers_end_with_a_killed_parent() -> None:
    process, workers = start("wait")
    process.kill()
    process.communicate()
    assert are_gone(workers, 3)  # torch's own watch looks every five seconds
