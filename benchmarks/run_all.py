"""Runs the short version of every benchmark here and writes RESULTS.md beside them.

    python benchmarks/run_all.py [--only NAME ...] [--output FILE]

Scripts run one after the other, so that they do not disturb each other. The exit code is 1 if one
of them fails; the others run all the same.
"""

import argparse
import ast
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
LIMIT = 600  # seconds for one script
PACKAGES = ("torch", "numpy", "scipy", "torchmetrics", "axial-attention", "transformers")


class Outcome(NamedTuple):
    """What became of a script.

    Attributes:
        script: its file.
        seconds: that it took.
        output: what it printed.
        error: why it failed; empty if it did not.
    """

    script: Path
    seconds: float
    output: str
    error: str


def scripts() -> list[Path]:
    """The benchmarks: files that can be run and have a short version."""
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.py"))}
    return [
        file
        for file, text in texts.items()
        if file != Path(__file__).resolve() and '"__main__"' in text and '"--quick"' in text
    ]


def run(script: Path, limit: float) -> Outcome:
    """Runs the short version of a script.

    Args:
        script: its file.
        limit: seconds after which it is stopped.
    """
    start = time.perf_counter()
    command = [sys.executable, str(script), "--quick"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    error = ""
    try:
        done = subprocess.run(
            command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=limit
        )
        output = done.stdout
        if done.returncode:
            said = done.stderr.strip().splitlines()[-20:]
            error = "\n".join([f"exit code {done.returncode}", *said])
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace")
        error = f"stopped after {limit:.0f} s"
    seconds = time.perf_counter() - start
    return Outcome(script, seconds, _plain(output), _plain(error))


def _plain(text: str) -> str:
    """Without this machine's paths."""
    return text.replace(f"{HERE.parent}{os.sep}", "").replace(sys.prefix, "").rstrip()


def report(outcomes: Iterable[Outcome], machine: str) -> str:
    """RESULTS.md.

    Args:
        outcomes: in the order of their sections.
        machine: its processor, cores and system.
    """
    outcomes = list(outcomes)
    total = sum(outcome.seconds for outcome in outcomes)
    lines = [
        "# Results",
        "",
        "Written by `make bench`: the short version of every script here. Ratios are what to look "
        "at; absolute",
        "times depend on the machine, and on what else it did.",
        "",
        f"* {machine}",
        f"* {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}",
        f"* {datetime.now(UTC):%Y-%m-%d}, {total / 60:.0f} minutes",
        "",
        "| script | seconds | |",
        "|---|---|---|",
        *(
            f"| [{o.script.name}](#{o.script.stem}) | {o.seconds:.0f} | "
            f"{'**failed**' if o.error else 'ok'} |"
            for o in outcomes
        ),
    ]
    for outcome in outcomes:
        lines += ["", f"## {outcome.script.stem}", "", _summary(outcome.script), ""]
        lines += ["```", *outcome.output.splitlines(), "```"]
        if outcome.error:
            lines += ["", "**Failed:**", "", "```", *outcome.error.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _summary(script: Path) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Runs them and writes the file.

    Raises:
        SystemExit: code 1 if a script failed, 2 if there is none of a name.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="without .py")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    arguments = parser.parse_args()
    known = {script.stem: script for script in scripts()}
    unknown = set(arguments.only or ()) - known.keys()
    if unknown:
        parser.error(f"there is no {sorted(unknown)[0]}; there are: {', '.join(known)}")
    chosen = [known[name] for name in arguments.only or known]

    from axialseg.costs.benchmark import processor

    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    machine = f"{processor()}, {os.cpu_count()} cores; {system}"
    outcomes = []
    for script in chosen:
        print(f"{script.name} ...", flush=True)
        outcomes.append(run(script, LIMIT))
        error = outcomes[-1].error
        print(f"  {outcomes[-1].seconds:.0f} s{', failed: ' + error if error else ''}", flush=True)
        # After each one: what is there already is not lost if the last one is stopped.
        arguments.output.write_text(report(outcomes, machine), encoding="utf-8")
    sys.exit(any(outcome.error for outcome in outcomes))


if __name__ == "__main__":
    main()
