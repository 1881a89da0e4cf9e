"""Runs a command with Hydra, and answers every mistake of the user's with one sentence.

The command line is composed and checked before anything heavy is imported and before a folder is
made; for a sweep, each value of each swept key is tried once.
"""

import logging
import os
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from axialseg.commands.invocation import invocation
from axialseg.commands.machine_failures import machine_failure
from axialseg.commands.saved_run import saved_config
from axialseg.config.check import check_config, has_axial_attention, nearest
from axialseg.config.saved import accepted
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.config.signatures import UnknownTarget, constructor_signature
from axialseg.config.trust import trusted_packages
from axialseg.config.typed_values import expand_home, expand_home_typed, quoted
from axialseg.errors import UserError
from axialseg.launch import PARENT, is_launched_rank, report_exit
from axialseg.machine.child_process import end_with_parent
from axialseg.machine.hardware import started_rank, started_ranks
from axialseg.machine.in_use import refuse_running

Job = Callable[[DictConfig], float | None]
Check = Callable[[DictConfig], None]

# Hydra's message where another package's constructor raises; it leaves out the dot of list members.
REFUSED_VALUE = re.compile(
    r"Error in call to target '(?!axialseg\.)(?P<target>[\w.]+)':"
    r".*full_key: (?P<key>.*?)\.?(?P<number>\d*)$",
    re.DOTALL,
)
# Groups of earlier versions -> what they are called now.
RENAMED = {
    "method": "model/base",
    "method/context": "model/context",
    "formulation": "model/attention",
    "kernel": "model/attention",
}
COPIED_ERROR = r"^(?:[\w.]+\.)?(?:UserError|RunFailedError): "
SWEEP_CHECKS = 32  # compositions that checking a sweep may take


