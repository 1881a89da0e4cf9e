"""`python -m axialseg <command>`: finds the command, or the nearest one."""

import sys
from collections.abc import Callable

import pytest

from axialseg import __main__ as dispatcher
from axialseg.commands import complexity, train
from axialseg.commands.command_files import command_files

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


def test_hands_over_the_rest_of_the_command_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(complexity, "main", lambda: seen.append(sys.argv))
    command(dispatcher.main, ["complexity", "model=axial_deeplab_s", "size=[5,5]"])
    assert seen == [["axialseg complexity", "model=axial_deeplab_s", "size=[5,5]"]]


def test_training_is_a_command_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(train, "main", lambda: seen.append(sys.argv[1:]))
    command(dispatcher.main, ["train", "data=shapes"])
    assert seen == [["data=shapes"]]


def test_unknown_command(refusal: Refusal) -> None:
    message = refusal(dispatcher.main, ["complexty", "model=axial_deeplab_s"])
    assert message == "error: there is no command 'complexty'; did you mean complexity?\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_lists_the_commands(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    command(dispatcher.main, arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: python -m axialseg <command> ..."
    assert sum(line.startswith("  python -m axialseg ") for line in lines) == 4
    start = max(number for number, line in enumerate(lines) if not line)
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[start + 1 :]}
    assert set(listed) == set(command_files()) >= {"complexity", "train", "evaluate"}
    assert "saved_run" not in listed
    assert all(listed.values())
