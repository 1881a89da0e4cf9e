"""Reading JSON files that users hand in."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axialseg.errors import UserError
from axialseg.formats.whole_file import read_file

ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b")  # zip and gzip


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Content of a JSON file.

    Args:
        path: the file.
        object_hook: gets each object when it is complete, inner ones first; its result takes the
            object's place.

    Raises:
        UserError: the file is missing, may not be read, or is no JSON.
    """
    try:
        content = read_file(path)
        if content.startswith(ARCHIVES):
            raise UserError(f"{path} is packed; unpack it and name the JSON file that was in it.")
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        del content  # of a large file, before as much again is made of it
        with _no_search_for_cycles():
            return json.loads(text, object_hook=object_hook)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; point data.root at the folder that holds the annotations."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: download it again."
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path} is nested too deeply to be an annotation file; download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a file that you may read."
        ) from error


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Switches the garbage collector off.

    Parsed objects hold no cycles, but the collector would go through all of them again and again:
    a third of the time of COCO's training file.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
