"""Sweeps: a failing job does not end the others, and a repeated sweep does what is missing.

Each job keeps `sweep_job.json` in its folder: what it was asked to do, and how it ended.
"""

import csv
import hashlib
import json
import logging
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from axialseg.config.check import nearest
from axialseg.config.mistakes import choices
from axialseg.errors import RunFailedError, UserError
from axialseg.machine.in_use import only_job_in
from axialseg.machine.provenance import SWEEP_JOB
from axialseg.machine.whole_file import whole_file
from axialseg.visualization.text_table import text_table

log = logging.getLogger(__name__)

TABLE = "sweep.csv"
KEYS = "swept_keys.json"
TRIAL_FOLDER = "trial_${folder_of:${hydra.overrides.task}}"
OPTUNA = "hydra/sweeper=optuna"
# Choice -> the package that brings it.
PLUGINS = {
    OPTUNA: "hydra_optuna_sweeper",
    "hydra/launcher=joblib": "hydra_joblib_launcher",
    "hydra/launcher=submitit_local": "hydra_submitit_launcher",
    "hydra/launcher=submitit_slurm": "hydra_submitit_launcher",
}
Job = Callable[[DictConfig], float | None]


def _folder_of(overrides: Iterable[str]) -> str:
    """Name of the folder of a trial, whose number says nothing about what it does."""
    return hashlib.sha256("\n".join(sorted(overrides)).encode()).hexdigest()[:10]


OmegaConf.register_new_resolver("folder_of", _folder_of, replace=True)


def refuse_missing_plugins(overrides: Sequence[str]) -> None:
    """Refuses a sweeper or a launcher whose package is not installed.

    Raises:
        UserError: it says what to install.
    """
    for choice in set(overrides) & set(PLUGINS):
        try:
            is_there = find_spec(f"hydra_plugins.{PLUGINS[choice]}") is not None
        except ModuleNotFoundError:
            is_there = False
        if not is_there:
            raise UserError(f"{choice} needs more packages: pip install 'axialseg[sweep]'")


def expand_globs(arguments: Sequence[str]) -> list[str]:
    """The arguments with each `experiments=glob(...)` as a list of names.

    Hydra itself looks for names in the group's folder only, not below it.

    Raises:
        UserError: it matches none.
    """
    return [_expanded(line) if line.startswith("experiments=glob(") else line for line in arguments]


def _expanded(line: str) -> str:
    value: Any = OverridesParser.create().parse_override(line).value()
    if not isinstance(value, Glob):
        return line
    options = choices("experiments")
    names = value.filter(options)
    if not names:
        raise UserError(f"{line} matches none; {nearest('', options)}")
    return f"experiments={','.join(names)}"


