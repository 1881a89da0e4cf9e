import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from axialseg.commands import demo

Refusal = Callable[[Callable[[], None], list[str]], str]


def test_serves_until_ctrl_c(trained_run: Path) -> None:
    line = [sys.executable, "-m", "axialseg", "demo", f"ckpt={trained_run}", "port=0"]
    # As from a terminal, whatever the tests were started by.
    restored = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=os.environ, preexec_fn=restored, **pipes) as process:
        told = process.stdout.readline()
        address = re.match(r"http://127.0.0.1:\d+", told)
        assert address, told
        with urllib.request.urlopen(address.group()) as answer:
            assert b"axial_deeplab_tiny" in answer.read()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (130, "", "stopped\n")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("port=70000", "port=70000 must be from 0 to 65535"),
        ("device=gpu", "device=gpu does not exist; there are: auto, cpu, cuda"),
        ("ckpt=nowhere", "the checkpoint nowhere does not exist"),
    ],
)
def test_mistakes(wrong: str, message: str, refusal: Refusal) -> None:
    assert message in refusal(demo.main, ["ckpt=nowhere", wrong])


def test_port_in_use(trained_run: Path, refusal: Refusal) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = refusal(demo.main, [f"ckpt={trained_run}", f"port={port}"])
    assert f"port={port} cannot be used (Address already in use); give another one" in message
