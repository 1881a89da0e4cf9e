"""`axialseg completion bash`: commands, settings and choices by the tabulator key."""

from dataclasses import fields
from typing import Any

from axialseg.checkpoints.published import published_checkpoints
from axialseg.commands.command_files import command_files
from axialseg.commands.command_line import run_tool
from axialseg.config.mistakes import choices
from axialseg.config.schema import SCHEMAS
from axialseg.errors import UserError

USAGE = "axialseg completion bash"
SUMMARY = "Prints a script that completes the commands of axialseg in bash."
EXAMPLES = (
    'eval "$(axialseg completion bash)"',
    "axialseg completion bash",
    "python -m axialseg completion bash",
)
GROUPS = ("model", "data", "schedule", "experiments")  # keys whose values are choices

SCRIPT = """\
_axialseg() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" key="" words=""
    COMPREPLY=()
    # Bash takes "key=value" for three words.
    if [ "$word" = "=" ]; then
        key="${{COMP_WORDS[COMP_CWORD-1]}}" word=""
    elif [ "${{COMP_WORDS[COMP_CWORD-1]}}" = "=" ]; then
        key="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    if [ -n "$key" ]; then
        case "$key" in
{values}
            *) compopt -o filenames 2> /dev/null
               mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        esac
    elif [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{settings}
        esac
        case "$words" in *=*) compopt -o nospace 2> /dev/null ;; esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o default -F _axialseg axialseg
"""


def main() -> None:
    """The command."""
    run_tool(completion, SUMMARY, USAGE, EXAMPLES)


def completion(arguments: list[str]) -> None:
    """Prints the script.

    Args:
        arguments: the shell, bash.

    Raises:
        UserError: it is another one.
    """
    if arguments != ["bash"]:
        raise UserError(f"only bash can be completed: {USAGE}")
    files = command_files()
    settings = {name: _settings(name) for name in files}
    settings["download"] = list(published_checkpoints())
    values = {group: choices(group) for group in GROUPS}
    script = SCRIPT.format(
        commands=" ".join(files),
        settings=_cases({name: words for name, words in settings.items() if words}, 12),
        values=_cases(values, 12),
    )
    print(script, end="")


def _settings(command: str) -> list[str]:
    """Keys of a command, each with its `=`."""
    known: Any = SCHEMAS.get(command.replace("-", "_"), SCHEMAS.get(f"{command}_schema", {}))
    names = known if isinstance(known, dict) else (field.name for field in fields(known))
    return [f"{name}=" for name in names if name not in ("defaults", "hydra")]


def _cases(words: dict[str, list[str]], indent: int) -> str:
    return "\n".join(
        f'{" " * indent}{name}) words="{" ".join(found)}" ;;' for name, found in words.items()
    )
