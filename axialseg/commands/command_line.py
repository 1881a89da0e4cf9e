"""Runs a command with Hydra, and answers every mistake of the user's with one sentence.

The command line is composed and checked before anything heavy is imported and before a folder is
made; for a sweep, each value of each swept key is tried once.
"""

import logging
import os
import re
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields
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
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from axialseg.commands.invocation import invocation
from axialseg.commands.machine_failures import machine_failure
from axialseg.commands.saved_run import saved_config
from axialseg.commands.sweep import Sweep, expand_globs, refuse_missing_plugins, run_sweep_job
from axialseg.commands.terminal_text import help_text, wrapped
from axialseg.config.auto import without_auto
from axialseg.config.check import check_config, has_axial_attention, nearest
from axialseg.config.mistakes import choices, refuse_null_choices, sentence_for
from axialseg.config.saved import accepted
from axialseg.config.schema import SCHEMAS, conf_dir, register_schemas
from axialseg.config.trust import trusted_packages
from axialseg.config.typed_values import expand_home, expand_home_typed
from axialseg.errors import UserError
from axialseg.launch import PARENT, is_launched_rank, report_exit
from axialseg.machine.child_process import end_with_parent
from axialseg.machine.hardware import started_rank, started_ranks
from axialseg.machine.idle_threads import let_idle_threads_sleep
from axialseg.machine.in_use import refuse_links, refuse_running

Job = Callable[[DictConfig], float | None]
Check = Callable[[DictConfig], None]

# Hydra's message where another package's constructor raises; it leaves out the dot of list members.
REFUSED_VALUE = re.compile(
    r"Error in call to target '(?!axialseg\.)(?P<target>[\w.]+)':"
    r".*full_key: (?P<key>.*?)\.?(?P<number>\d*)$",
    re.DOTALL,
)
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
    let_idle_threads_sleep()
    register_schemas()
    # Hydra then raises instead of printing its own report, and `user_mistake` can translate.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # a log file on a full disk must not fill the terminal instead
    os.environ["AXIALSEG_START"] = invocation(config_name)  # for the text of --help

    def guarded_job(cfg: DictConfig) -> float | None:
        expand_home(cfg)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_sweep_job(job, cfg, user_mistake)
        try:
            return job(cfg)
        except Exception as error:
            _refuse(error)

    try:
        sys.argv[1:] = expand_globs(expand_home_typed(sys.argv[1:]))
        sweep: AbstractContextManager[Callable[[list[str]], list[str]]] = nullcontext(list)
        typed: list[str] = []
        if is_launched_rank():
            end_with_parent(int(os.environ[PARENT]))
        else:
            if "TORCHELASTIC_RUN_ID" in os.environ:  # a rank of a killed torchrun would train on
                end_with_parent(os.getppid())
            args = get_args_parser().parse_args()
            hydra_node = check_command_line(config_name, args, check, prepare)
            if args.multirun and args.cfg is None and hydra_node is not None:
                sweep = Sweep(hydra_node, args.overrides).running()
                typed = args.overrides
        with sweep as completed:
            # The overrides are neighbours; else the command line could not have been parsed.
            place = sys.argv.index(typed[0], 1) if typed else len(sys.argv)
            sys.argv[place : place + len(typed)] = completed(typed)
            hydra.main(str(conf_dir()), config_name, version_base="1.3")(guarded_job)()
    except Exception as error:
        _refuse(error)
    except KeyboardInterrupt:
        _end_without_trace()
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stopped:
        _end_without_trace()
        if is_launched_rank() and isinstance(stopped.code, int):
            report_exit(stopped.code)
        raise


