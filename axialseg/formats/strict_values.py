"""Numbers, flags and names of JSON files that users hand in, taken strictly.

``bool("0")`` is True and ``int(7.9)`` is 7. A reader that converts by Python's rules would train on
other values than those of the file. Here a value has the right type, or it is a text of such a
value (some tools write ``"0"``; that is accepted and logged once), or it is refused by name.
"""

import logging
import math
import re
from pathlib import Path
from typing import Any

from axialseg.errors import UserError

INT64 = 2**63
LONGEST_NAME, LONGEST_PATH = 255, 1000  # bytes that file systems take
LONGEST_TEXT = 200
PLAIN_NAME = re.compile(r"\w[\w. /-]{0,200}", re.ASCII)
WHOLE_NUMBER = re.compile(r"\s*[+-]?\d{1,19}\s*")

log = logging.getLogger(__name__)


class StrictValues:
    """Takes the values of one file, and keeps what it has told already.

    Args:
        path: of the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told: set[str] = set()

    def whole(self, value: Any, field: str, place: str, limit: int = INT64) -> int:
        """A whole number in ``[-limit, limit)``.

        Args:
            value: as parsed.
            field: its key.
            place: where it stands in the file, for messages.
            limit: see above.

        Raises:
            UserError: it is something else.
        """
        if type(value) is int:
            number = value
        elif type(value) is float and value.is_integer():
            number = int(value)  # some tools write 7.0
        elif isinstance(value, str) and WHOLE_NUMBER.fullmatch(value):
            self._tell(field, value, place)
            number = int(value)
        else:
            raise self.refusal(value, field, place, "a whole number")
        if not -limit <= number < limit:
            raise self.refusal(value, field, place, f"a number below {limit}")
        return number

    def flag(self, value: Any, field: str, place: str) -> bool:
        """0 or 1, false or true.

        Raises:
            UserError: it is something else.
        """
        if isinstance(value, str):
            known = {"0": False, "1": True, "false": False, "true": True}
            if value.strip().lower() in known:
                self._tell(field, value, place)
                return known[value.strip().lower()]
        elif isinstance(value, bool | int | float) and value in (0, 1):
            return bool(value)
        raise self.refusal(value, field, place, "0 or 1")

    def text(self, value: Any, field: str, place: str) -> str:
        """A text that is not empty and can be written.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_TEXT:
            raise self.refusal(value, field, place, f"a name of 1 to {LONGEST_TEXT} characters")
        if not is_writable(value):
            raise self.refusal(value, field, place, "a name of real characters")
        return value

    def file_name(self, value: Any, field: str, place: str) -> str:
        """The name of a file below some folder; see also `leaves`.

        Raises:
            UserError: it is something else, or no file can have that name.
        """
        if isinstance(value, str) and PLAIN_NAME.fullmatch(value):
            return value
        if not isinstance(value, str) or not value.strip("/.\\ "):
            raise self.refusal(value, field, place, "the name of a file")
        if not is_writable(value) or "\0" in value:
            raise self.refusal(value, field, place, "a name of real characters")
        parts = value.encode().replace(b"\\", b"/").split(b"/")
        if max(map(len, parts)) > LONGEST_NAME or len(value.encode()) > LONGEST_PATH:
            raise self.refusal(value, field, place, "a name that a file system takes")
        if value[0] in "/\\" or re.match(r"[A-Za-z]:[/\\]", value):
            raise self.refusal(value, field, place, "a name below the folder, not an absolute one")
        return value

    def refusal(self, value: Any, field: str, place: str, wanted: str) -> UserError:
        """The sentence for a value that is none of those wanted."""
        return UserError(f"{self.path}: {place} has the {field} {shown(value)}; give {wanted}.")

    def _tell(self, field: str, value: str, place: str) -> None:
        if field not in self._told:
            self._told.add(field)
            log.warning(
                '%s: %s has the %s "%s" as text; it is read as a number, here and wherever else '
                "the file has it so",
                *(self.path, place, field, value),
            )


def is_writable(text: str) -> bool:
    """Whether a text can be written to a file; half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value in a message, cut after 60 characters."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
