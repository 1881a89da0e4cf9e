"""What a run was made with: enough to repeat it on another machine."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axialseg.machine.whole_file import whole_file

SOURCES = Path(__file__).resolve().parents[2]
STORED_BYTES = 1_000_000  # of a new file; longer ones are named only
NAMED_FILES = 20  # of those; of more, their folders
VARIABLES = ("AXIALSEG_DATA", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
FILE = "provenance.json"
SWEEP_JOB = "sweep_job.json"  # what a job of a sweep was asked to do, and how it ended


def keep_provenance(start: str, folder: Path, cores: int) -> None:
    """Writes `provenance.json` into the folder of a job, and its changes to the sources.

    The file has a list with a record for each start that differed from the one before, because a
    run may go on with other sources or on another machine.

    Args:
        start: of a command line that runs the command, as ``python train.py``.
        folder: of the job; `.hydra/config.yaml` in it is the composed config.
        cores: that the job may use.
    """
    sources, changes = _sources()
    if changes:
        name = f"changes_{hashlib.sha256(changes).hexdigest()[:8]}.patch"
        sources["changes"] = name
        with whole_file(folder / name) as draft:
            draft.write_bytes(changes)
    record = {
        "command": repeating_command(start, folder),
        **sources,
        "python": platform.python_version(),
        "packages": _packages(),
        "hardware": _hardware(cores),
        "environment": _kept_variables(os.environ),
    }
    file = folder / FILE
    starts = _earlier_starts(file)
    if not starts or starts[-1] != record:
        with whole_file(file) as draft:
            draft.write_text(json.dumps([*starts, record], indent=2) + "\n", encoding="utf-8")


def repeating_command(start: str, folder: Path) -> str:
    """The line of a shell that does the job once more, beside its folder.

    Args:
        start: of a command line that runs the command.
        folder: of the job.
    """
    config = folder.absolute() / ".hydra"
    again = str(folder.with_name(f"{folder.name}_again").absolute())
    target = again if shlex.quote(again) == again else f"'{again}'"  # for Hydra's own grammar
    words = ["--config-path", str(config), "--config-name", "config", f"hydra.run.dir={target}"]
    return f"{start} {shlex.join(words)}"


def _sources() -> tuple[dict[str, Any], bytes]:
    """Revision of the sources, new files too long to store, and the changes since, as a patch."""
    if shutil.which("git") is None or _git("ls-files", "--error-unmatch", "axialseg") is None:
        return {"revision": None}, b""  # an installed package: its version is among the others
    revision = _git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as place:
        # Git's own list of files stays as it is: another one, for these questions alone.
        index = {"GIT_INDEX_FILE": str(Path(place) / "index")}
        _git("read-tree", "HEAD", **index)
        listed = _git("ls-files", "-z", "--others", "--exclude-standard", **index) or b""
        files = [os.fsdecode(name) for name in listed.split(b"\0") if name]
        own = set((_git("ls-tree", "-z", "--name-only", "HEAD") or b"").decode().split("\0"))
        short = [name for name in files if _is_stored(name, own)]
        if short:
            _git("--literal-pathspecs", "add", "--intent-to-add", "--", *short, **index)
        changes = _git("diff", "--binary", "--no-ext-diff", "HEAD", "--", ".", **index)
    record: dict[str, Any] = {"revision": revision.decode().strip() if revision else None}
    if len(short) < len(files):
        record["new_files_not_stored"] = _named(set(files) - set(short))
    return record, changes or b""


def _git(*arguments: str, **environment: str) -> bytes | None:
    """What git prints, in the folder of the sources; None if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=SOURCES,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _is_stored(name: str, own: set[str]) -> bool:
    """Whether a new file may belong to the sources: not if it is a photograph of a new folder.

    Args:
        name: below the sources.
        own: names at the top of the sources.
    """
    file = SOURCES / name
    if not file.is_file() or file.is_symlink() or file.stat().st_size > STORED_BYTES:
        return False
    if name.split("/")[0] in own:
        return True
    with file.open("rb") as content:
        return b"\0" not in content.read(8000)  # as git tells text from other files


def _named(files: set[str]) -> list[str]:
    """The files; where they are many, the folders at the top that hold them."""
    if len(files) <= NAMED_FILES:
        return sorted(files)
    return sorted({top + slash for top, slash, _ in (name.partition("/") for name in files)})


def _packages() -> dict[str, str]:
    found = {
        str(one.metadata["Name"]): one.version
        for one in importlib.metadata.distributions()
        if one.metadata["Name"]
    }
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _hardware(cores: int) -> dict[str, Any]:
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = range(torch.cuda.device_count())
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.machine(),
        "cores": cores,
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
        "cuda": torch.version.cuda,
    }


def _kept_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in VARIABLES if name in environment}


def _earlier_starts(file: Path) -> list[Any]:
    """The records that the file holds; a damaged one starts anew."""
    try:
        starts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []
