"""`python -m axialseg benchmark-loader`: images/s of the loader, and the workers training needs."""

import math

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.errors import UserError
from axialseg.machine.hardware import cpu_count

USAGE = (
    "python -m axialseg benchmark-loader data=<name> [data.root=<folder>] [model=<name>] "
    "[images_per_second=<training speed>] [devices=<on this machine>] [batch_size=<images>] "
    "[seconds=<of each measurement>] [key=value ...]"
)
SUMMARY = "Measures how many images a second the loader makes, and how many workers training needs."
EXAMPLES = (
    "python -m axialseg benchmark-loader data=shapes",
    "python -m axialseg benchmark-loader data=coco data.root=coco model=axial_deeplab_l",
    "python -m axialseg benchmark-loader data=coco data.root=coco images_per_second=80 devices=4",
)
SPEEDS = (5, 10, 20, 50, 100, 200, 500)  # shown if none is asked for
SHOWN_SPEEDS = 4


def main() -> None:
    """The command."""
    run_tool(benchmark_loader, SUMMARY, USAGE, EXAMPLES)


def benchmark_loader(arguments: list[str]) -> None:
    """Measures the loader with one process and with as many as there are cores, and says what for.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, or the data are missing or damaged.
    """
    cfg = compose_config("benchmark_loader", arguments)
    for name in ("images_per_second", "seconds"):
        if cfg[name] is not None and not cfg[name] > 0:
            raise UserError(f"{name}={cfg[name]}, but it must be more than 0")
    for name in ("batch_size", "devices"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}, but it must be 1 or more")

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.build import build_data
    from axialseg.costs.loader_speed import images_per_second

    datamodule = build_data(cfg, cfg.batch_size)
    datamodule.setup("fit")
    cores = cpu_count()
    height, width = cfg.data.crop_size
    print(f"{cfg.data.root}: crops of {height} x {width}, targets of {cfg.model.name}", flush=True)
    per_worker = speed = images_per_second(datamodule, 1, cfg.seconds)
    print(f"  1 worker   {speed:8.1f} images/s", flush=True)
    if cores > 1:
        speed = images_per_second(datamodule, cores, cfg.seconds)
        per_worker = speed / cores
        print(f"  {cores} workers  {speed:8.1f} images/s, {per_worker:.1f} each", flush=True)
    print("\n".join(advice(cfg.images_per_second, per_worker, cores, cfg.devices)))


def advice(wanted: float | None, per_worker: float, cores: int, devices: int) -> list[str]:
    """How many workers keep a training speed fed.

    Args:
        wanted: images per second of all devices of this machine together; None: some speeds.
        per_worker: images per second of one worker among others.
        cores: of this machine.
        devices: that share the images.
    """
    speeds: list[float] = [wanted] if wanted is not None else list(_speeds_around(per_worker))
    lines = []
    for speed in speeds:
        workers = math.ceil(speed / per_worker / devices)
        shares = f" on each of {devices} devices" if devices > 1 else ""
        line = f"{speed:g} images/s of training need data.num_workers={workers}{shares}"
        if workers * devices > cores:
            line += f", which is more than the {cores} cores here can run"
        lines.append(line)
    return lines


def _speeds_around(per_worker: float) -> tuple[int, ...]:
    """Some round speeds from that of one worker on."""
    return tuple(s for s in SPEEDS if s > per_worker)[:SHOWN_SPEEDS] or SPEEDS[-1:]


if __name__ == "__main__":
    main()
