"""What image decoders say about damage that they repair."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collects what C libraries write on the standard error output inside the context.

    libjpeg repairs what it can, writes a line there without a file name, and reports no error. The
    list is filled at the end. The process must have only one thread.
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
