"""Training beside other work: idle threads that sleep, as our commands let them, or loop.

    python benchmarks/busy_machine.py [--quick]

Steps of the default model, 16 crops of 97x97, on two threads; in each row other processes loop on a
core each. Every number is of a process of its own, because the library reads its setting when it is
loaded. The contestants take turns; images per second on the clock, medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

THREADS = 2
LEAST = 1  # step; it takes 20 s where threads that loop meet other work


def images_per_second(seconds: float) -> float:
    """In this process."""
    import torch

    from axialseg.commands.command_line import compose_config
    from axialseg.costs.benchmark import Job, training_work
    from axialseg.machine.freed_memory import keep_freed_memory
    from axialseg.panoptic.cityscapes_classes import CITYSCAPES

    torch.set_num_threads(THREADS)
    keep_freed_memory()
    config = compose_config("benchmark", ["model=axial_hybrid_tiny"])
    step = training_work(Job(config, CITYSCAPES, (97, 97), 16, "cpu", "32-true", False))
    step()
    start, steps = time.perf_counter(), 0
    while steps < LEAST or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return 16 * steps / (time.perf_counter() - start)


def measured(sleeping: bool, seconds: float) -> float:
    """In a process of its own."""
    from axialseg.machine.idle_threads import SPINS

    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"GOMP_SPINCOUNT": SPINS} if sleeping else {}
    command = [sys.executable, __file__, "--seconds", str(seconds)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Prints one line for each number of other processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn, fewer rows")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seconds is not None:
        print(images_per_second(options.seconds))
        return
    print(f"{os.cpu_count()} cores, {THREADS} threads, images/s")
    print(f"{'other processes':16}{'they loop':>12}{'they sleep':>12}{'ratio':>9}")
    for others in (0, 1) if options.quick else (0, 1, 2):
        loop_on = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
        loops = [
            subprocess.Popen([sys.executable, "-c", loop_on], start_new_session=True)
            for _ in range(others)
        ]
        try:
            pairs = [
                (measured(False, 5), measured(True, 5)) for _ in range(1 if options.quick else 3)
            ]
        finally:
            for loop in loops:
                loop.kill()
        looping, sleeping = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{others:<16}{looping:12.1f}{sleeping:12.1f}{sleeping / looping:9.1f}", flush=True)


if __name__ == "__main__":
    main()
