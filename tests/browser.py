"""Headless Chromium over a pipe, by its DevTools protocol: no driver and no package is needed.

with Browser() as browser:
    browser.open("file:///some/page.html")
    assert browser.evaluate("document.title") == "Some page"
    assert browser.errors == []
"""

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import pytest

PATIENCE = 60.0  # seconds, for a busy machine
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Its program; a test that needs it is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium; .ci/run installs it")
    return found


class Browser:
    """A browser with one page.

    Attributes:
        errors: what the console has said in red, and exceptions.
        requests: addresses on a network that the page has asked for.
    """

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._numbers = 0
        self._loaded = threading.Event()
        self._answers: dict[int, queue.Queue[dict]] = {}
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_commands, self._commands = os.pipe()
        answers, write_answers = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        options += ["--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"]
        # The browser reads commands from descriptor 3 and answers on 4.
        redirect = f'exec "$@" 3<&{read_commands} 4>&{write_answers} 2>/dev/null'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", chromium(), *options, "about:blank"],
            pass_fds=(read_commands, write_answers),
        )
        os.close(read_commands)
        os.close(write_answers)
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Loads a page and waits until it is there."""
        self._loaded.clear()
        self._call("Page.navigate", url=address)
        assert self._loaded.wait(PATIENCE), f"{address} was not loaded"

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        answer = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Writes what is to be seen as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Ends the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        self._profile.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, **parameters: Any) -> dict:
        self._numbers += 1
        message: dict[str, Any] = {"id": self._numbers, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        answer = self._answers[self._numbers] = queue.Queue()
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        content = answer.get(timeout=PATIENCE)
        assert "error" not in content, f"{method}: {content['error']}"
        return content["result"]

    def _listen(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as stream:
            rest = b""
            while block := stream.read1(1 << 16):
                *messages, rest = (rest + block).split(b"\0")
                for message in messages:
                    self._hear(json.loads(message))

    def _hear(self, message: dict) -> None:
        if "id" in message:
            self._answers.pop(message["id"]).put(message)
            return
        method, content = message["method"], message["params"]
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] == "error":
            self.errors.append(json.dumps(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            address = content["request"]["url"]
            if address.startswith(("http:", "https:", "ws:", "wss:")):
                self.requests.append(address)