class Sweep:
    """One sweep in its folder.

    Args:
        hydra: Hydra's node of the composed config, `${now:}` resolved.
        overrides: the command line's.
    """

    def __init__(self, hydra: DictConfig, overrides: Sequence[str]) -> None:
        self.folder = Path(hydra.sweep.dir)
        self.is_optuna = str(hydra.sweeper._target_).endswith("OptunaSweeper")
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        self.keys = [one.get_key_element().lstrip("+") for one in parsed if one.is_sweep_override()]
        self.keys += list(hydra.sweeper.get("params") or {})
        self._hydra = hydra
        self._before: list[str] = []
        if self.is_optuna:
            database = f"sqlite:///{self.folder / 'optuna.db'}"
            self._storage = str(hydra.sweeper.storage or database)
            self._study = str(hydra.sweeper.study_name or "sweep")
            # The plugin's own defaults minimise, keep nothing, and end at the first failure.
            self._before = ["hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1"]
        else:
            self._refuse_other_jobs(parsed)

    @contextmanager
    def running(self) -> Iterator[Callable[[list[str]], list[str]]]:
        """Keeps other sweeps out of the folder; at the end the table is printed and written.

        Yields:
            Overrides of the command line -> those for Hydra.

        Raises:
            UserError: another sweep is running here.
            RunFailedError: a job failed, or Optuna got no score at all.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with only_job_in(self.folder):
            _write(self.folder / KEYS, self.keys)
            after = [f"hydra.sweep.dir={_in_quotes(str(self.folder))}"]
            if self.is_optuna:
                after += [f"hydra.sweeper.storage={_in_quotes(self._storage)}"]
                after += [f"hydra.sweeper.study_name={_in_quotes(self._study)}"]
                after += [f"hydra.sweeper.n_trials={self._trials_to_go()}"]
                after += [f"hydra.sweep.subdir={_in_quotes(TRIAL_FOLDER)}"]
            try:
                yield lambda overrides: [*self._before, *overrides, *after]
            except ValueError as error:
                # What Optuna raises depends on its storage.
                if not self.is_optuna or any(
                    _scores(folder) for folder, _ in _records(self.folder)
                ):
                    raise
                raise RunFailedError(
                    f"no job has a score; {self.folder / TABLE} says why"
                ) from error
            finally:
                failed = self._tabulate()
        if failed and not self.is_optuna:
            raise RunFailedError(
                f"jobs without a score: {', '.join(failed)}; {self.folder / TABLE} says why, and "
                f"the same command with hydra.sweep.dir={self.folder} tries them again"
            )

    def _refuse_other_jobs(self, parsed: list[Override]) -> None:
        """Refuses a folder whose jobs were asked to do something else."""
        task = [one for one in parsed if not str(one.key_or_group).startswith("hydra")]
        if any(isinstance(one.value(), Glob | IntervalSweep) for one in task):
            return  # names that only Hydra knows, or what its own sweeper refuses
        records = {folder.name: record for folder, record in _records(self.folder)}
        if not records:
            return
        for number, overrides in enumerate(BasicSweeper.split_arguments(task, None)[0]):
            record = records.get(str(number))
            if record and record["overrides"] != sorted(overrides):
                raise UserError(
                    f"{self.folder / str(number)} holds another job, "
                    f"{' '.join(record['overrides'])}; give another hydra.sweep.dir"
                )

    def _trials_to_go(self) -> int:
        """Trials that the study lacks. One that was cut off is tried first, where it stopped."""
        import optuna

        wanted = int(self._hydra.sweeper.n_trials)
        optuna.logging.set_verbosity(logging.WARNING)
        if self._study not in _studies(self._storage):
            return wanted
        study = optuna.load_study(study_name=self._study, storage=self._storage)
        running = optuna.trial.TrialState.RUNNING
        trials = study.get_trials()
        cut_off = {trial.number: trial for trial in trials if trial.state == running}
        earlier = study.user_attrs.get("cut_off", [])
        study.set_user_attr("cut_off", [*earlier, *cut_off])
        for number, trial in cut_off.items():
            study.tell(number, state=optuna.trial.TrialState.FAIL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                study.enqueue_trial(trial.params)
        done = sum(trial.state.is_finished() for trial in trials) - len(earlier)
        return max(0, wanted - done)

    def _tabulate(self) -> list[str]:
        """Writes and prints all jobs, the best first; gives the names of those not done."""
        records = _records(self.folder)
        if not records:
            return []
        rows, scores = [], list[str]()
        for folder, record in records:
            pairs = (line.lstrip("+~").partition("=") for line in record["overrides"])
            values = {key: value for key, _, value in pairs}
            found = _scores(folder) if record["status"] == "done" else {}
            scores += [name for name in found if name not in scores]
            rows.append((folder.name, values, record, found))
        objective = records[0][1]["objective"]
        scores.sort(key=lambda name: name != objective)

        def order(row: tuple[str, dict[str, str], Any, dict[str, float]]) -> tuple[float, Any]:
            score = row[3].get(objective, math.nan)
            number = int(row[0]) if row[0].isdecimal() else 0
            return (math.inf if math.isnan(score) else -score, (number, row[0]))

        rows.sort(key=order)
        lines = [["job", *self.keys, "status", *scores, "why"]]
        for name, values, record, found in rows:
            swept = [values.get(key, "") for key in self.keys]
            numbers = [str(found.get(score, "")) for score in scores]
            lines.append([name, *swept, record["status"], *numbers, record.get("why", "")])
        text = StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        with whole_file(self.folder / TABLE) as draft:
            draft.write_text(text.getvalue(), encoding="utf-8")
        shown = [lines[0], *([_rounded(cell) for cell in line] for line in lines[1:])]
        print(f"\n{text_table(shown, left=2 + len(self.keys))}\n", file=sys.stdout)
        print(f"All jobs are in {self.folder / TABLE}")
        return [name for name, _, record, _ in rows if record["status"] != "done"]


def run_sweep_job(
    job: Job, cfg: DictConfig, mistake_of: Callable[[BaseException], UserError | None]
) -> float:
    """Does one job of a sweep, unless it is done already.

    Args:
        job: as for `run_command`.
        cfg: composed config.
        mistake_of: the sentence for an exception; None for a defect, which keeps its trace.

    Returns:
        The objective; NaN if the job failed.

    Raises:
        RunFailedError: the job failed or has no score, and the sweeper is not Hydra's own, which
            would end the sweep: others learn from it.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    record: dict[str, Any] = {
        "overrides": sorted(map(str, hydra.overrides.task)),
        "objective": str(cfg.model.objective),
        "status": "started",
        "swept": _swept(cfg, folder.parent / KEYS),
    }
    earlier = dict(_records(folder.parent)).get(folder)
    if earlier and earlier["overrides"] == record["overrides"] and earlier["status"] == "done":
        log.info("%s is done already", folder)
        result = _scores(folder).get(record["objective"], math.nan)
    else:
        result = _recorded(job, cfg, folder, record, mistake_of)
    if math.isnan(result) and not str(hydra.sweeper._target_).endswith("BasicSweeper"):
        raise RunFailedError(f"{folder} has no score")
    return result


