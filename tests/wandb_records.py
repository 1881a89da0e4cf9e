"""Reads an offline run of W&B back. Its format is internal to wandb."""

import json
import struct
import time
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record, RunRecord


class OfflineRun:
    """What one start of a run has written.

    Args:
        folder: of the run.
        part: of the starts in it, in the order of time.
        parts: how many there are.
    """

    def __init__(self, folder: Path, part: int = 0, parts: int = 1) -> None:
        files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        assert len(files) == parts, files
        self.media = files[part].parent / "files/media"
        records = _records(files[part])
        self.run: RunRecord = next(one.run for one in records if one.HasField("run"))
        self.rows = [
            {_key(item): json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        self.config: dict[str, Any] = {
            _key(item): json.loads(item.value_json)
            for record in records
            for item in (*record.config.update, *record.run.config.update)
        }
        self.keys = {key for row in self.rows for key in row}
        self.artifacts = [one.artifact for one in records if one.HasField("artifact")]
        for record in records:
            if record.HasField("request") and record.request.HasField("log_artifact"):
                self.artifacts.append(record.request.log_artifact.artifact)


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(file: Path) -> list[Record]:
    """The writer is a process of its own and may end after the run."""
    end = time.monotonic() + 60
    while True:
        found = _parsed(file.read_bytes())
        if any(record.HasField("exit") for record in found) or time.monotonic() > end:
            return found
        time.sleep(0.1)


def _parsed(raw: bytes) -> list[Record]:
    """Records of a 7-byte header and the blocks of a LevelDB log, as far as they are written."""
    position, parts, found = 7, [], []
    while position + 7 <= len(raw):
        if 32768 - position % 32768 < 7:  # a block's last bytes are padding
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        parts.append(raw[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # 1 whole, 2 first, 3 middle, 4 last part
            found.append(Record.FromString(b"".join(parts)))
            parts = []
    return found
