"""Networks that `python -m axialseg export` has written, run by their own runtime.

An ONNX file holds numbers and operators only. A `.pt2` file is a program that PyTorch unpacks with
pickle, so a stranger's could run code: it is opened for those who trust it alone.
"""

import json
import zipfile
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.decoders.panoptic_deeplab import PanopticHeads
from axialseg.errors import UserError
from axialseg.inference.export import FACTS
from axialseg.inference.tiles import TiledMaps
from axialseg.postprocess.graph import GraphMaps

ONNX, TORCH = ".onnx", ".pt2"
TRUSTED = "torch.export"  # what a user names who trusts a .pt2 file


def is_exported(path: str | Path) -> bool:
    """Whether the name says that it is such a file."""
    return str(path).endswith((ONNX, TORCH))


def read_facts(path: Path) -> dict[str, Any]:
    """What the export has written beside the graph; nothing of the file is run.

    Raises:
        UserError: the file is missing, damaged or of another origin, or onnxruntime is missing.
    """
    if not path.is_file():
        raise UserError(f"the exported network {path} does not exist; correct its name")
    try:
        text = _torch_facts(path) if path.suffix == TORCH else _onnx_facts(path)
        facts = json.loads(text)
        complete = {"outputs", "image", "limits", "step", "model", "data"} <= set(facts)
    except (ValueError, OSError, zipfile.BadZipFile, TypeError):
        raise UserError(f"{path} cannot be read; export it again") from None
    if not complete:
        raise UserError(f"{path} was not written by `axialseg export`, or by an earlier version")
    return cast(dict[str, Any], facts)


class ExportedNet(nn.Module):
    """An exported network in place of the one that it was made from.

    Attributes:
        step: optimiser steps behind its weights.

    Args:
        path: .onnx or .pt2.
        facts: see `read_facts`.
        trust: what the user trusts; a .pt2 file is opened if `torch.export` is among it.

    Raises:
        UserError: the file is damaged or not trusted.
    """

    def __init__(self, path: Path, facts: dict[str, Any], trust: Collection[str]) -> None:
        super().__init__()
        self.path = path
        self.names: list[str] = facts["outputs"]
        self.limits = facts["limits"]
        self.step: int = facts["step"]
        self.stride: int = facts["image"]["stride"]
        padding = torch.tensor(facts["image"]["padding"]).view(3, 1, 1)
        # A parameter, because a network's device is asked for by its parameters.
        self.padding = nn.Parameter(padding, requires_grad=False)
        self.session: Any = None
        self.program: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        if path.suffix == TORCH:
            # Not a module of this one, with which it would be moved: its graph names the CPU.
            self.program = partial(_opened_program(path, trust))
        else:
            self.session = _onnx_session(path, path.stat().st_mtime_ns)

    @property
    def has_maps(self) -> bool:
        """Whether the post-processing is in the graph."""
        return set(GraphMaps._fields) <= set(self.names)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Any:
        """The label maps if they are in the graph, else the raw heads.

        Args:
            image: ``[B, 3, H, W]`` in 0..255.
            valid: bool ``[B, H, W]``, False where the image was padded.

        Raises:
            UserError: the graph does not take so many images or such sizes.
        """
        self._check(image.shape)
        image = image.float()
        if valid is not None:
            image = torch.where(valid[:, None], image, self.padding)
        found = dict(zip(self.names, self._run(image), strict=True))
        if self.has_maps:
            return GraphMaps(*(found[name] for name in GraphMaps._fields))
        if "center" in found:
            return PanopticHeads(**found)
        return MaskHeads(**found) if "mask_logits" in found else found["logits"]

    def refuse_views(self, are_wanted: bool) -> None:
        """Refuses several views or tiles of an image where the heads are not to be seen.

        Raises:
            UserError: with the cure.
        """
        if are_wanted and self.has_maps:
            raise UserError(
                f"{self.path} has its post-processing inside, so scales, flip and tile cannot be "
                "used; export it with postprocess=false"
            )

    def _run(self, image: Tensor) -> list[Tensor]:
        given = image.cpu()
        if self.program is not None:
            found = list(self.program(given))
        else:
            found = [torch.from_numpy(x) for x in self.session.run(None, {"image": given.numpy()})]
        return [values.to(image.device) for values in found]

    def _check(self, shape: torch.Size) -> None:
        (_, most), (least, longest) = self.limits["images"], self.limits["sides"]
        batch, _, height, width = shape
        sides_fit = all(
            least <= side <= longest and (side - 1) % self.stride == 0 for side in (height, width)
        )
        if batch > most or not sides_fit:
            raise UserError(
                f"{self.path} takes 1 to {most} images with sides of {self.stride} k + 1 pixels "
                f"from {least} to {longest}, not {batch} of {height}x{width}"
            )


class GivenMaps:
    """The post-processing of a graph that has it inside: it hands its maps on.

    Args:
        ignore_class: class id of void.
    """

    def __init__(self, ignore_class: int) -> None:
        self.ignore_class = ignore_class

    def __call__(self, outputs: GraphMaps, size: tuple[int, int]) -> list[TiledMaps]:
        """One entry per image; the graph does not count what its limits have removed."""
        return [TiledMaps(*maps, {}, None) for maps in zip(*outputs, strict=True)]

    def without_area_limits(self) -> "GivenMaps":
        """Not to be had, see `ExportedNet.refuse_views`."""
        raise NotImplementedError


def _opened_program(path: Path, trust: Collection[str]) -> nn.Module:
    if TRUSTED not in trust:
        raise UserError(
            f"{path} is a program for PyTorch, and a stranger's could run any code; if it is "
            f"yours, add trust=[{TRUSTED}]"
        )
    try:
        return torch.export.load(path).module()
    except Exception as error:  # of many kinds, from the depths of PyTorch
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); export it again"
        ) from None


@lru_cache(maxsize=1)  # opening takes seconds, and the facts are read first
def _onnx_session(path: Path, modified: int) -> Any:
    if find_spec("onnxruntime") is None:
        raise UserError(f"{path} needs onnxruntime: pip install 'axialseg[export]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its remarks on graphs are not for users
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # its errors have no common class
        raise ValueError(str(error)) from None


def _onnx_facts(path: Path) -> str:
    session = _onnx_session(path, path.stat().st_mtime_ns)
    return str(session.get_modelmeta().custom_metadata_map.get(FACTS, "{}"))


def _torch_facts(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{FACTS}.json")]
        return archive.read(names[0]).decode() if names else "{}"
