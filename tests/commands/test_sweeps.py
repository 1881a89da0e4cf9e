"""Sweeps with each sweeper and launcher: failures, repetition, the table."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sweep_job
from terminal import unwrapped

from axialseg.commands import sweep, train
from axialseg.commands.sweep import expand_globs, refuse_missing_plugins
from axialseg.errors import UserError

Command = Callable[[Callable[[], None], list[str]], None]
TESTS = Path(__file__).resolve().parents[1]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
}


def begun(folder: Path) -> list[str]:
    return sorted((folder / "begun.txt").read_text().split())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A sweep in a process of its own."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.run(
        [sys.executable, "-m", "sweep_job", "-m", *arguments],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def check_first_table(folder: Path, printed: str) -> None:
    """Of the rates 2, 0.7, 3, 4 and 0.4."""
    rows = table(folder)
    assert [row["schedule.lr"] for row in rows[:2]] == ["0.4", "0.7"]
    assert [float(row["PQ"]) for row in rows[:2]] == [99.9, 99.8]
    others = {row["schedule.lr"]: (row["status"], row["why"]) for row in rows[2:]}
    assert others["2"] == ("failed", "rate 2 is a mistake")
    assert others["3"] == ("failed", "ValueError: rate 3 is a defect")
    assert others["4"] == ("done", "")
    lines = printed[printed.index("\njob") :].splitlines()
    assert lines[1].split() == ["job", "schedule.lr", "status", "PQ", "step", "mIoU", "why"]
    assert lines[2].split()[1:] == ["0.4", "done", "99.9", "1", "7.12"]


def test_a_failed_job_ends_no_other_and_repeating_does_what_is_missing(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "schedule.lr=2,0.7,3,4,0.4", f"hydra.sweep.dir={tmp_path}"]
    for repeated in (False, True):
        with pytest.raises(SystemExit) as ended:
            command(sweep_job.main, [*arguments, "hydra.sweeper.max_batch_size=2"])
        assert ended.value.code == 1
        shown = capsys.readouterr()
        error = unwrapped(shown.err)
        check_first_table(tmp_path, shown.out)
        assert error.splitlines()[-1].startswith("error: jobs without a score: 0, 2; ")
        assert begun(tmp_path) == sorted([*"234", "0.7", "0.4", *("23" if repeated else "")])
    with pytest.raises(SystemExit) as ended:
        command(sweep_job.main, ["-m", "schedule.lr=2,0.8,3", f"hydra.sweep.dir={tmp_path}"])
    assert ended.value.code == 2
    assert f"{tmp_path / '1'} holds another job, schedule.lr=0.7" in unwrapped(
        capsys.readouterr().err
    )
    assert "schedule.lr=0.7" in (tmp_path / "1/.hydra/overrides.yaml").read_text()


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = ["schedule.lr=0.4,5,0.7", f"hydra.sweep.dir='{tmp_path}'"]
    assert run(arguments).returncode < 0
    assert begun(tmp_path) == ["0.4", "5"]
    again = run(arguments)
    assert again.returncode == 0, again.stderr
    assert begun(tmp_path) == ["0.4", "0.7", "5", "5"]
    assert [row["job"] for row in table(tmp_path)] == ["0", "2", "1"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_in_other_processes(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib" if launcher == "joblib" else "submitit")
    arguments = ["schedule.lr=2,0.7,3,4,0.4", f"hydra.sweep.dir='{tmp_path}'", *LAUNCHERS[launcher]]
    done = run(arguments)
    assert done.returncode == 1, done.stderr
    check_first_table(tmp_path, done.stdout)
    run(arguments)
    assert begun(tmp_path) == sorted([*"234", "0.7", "0.4", *"23"])


OPTUNA = ["hydra/sweeper=optuna"]


def test_optuna_goes_on_after_failures_and_after_its_end(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    choices = "schedule.lr=2,0.7,3,4,5,0.4"
    arguments = [*OPTUNA, "hydra.sweeper.n_trials=12", f"hydra.sweep.dir='{tmp_path}'"]
    arguments += ["hydra.sweeper.sampler.seed=1", choices, "seed=range(1,4)"]
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    states = optuna.trial.TrialState

    def trials() -> list:
        return optuna.load_study(study_name="sweep", storage=storage).trials

    stopped = 0
    for _ in range(12):  # rate 5 kills the process, once for each seed
        done = run(arguments)
        if done.returncode >= 0:
            break
        cut_off = [trial for trial in trials() if trial.state == states.RUNNING]
        assert any(trial.params.get("schedule.lr") == 5 for trial in cut_off)
        stopped += len(cut_off)
    assert done.returncode == 0, done.stderr
    ended = trials()
    assert not any(trial.state in (states.RUNNING, states.WAITING) for trial in ended)
    assert stopped
    assert len(ended) == 12 + stopped
    last = {tuple(trial.params.items()): trial for trial in ended}  # of those with equal values
    for trial in last.values():
        is_good = trial.params["schedule.lr"] in (0.4, 0.5, 0.7, 5)
        assert trial.state == (states.COMPLETE if is_good else states.FAIL)
    best = optuna.load_study(study_name="sweep", storage=storage).best_trial
    assert best.value == max(trial.value for trial in ended if trial.value is not None)
    before = begun(tmp_path)
    assert run(arguments).returncode == 0
    assert len(trials()) == len(ended)
    assert begun(tmp_path) == before
    assert float(table(tmp_path)[0]["PQ"]) == best.value


def test_optuna_without_any_score(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    arguments = [*OPTUNA, "hydra.sweeper.n_trials=2", f"hydra.sweep.dir='{tmp_path}'"]
    done = run([*arguments, "schedule.lr=2,4"])
    assert done.returncode == 1
    assert unwrapped(done.stderr).splitlines()[-1].startswith("error: no job has a score; ")


def test_ranks_in_a_sweep(tiny_run: list[str], tmp_path: Path, command: Command) -> None:
    """Each rank takes the rate that Optuna has drawn once."""
    pytest.importorskip("optuna")
    arguments = ["-m", *tiny_run, "trainer.devices=2", "trainer.max_steps=1", *OPTUNA]
    arguments += ["schedule.lr=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=1"]
    command(train.main, [*arguments, f"hydra.sweep.dir={tmp_path}"])
    (row,) = table(tmp_path)
    folder = tmp_path / row["job"]
    assert "on 2 x cpu" in (folder / "train.log").read_text()
    assert json.loads((folder / "metrics.json").read_text())["PQ"] == float(row["PQ"])
    assert f"lr: {row['schedule.lr']}" in (folder / ".hydra/config.yaml").read_text()


def test_globs_of_experiments_look_below_their_folder() -> None:
    (line,) = expand_globs(["experiments=glob(coco/*)"])
    names = line.removeprefix("experiments=").split(",")
    assert len(names) >= 4
    assert all(name.startswith("coco/") for name in names)
    (line,) = expand_globs(["experiments=glob(coco/*,exclude=*overfit)"])
    assert line.removeprefix("experiments=").split(",") == [n for n in names if "overfit" not in n]
    assert expand_globs(["data=glob(*)", "seed=1"]) == ["data=glob(*)", "seed=1"]
    with pytest.raises(UserError, match=r"experiments=glob\(coko/\*\) matches none"):
        expand_globs(["experiments=glob(coko/*)"])


def test_missing_plugins_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"joblib needs more packages: pip install 'axialseg\[sw"):
        refuse_missing_plugins(["seed=1,2", "hydra/launcher=joblib"])