def run_command(
    job: Job, config_name: str, check: Check, prepare: Callable[[list[str]], None] | None = None
) -> None:
    """Composes `conf/<config_name>.yaml` with the command line and runs the job, or all of a sweep.

    Args:
        job: takes the composed config; returns what a sweeper maximises.
        config_name: name of the primary config.
        check: raises `UserError` for a composed config that the job would refuse.
        prepare: gets the overrides of the command line before anything is composed.

    Raises:
        SystemExit: code 2 after a `UserError`.
    """
    register_schemas()
    # Hydra then raises instead of printing its own report, and `user_mistake` can translate.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # a log file on a full disk must not fill the terminal instead
    os.environ["AXIALSEG_START"] = invocation(config_name)  # for the text of --help

    def guarded_job(cfg: DictConfig) -> float | None:
        try:
            expand_home(cfg)
            return job(cfg)
        except Exception as error:
            # In a sweep, the other jobs go on and the launcher raises the error at the end.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            _refuse(error)

    try:
        sys.argv[1:] = expand_home_typed(sys.argv[1:])
        if is_launched_rank():
            end_with_parent(int(os.environ[PARENT]))
        else:
            args = get_args_parser().parse_args()
            check_command_line(config_name, args, check, prepare)
        hydra.main(str(conf_dir()), config_name, version_base="1.3")(guarded_job)()
    except Exception as error:
        _refuse(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stopped:
        if is_launched_rank() and isinstance(stopped.code, int):
            report_exit(stopped.code)
        raise


def check_command_line(
    config_name: str,
    args: Namespace,
    check: Check,
    prepare: Callable[[list[str]], None] | None = None,
) -> None:
    """Composes as Hydra is going to, and checks the result.

    Args:
        config_name: name of the primary config.
        args: the command line, parsed as Hydra does.
        check: see `run_command`.
        prepare: see `run_command`.

    Raises:
        UserError: one sentence about what is wrong.
    """
    folder = Path(args.config_path) if args.config_path else conf_dir()
    if not folder.is_absolute():
        raise UserError(f"--config-path {folder} must be absolute, as {folder.absolute()}")
    try:
        if prepare is not None:
            prepare(args.overrides)
        if args.help or args.hydra_help or args.info or args.shell_completion:
            return
        _refuse_renamed(args.overrides)
        if folder != conf_dir():
            _check_foreign(folder / f"{args.config_name or config_name}.yaml", args.overrides)
        with initialize_config_dir(str(folder), version_base="1.3"):
            for overrides in _to_check(args):
                cfg = compose(args.config_name or config_name, overrides, return_hydra_config=True)
                _check_ranks(cfg.hydra, is_sweep=args.multirun)
                _note_attention(cfg, overrides)
                with suppress(OmegaConfBaseException):  # `check` has a better sentence
                    folder_of_job = Path(cfg.hydra.run.dir)
                with open_dict(cfg):
                    del cfg["hydra"]
                expand_home(cfg)
                check(cfg)
                # Last, because it is about a folder; of started ranks, the first speaks for all.
                if not args.multirun and started_rank(os.environ) == 0:
                    refuse_running(folder_of_job)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(_translate(error, folder, args.overrides)) from error
    finally:
        GlobalHydra.instance().clear()


def _check_foreign(file: Path, overrides: list[str]) -> None:
    """Refuses a config of another folder, as that of a run, if it could run a stranger's code."""
    if not file.is_file():
        return  # Hydra says so
    content = saved_config(file)
    if {"defaults", "hydra"} & set(content) or "@package" in file.read_text(encoding="utf-8"):
        raise UserError(
            f"{file} is no composed config of a run: it sets Hydra itself; add groups of your own "
            "with --config-dir"
        )
    accepted(content, str(file), trusted_packages(overrides))


def run_tool(job: Callable[[list[str]], object], usage: str) -> None:
    """Runs a command that has no folder, no log file and no sweeps.

    Args:
        job: takes the arguments of the command line.
        usage: what is printed instead, if there are no arguments or help is asked for.

    Raises:
        SystemExit: code 2 after a `UserError`.
    """
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(f"usage: {usage}")
        return
    try:
        job(arguments)
    except Exception as error:
        _refuse(error)


def compose_config(config_name: str, overrides: list[str]) -> DictConfig:
    """Composes and checks `conf/<config_name>.yaml` for such a command.

    Args:
        config_name: name of the primary config.
        overrides: `key=value` or `group=choice`.

    Raises:
        UserError: one sentence about what is wrong.
    """
    register_schemas()
    _refuse_renamed(overrides)
    overrides = expand_home_typed(overrides)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose(config_name, overrides)
        expand_home(cfg)
        check_config(cfg)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(_translate(error, conf_dir(), overrides)) from error
    finally:
        GlobalHydra.instance().clear()
    return cfg


def choices(group: str) -> list[str]:
    """What a group of the configuration can be set to, sorted."""
    return _options(group, conf_dir())


def user_mistake(error: BaseException) -> UserError | None:
    """What to tell the user in one sentence, or None for a defect of the program.

    Args:
        error: as it reached the command; the `UserError` may be the cause of another exception, or
            may have been copied from a loader's process with its trace in the message.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, UserError):
            return type(cause)(re.split(COPIED_ERROR, str(cause), flags=re.MULTILINE)[-1].strip())
        seen.add(id(cause))
        failure = machine_failure(cause)
        if failure is not None:
            return failure
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, HydraException) and not isinstance(error, InstantiationException):
        return UserError(_translate(error, conf_dir(), []))
    refused = REFUSED_VALUE.match(str(error))
    if refused and isinstance(error.__cause__, ValueError):
        lines = map(str.strip, str(error.__cause__).splitlines())
        reason = " ".join(line for line in lines if not line.startswith("For further information"))
        key = ".".join(filter(None, refused.group("key", "number")))
        return UserError(f"{key} is refused by {refused['target']}: {reason}")
    return None


def _refuse(error: Exception) -> NoReturn:
    """Prints the user's mistake and exits, or raises the error again."""
    mistake = user_mistake(error)
    if mistake is None and not is_launched_rank():
        raise error
    if mistake is None:
        report_exit(1, error=error)
        sys.exit(1)
    if is_launched_rank():
        report_exit(mistake.exit_code, str(mistake))
    else:
        print(f"error: {mistake}", file=sys.stderr)
    sys.exit(mistake.exit_code)


def _check_ranks(hydra_node: DictConfig, is_sweep: bool) -> None:
    """Ranks that torchrun or srun has started must be one job in one folder.

    Args:
        hydra_node: Hydra's own config.
        is_sweep: with `-m`.
    """
    if started_ranks(os.environ) is None:
        return
    if is_sweep:
        raise UserError("each started rank would run a sweep of its own; use -m without torchrun")
    plain: Any = OmegaConf.to_container(hydra_node, resolve=False)
    if "${now:" in plain["run"]["dir"]:
        raise UserError(
            "started ranks would each make a folder of their own; give hydra.run.dir=<folder>, or "
            "trainer.devices=<count> without torchrun"
        )


def _refuse_renamed(overrides: list[str]) -> None:
    """Hydra would take `+<a group of an earlier version>=...` for a new key, and do nothing."""
    for line in overrides:
        key, at, package = line.partition("=")[0].lstrip("+").partition("@")
        if key in RENAMED:
            raise UserError(
                f"{key} is now called {RENAMED[key]}; write {RENAMED[key]}{at}{package}="
            )


def _note_attention(cfg: DictConfig, overrides: list[str]) -> None:
    """Says so if the command line chooses the attention of a model that has none."""
    for line in overrides:
        if line.startswith("model/attention=") and not has_axial_attention(cfg.model):
            text = f"{line} changes nothing, because {cfg.model.name} has no axial attention"
            print(f"note: {text}", file=sys.stderr)


def _to_check(args: Namespace) -> Iterator[list[str]]:
    """The overrides of each composition to check; a sweep's other values follow its first ones."""
    lines: list[str] = list(args.overrides)
    if args.config_dir:
        places = (conf_dir().parent, Path(args.config_dir).absolute())
        lines.append(f"hydra.searchpath=[{','.join(f'file://{place}' for place in places)}]")
    overrides = OverridesParser.create().parse_overrides(lines)
    swept = [override for override in overrides if override.is_sweep_override()]
    if swept and not args.multirun:
        raise UserError(
            f"{swept[0].input_line} names several values: add -m to run one job for each, "
            "or put a list into brackets"
        )
    values = {id(override): _swept_values(override) for override in swept}
    first = [values[id(o)][0] if o.is_sweep_override() else str(o.input_line) for o in overrides]
    yield first
    others = [
        [*first[:place], value, *first[place + 1 :]]
        for place, override in enumerate(overrides)
        for value in values.get(id(override), [])[1:]
    ]
    yield from others[: SWEEP_CHECKS - 1]


def _swept_values(override: Override) -> list[str]:
    """The overrides that a sweep of one key stands for."""
    value: Any = override.value()
    key = override.get_key_element()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}"]
    if isinstance(value, Glob):
        options = _options(override.key_or_group, conf_dir())
        names = value.filter([option for option in options if "/" not in option])
        if not names:
            raise UserError(f"{override.input_line} matches none; {nearest('', options)}")
        return [f"{key}={name}" for name in names]
    return [f"{key}={text}" for text in override.sweep_string_iterator()]


