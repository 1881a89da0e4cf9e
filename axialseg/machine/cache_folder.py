"""Where the project keeps what it can make or fetch again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$AXIALSEG_CACHE`, else `$XDG_CACHE_HOME/axialseg`, else `~/.cache/axialseg`."""
    own = os.environ.get("AXIALSEG_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "axialseg"
