"""Writes the checkpoints of a trainer completely or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from axialseg.checkpoints.run_checkpoints import check_whole, load_plain, step_files
from axialseg.errors import UserError
from axialseg.machine.whole_file import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """How the trainer writes and reads its checkpoints.

    Lightning's own class reports no folder that cannot be written, and compares no checksums.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes beside the file, compares what was written, and renames it.

        Raises:
            UserError: it cannot be written; an earlier file of this name is as it was.
        """
        path = Path(path)
        try:
            with whole_file(path) as draft:
                with draft.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                check_whole(draft)
        except (OSError, RuntimeError, UserError) as error:
            # torch's writer hides the reason behind an error of its own.
            reason = next((e for e in _chain(error) if isinstance(e, OSError)), error)
            kept = [str(file) for file in step_files(path.parent)]
            whole = f"whole are still: {', '.join(kept)}" if kept else "no earlier one exists"
            raise UserError(
                f"the checkpoint {path} cannot be written ({_first_line(reason)}); {whole}. Free "
                "space or name another folder, then start the same command again."
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads tensors and plain values only, whatever `weights_only` says.

        Raises:
            UserError: the file is damaged or holds anything else.
        """
        return load_plain(Path(path), map_location)


def _chain(error: BaseException | None) -> list[BaseException]:
    """The exception and what it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0]
