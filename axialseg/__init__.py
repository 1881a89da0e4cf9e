"""Axial-DeepLab and MaX-DeepLab for panoptic segmentation.

    import axialseg

    axialseg.models()                           # what there is
    net = axialseg.create_model("axial_deeplab_s", categories="cityscapes")
    model = axialseg.load("outputs/my_run")     # or a checkpoint, or a published name

Importing this package imports nothing else; `axialseg/model_zoo.py` holds the functions.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import axialseg.models as _networks  # an empty file

if TYPE_CHECKING:
    from axialseg.model_zoo import create_model as create_model
    from axialseg.model_zoo import load as load
    from axialseg.model_zoo import models as models

__all__ = ["create_model", "load", "models"]


def __getattr__(name: str) -> Any:
    if name not in ("create_model", "load"):
        raise AttributeError(f"module 'axialseg' has no attribute {name!r}")
    from axialseg import model_zoo

    return getattr(model_zoo, name)


def __dir__() -> list[str]:
    return [*globals(), "create_model", "load"]


class _Networks(ModuleType):
    """The package `axialseg.models` holds the networks; called, it lists what can be created."""

    def __call__(self) -> Any:
        from axialseg import model_zoo

        return model_zoo.models()


_networks.__class__ = _Networks