def _translate(error: Exception, folder: Path, overrides: list[str]) -> str:
    """One sentence for what Hydra or OmegaConf refused.

    Args:
        error: the exception.
        folder: the primary config's folder.
        overrides: the command line's.
    """
    text = " ".join(str(error).split())
    where = re.match(r"In '([^']+)': ", text)
    prefix = f"{where[1]}.yaml: " if where and where[1].startswith("experiments/") else ""
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), error.message)
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{error.problem_mark} is no valid YAML: {error.problem}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return prefix + _missing_file(error, folder, overrides)
    several = re.match(r"Ambiguous value for argument '(.*)' 1\. To use it as a list", text)
    if several:
        return (
            f"{several[1]} names several values: type {quoted(several[1])} for one with commas, or "
            "put a list into brackets"
        )
    no_match = re.search(
        r"Could not override '(([^@']+)[^']*)'\. "
        r"(?:Did you mean .+? (\S+\?)|No match in the defaults list)",
        text,
    )
    if no_match:
        key, group, hint = no_match.groups()
        if hint is None and group in _groups(folder):
            return f"{prefix}{key} cannot be chosen: nothing in this config uses {group}"
        hint = f"did you mean {hint}" if hint else nearest(key, _groups(folder))
        return f"{prefix}{key} is no group here; {hint}"
    doubled = re.search(r"Multiple values for ([^ ]+)\. ", text)
    if doubled:
        return f"{doubled[1]} is chosen already; write {doubled[1]}=<choice> without a +"
    composing = isinstance(error, ConfigCompositionException)
    cause = (error.__cause__ or error.__context__) if composing else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return prefix + _unknown_key(cause)
    if isinstance(cause, OmegaConfBaseException):
        message = str(cause.msg or cause).splitlines()[0]
        return f"{prefix}{cause.full_key}: {message}" if cause.full_key else prefix + message
    return text


