"""Composes shipped configs for use from Python, and does not change a user's own Hydra."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from axialseg.config.schema import conf_dir, register_schemas

# What Hydra keeps for the whole process. Its plugins stay, because finding them takes time.
KEPT_BY_HYDRA = (ConfigStore, GlobalHydra, HydraConfig, JobRuntime, VersionBase)
_LOCK = threading.Lock()


def compose_shipped(overrides: list[str]) -> dict[str, Any]:
    """Model, data and seed of `conf/train.yaml` in plain containers, nothing left to resolve.

    Args:
        overrides: `key=value` or `group=choice`, known to be right.
    """
    with _own_hydra(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides)
        nodes = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data")}
        return {**nodes, "seed": cfg.seed}


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Gives Hydra a state of our own; at the end the old objects are put back."""
    with _LOCK:
        instances, resolvers = dict(Singleton._instances), dict(BaseContainer._resolvers)
        known = ConfigStore.instance().repo
        try:
            for kind in KEPT_BY_HYDRA:
                Singleton._instances.pop(kind, None)
            # A user's nodes would be taken for schemas of our files of the same name.
            hydras_own = ("hydra", "_dummy_empty_config_.yaml")
            ConfigStore.instance().repo = {name: known[name] for name in hydras_own}
            register_schemas()
            yield
        finally:
            _put_back(Singleton._instances, instances)
            _put_back(BaseContainer._resolvers, resolvers)


def _put_back(state: dict[Any, Any], before: dict[Any, Any]) -> None:
    state.clear()
    state.update(before)
