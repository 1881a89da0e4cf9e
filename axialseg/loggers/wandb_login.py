"""What a user has told W&B before a run: `wandb login`, `wandb offline`, variables."""

import configparser
import logging
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)


def default_mode() -> str:
    """Of `WANDB_MODE`, else of `wandb offline` in this folder, else ``online``."""
    return os.environ.get("WANDB_MODE") or _settings().get("mode") or "online"


def has_key() -> bool:
    """Whether `wandb` will find a key: in a variable, a file of its settings or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = _settings()
    if settings.get("api_key"):
        return True
    server = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"
    home = Path.home()
    for file in (os.environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        if file and Path(file).is_file():
            try:
                return netrc.netrc(file).authenticators(urlsplit(server).netloc) is not None
            except (netrc.NetrcParseError, OSError) as error:
                log.warning("%s cannot be read (%s); W&B logs offline", file, error)
                return False
    return False


def _settings() -> dict[str, str]:
    """What `wandb login --host` has written for the user, and `wandb offline` for the folder."""
    of_user = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config/wandb")
    files = configparser.ConfigParser(interpolation=None)
    try:
        files.read([of_user / "settings", Path("wandb/settings")])
    except configparser.Error as error:
        log.warning("Settings of W&B cannot be read: %s", error)
    return dict(files["default"]) if "default" in files else {}
