"""How a command is started where the user is: hints and help name what exists there."""

import shutil
import sys
from pathlib import Path

from axialseg.config.schema import conf_dir


def invocation(command: str) -> str:
    """The start of a command line that runs `train` or `evaluate`.

    In the project's folder that is its script; elsewhere the installed one; where there is none, a
    module of this Python.

    Args:
        command: `train` or `evaluate`.
    """
    script = conf_dir().parent / f"{command}.py"
    if script.is_file() and script.parent == Path.cwd():
        return f"python {command}.py"
    installed = f"axialseg-{command}"
    if shutil.which(installed):
        return installed
    name = Path(sys.executable).name
    python = name if shutil.which(name) == sys.executable else sys.executable
    return f"{python} -m axialseg {command}"
