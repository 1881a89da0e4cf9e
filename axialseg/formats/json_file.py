"""Reading JSON files that users hand in."""

import json
from pathlib import Path
from typing import Any

from axialseg.errors import UserError


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UserError: the file is missing, may not be read, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; point data.root at the folder that holds the annotations."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} can not be read ({error.strerror}); give a file that you may read."
        ) from error
