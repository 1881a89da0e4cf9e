"""The demo's web server: one page, for this machine alone, without any network."""

import json
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from axialseg.demo.answers import Answers
from axialseg.errors import UserError
from axialseg.visualization.html_page import html_page

HERE = Path(__file__).parent
ADDRESS = "127.0.0.1"
REFUSED = b"only the page of this server may ask"
LARGEST = 64 << 20  # bytes of an image file
# The page may ask this server, and nobody else.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'"
)


def demo_server(answers: Answers, port: int) -> ThreadingHTTPServer:
    """A server that is bound to its port; `serve_forever` runs it.

    Args:
        answers: of the model.
        port: 0 takes a free one.

    Raises:
        UserError: the port is in use.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(_Handler, answers))
    except OSError as error:
        raise UserError(
            f"port={port} cannot be used ({error.strerror}); give another one, as port={port + 1}"
        ) from None


def demo_page(name: str) -> str:
    """The page; `name` is the model's."""
    body, style, script = (
        (HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return html_page(name, body, style, script)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, answers: Answers, *arguments: object) -> None:
        self.answers = answers
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The page, or the attention of a pixel."""
        path, query = self._asked()
        if not self._is_ours():
            self._send(403, "text/plain", REFUSED)
        elif path == "/":
            self._send(200, "text/html; charset=utf-8", demo_page(self.answers.model.name).encode())
        elif path == "/attention":
            self._answer(
                lambda: self.answers.attention(query["picture"], (int(query["y"]), int(query["x"])))
            )
        else:
            self._send(404, "text/plain", b"there is no such page")

    def do_POST(self) -> None:
        """The segmentation of the picture in the body."""
        path, query = self._asked()
        length = int(self.headers.get("Content-Length", 0))
        if not self._is_ours():
            self._send(403, "text/plain", REFUSED)
        elif path != "/segment":
            self._send(404, "text/plain", b"there is no such page")
        elif length > LARGEST:
            self.close_connection = True
            self._send(413, "text/plain", b"this file is larger than 64 MiB; drop a smaller one")
        else:
            content = self.rfile.read(length)
            scales = [float(scale) for scale in query.get("scales", "").split(",") if scale]
            self._answer(lambda: self.answers.segment(content, scales, query.get("flip") == "1"))

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal is for the user."""

    def _asked(self) -> tuple[str, dict[str, str]]:
        address = urlsplit(self.path)
        return address.path, {key: values[-1] for key, values in parse_qs(address.query).items()}

    def _answer(self, work: Callable[[], dict[str, Any] | bytes]) -> None:
        """Sends what the model says: JSON or PNG; a mistake as a sentence."""
        try:
            found = work()
        except UserError as error:
            self._send(400, "text/plain; charset=utf-8", str(error).encode())
        except (KeyError, ValueError):
            self._send(400, "text/plain", b"the page has asked for nothing that there is")
        else:
            if isinstance(found, bytes):
                self._send(200, "image/png", found)
            else:
                self._send(200, "application/json", json.dumps(found).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _is_ours(self) -> bool:
        """Whether this machine's own page asks: pages of other sites may not."""
        _, port = cast(tuple[str, int], self.server.server_address)
        hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (
            origin is None or origin.removeprefix("http://") in hosts
        )