def _end_without_trace() -> None:
    """Lets Ctrl-C end a process that is about to end; Python would show where it was."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def check_command_line(
    config_name: str,
    args: Namespace,
    check: Check,
    prepare: Callable[[list[str]], None] | None = None,
) -> DictConfig | None:
    """Composes as Hydra is going to, and checks the result.

    Args:
        config_name: name of the primary config.
        args: the command line, parsed as Hydra does.
        check: see `run_command`.
        prepare: see `run_command`.

    Returns:
        Hydra's own node of the composed config; None if only help is asked for.

    Raises:
        UserError: one sentence about what is wrong.
    """
    hydra_node: DictConfig | None = None
    folder = Path(args.config_path) if args.config_path else conf_dir()
    if not folder.is_absolute():
        raise UserError(f"--config-path {folder} must be absolute, as {folder.absolute()}")
    try:
        if prepare is not None:
            prepare(args.overrides)
        if args.help or args.hydra_help or args.info or args.shell_completion:
            return None
        refuse_null_choices(args.overrides)
        refuse_missing_plugins(args.overrides)
        if folder != conf_dir():
            _check_foreign(folder / f"{args.config_name or config_name}.yaml", args.overrides)
        with initialize_config_dir(str(folder), version_base="1.3"):
            for overrides in _to_check(args):
                cfg = compose(args.config_name or config_name, overrides, return_hydra_config=True)
                _check_ranks(cfg.hydra, is_sweep=args.multirun)
                _note_attention(cfg, overrides)
                with suppress(OmegaConfBaseException):  # `check` has a better sentence
                    folder_of_job = Path(cfg.hydra.run.dir)
                    hydra_node = hydra_node or _resolved_sweep(cfg)
                with open_dict(cfg):
                    del cfg["hydra"]
                _refuse_unknown_keys(cfg, config_name)
                expand_home(cfg)
                check(cfg)
                # Last, because it is about a folder; of started ranks, the first speaks for all.
                if not args.multirun and started_rank(os.environ) == 0:
                    refuse_running(folder_of_job)
                    refuse_links(folder_of_job)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(sentence_for(error, folder, args.overrides)) from error
    finally:
        GlobalHydra.instance().clear()
    return hydra_node


def _refuse_unknown_keys(cfg: DictConfig, config_name: str) -> None:
    """Hydra takes `+key=value` with any key at the top; nothing would ever read it."""
    known = {field.name for field in fields(SCHEMAS[f"{config_name}_schema"])}
    for key in map(str, cfg):
        if key not in known:
            raise UserError(f"{key} does not exist in {config_name}.yaml; {nearest(key, known)}")


def _resolved_sweep(cfg: DictConfig) -> DictConfig:
    """Hydra's node alone, with the folder and the storage of a sweep as they are now."""
    node = cfg.hydra.copy()
    with read_write(node), open_dict(node):
        node.sweep.dir = cfg.hydra.sweep.dir
        if "storage" in node.sweeper:
            node.sweeper.storage = cfg.hydra.sweeper.storage
    return node


def _check_foreign(file: Path, overrides: list[str]) -> None:
    """Refuses a config of another folder, as that of a run, if it could run a stranger's code."""
    if not file.is_file():
        return  # Hydra refuses it
    content = saved_config(file)
    if {"defaults", "hydra"} & set(content) or "@package" in file.read_text(encoding="utf-8"):
        raise UserError(
            f"{file} is not a composed config of a run: it sets Hydra itself; add groups of your "
            "own with --config-dir"
        )
    beside = next((path.name for path in file.parent.iterdir() if path.is_dir()), None)
    if beside is not None:
        raise UserError(
            f"{file.parent} holds the folder {beside}, and Hydra would read more of its "
            "configuration there; copy config.yaml to a folder of its own"
        )
    accepted(content, str(file), trusted_packages(overrides))


def run_tool(
    job: Callable[[list[str]], object], summary: str, usage: str, examples: Sequence[str]
) -> None:
    """Runs a command that has no folder, no log file and no sweeps.

    Without arguments, or if help is asked for, its help is printed instead.

    Args:
        job: takes the arguments of the command line.
        summary: what it does, one sentence.
        usage: the command line with all that it takes.
        examples: command lines, as they are typed.

    Raises:
        SystemExit: code 2 after a `UserError`.
    """
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(help_text(summary, usage, examples))
        return
    let_idle_threads_sleep()
    try:
        job(arguments)
    except Exception as error:
        _refuse(error)


def compose_config(config_name: str, overrides: list[str]) -> DictConfig:
    """Composes and checks the settings of such a command.

    Args:
        config_name: name of its top level in `axialseg/config/schema.py`.
        overrides: `key=value` or `group=choice`.

    Raises:
        UserError: one sentence about what is wrong.
    """
    register_schemas()
    overrides = expand_home_typed(overrides)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = without_auto(compose(config_name, overrides))
        expand_home(cfg)
        check_config(cfg)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(sentence_for(error, conf_dir(), overrides)) from error
    finally:
        GlobalHydra.instance().clear()
    return cfg


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
        return UserError(sentence_for(error, conf_dir(), []))
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
        print(wrapped(f"error: {mistake}"), file=sys.stderr)
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
        options = choices(override.key_or_group)
        names = value.filter([option for option in options if "/" not in option])
        if not names:
            raise UserError(f"{override.input_line} matches none; {nearest('', options)}")
        return [f"{key}={name}" for name in names]
    return [f"{key}={text}" for text in override.sweep_string_iterator()]
