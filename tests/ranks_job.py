"""A command for `test_launch.py`: each rank does what its config says and writes what it sees."""

import json
import os
import signal
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from axialseg.commands.command_line import run_command
from axialseg.errors import UserError


def job(cfg: DictConfig) -> float:
    """Succeeds, or ends in one of the ways that the launcher must tell apart."""
    rank = os.environ["RANK"]
    folder = Path(HydraConfig.get().runtime.output_dir)
    seen = {
        "pid": os.getpid(),
        "world": os.environ["WORLD_SIZE"],
        "lr": cfg.lr,
        "seed": "PL_GLOBAL_SEED" in os.environ,
    }
    if "RANKS_IGNORE_SIGNALS" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"rank_{rank}.json").write_text(json.dumps(seen))
    if cfg.ending == "wait" or (rank == "0" and cfg.ending != "well"):
        time.sleep(120)
    if cfg.ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.ending == "mistake":
        raise UserError(f"rank {rank} found a broken file")
    if cfg.ending == "stopped":
        raise SystemExit(os.EX_TEMPFAIL)
    if cfg.ending == "defect":
        raise ValueError("a defect")
    return 0.0


if __name__ == "__main__":
    run_command(job, "train", lambda cfg: None)