def _unreadable(override: str, message: str) -> str:
    """For an override that Hydra's grammar does not know."""
    typed = quoted(override)
    if typed is None:
        return f"{override!r} is no key=value: {message.splitlines()[0]}"
    return f"{override} has characters that need quotes; type {typed}"


def _missing_file(error: MissingConfigException, folder: Path, overrides: list[str]) -> str:
    """For a choice that does not exist: the nearest one and all there are."""
    missing = str(error.missing_cfg_file)
    named = [line.partition("=")[0].lstrip("+").partition("@")[0] for line in overrides]
    groups = [key for key in named if missing.startswith(f"{key}/")]
    group = max(groups, key=len, default=missing.rpartition("/")[0])
    choice = missing[len(group) + 1 :] if group else missing
    options = _options(group, folder) or list(error.options or [])
    hint = nearest(choice, options, prefix=f"{group}=" if group else "")
    listed = f" (there are: {', '.join(options)})" if hint.startswith("did you mean") else ""
    written = f"{group}={choice}" if group else f"the config {choice}"
    return f"{written} does not exist; {hint}{listed}"


def _unknown_key(cause: OmegaConfBaseException) -> str:
    """For a key that the config does not have: the nearest one, or how to add it."""
    full_key = str(cause.full_key or cause.key)
    parent, _, key = full_key.rpartition(".")
    node = cause.parent_node
    prefix = f"{parent}." if parent else ""
    if not OmegaConf.is_dict(node):
        return f"{full_key} does not exist"
    names = set(map(str, node)) - {"hydra"}
    if "_target_" in names:
        try:
            signature = constructor_signature(str(node._target_))
        except UnknownTarget:
            signature = None
        arguments = set(signature.annotations) if signature else set()
        if key in arguments:
            return f"{full_key} is not set in this config; add it as +{full_key}=<value>"
        names = (names | arguments) - {"_target_"}
    return f"{full_key} does not exist; {nearest(key, names, prefix)}"


def _options(group: str, folder: Path) -> list[str]:
    """All choices of a group as they are written on the command line.

    Only `experiments` has choices in sub-folders; those of other groups are groups themselves.
    """
    if group == "experiments":
        place = conf_dir().parent / group
        files = place.rglob("*.yaml")
    else:
        place = folder / group
        files = place.glob("*.yaml")
    return sorted(str(file.relative_to(place).with_suffix("")) for file in files)


def _groups(folder: Path) -> list[str]:
    """The groups that the primary configs choose from."""
    folders = {file.parent for file in folder.rglob("*.yaml")} - {folder}
    return sorted({str(place.relative_to(folder)) for place in folders} | {"experiments"})
