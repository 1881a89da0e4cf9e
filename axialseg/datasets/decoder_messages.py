"""What image decoders say about damage that they repair."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collects the lines that C libraries write on the process's standard error output meanwhile.

    libjpeg repairs what it can, tells it there, without a file name, and reports no error. Only for
    processes with one thread. The list is filled at the end.
    """
    messages: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        messages += file.read().decode(errors="replace").split("\n")[:-1]