def _recorded(
    job: Job,
    cfg: DictConfig,
    folder: Path,
    record: dict[str, Any],
    mistake_of: Callable[[BaseException], UserError | None],
) -> float:
    _write(folder / SWEEP_JOB, record)
    try:
        result = job(cfg)
    except Exception as error:
        mistake = mistake_of(error)
        if mistake is None:
            log.error("%s", traceback.format_exc())
        else:
            log.error("This job failed: %s", mistake)
        why = str(mistake) if mistake else f"{type(error).__name__}: {error}"
        _write(folder / SWEEP_JOB, record | {"status": "failed", "why": why})
        return math.nan
    _write(folder / SWEEP_JOB, record | {"status": "done"})
    return math.nan if result is None else result


def _swept(cfg: DictConfig, file: Path) -> dict[str, Any]:
    """The swept keys with their values in this job: names of choices, numbers, plain lists."""
    keys: list[str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    choices = HydraConfig.get().runtime.choices
    found = {key: choices[key] if key in choices else OmegaConf.select(cfg, key) for key in keys}
    return {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in found.items()
    }


def _records(folder: Path) -> list[tuple[Path, Any]]:
    """The jobs of a sweep that have begun: folder and record."""
    found = []
    for file in sorted(folder.glob(f"*/{SWEEP_JOB}")):
        try:
            found.append((file.parent, json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            log.warning("%s is damaged; its job is done again", file)
    return found


def _scores(folder: Path) -> dict[str, float]:
    """The numbers of the `metrics.json` of a job."""
    try:
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, int | float)}


def _studies(storage: str) -> set[str]:
    import optuna

    return {summary.study_name for summary in optuna.get_all_study_summaries(storage=storage)}


def _in_quotes(text: str) -> str:
    """As a value for Hydra's grammar."""
    escaped = text.replace("'", r"\'")
    return f"'{escaped}'"


def _write(file: Path, record: Any) -> None:
    with whole_file(file) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _rounded(cell: str) -> str:
    """As it is printed: a score with two decimals."""
    whole, point, decimals = cell.partition(".")
    is_number = point and whole.lstrip("-").isdecimal() and decimals.isdecimal()
    return f"{float(cell):.2f}" if is_number and len(decimals) > 2 else cell
