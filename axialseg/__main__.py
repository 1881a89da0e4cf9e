"""`python -m axialseg <command> ...`: runs `axialseg/commands/<command>.py`."""

import signal
import sys
from importlib import import_module

from axialseg.commands.command_files import command_files, summary_of
from axialseg.commands.terminal_text import wrapped
from axialseg.config.check import nearest
from axialseg.errors import UserError

USAGE = """\
usage: python -m axialseg <command> ...

Examples
  python -m axialseg check-data data=coco data.root=<folder>
  python -m axialseg memory model=axial_deeplab_l data=coco gpu=80GiB
  python -m axialseg download                                 # lists the published checkpoints
  python -m axialseg predict ckpt=<run or name> images=<file or folder> out=<folder>

Commands: python -m axialseg <command> --help says how to use one.
"""


def main() -> None:
    """Hands the rest of the command line to the command that the first word names.

    Raises:
        SystemExit: code 2 if there is no such command.
    """
    files = command_files()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        for name, file in files.items():
            print(f"  {name:<16}  {summary_of(file)}")
        return
    _, command, *arguments = sys.argv
    if command not in files:
        mistake = f"error: there is no command {command!r}; {nearest(command, files)}"
        print(wrapped(mistake), file=sys.stderr)
        sys.exit(UserError.exit_code)
    sys.argv = [f"axialseg {command}", *arguments]
    try:
        import_module(f"axialseg.commands.{files[command].stem}").main()
    except KeyboardInterrupt:  # wherever it was, while torch was being imported too
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
