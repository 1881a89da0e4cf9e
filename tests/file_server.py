"""A server on this machine for what the tests download."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` at /file.tar.gz, in the manner that a test sets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.knows_ranges = True
        self.tells_length = True
        self.status = 200
        self.break_off_after: int | None = None
        self.wrong_range = False
        self.asked_ranges: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """A client that turns away is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers["Range"]
        server.asked_ranges.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        size = len(server.content)
        if asked and server.knows_ranges and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked and server.knows_ranges:
            first = start + 1 if server.wrong_range else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        else:
            start = 0
            self.send_response(200)
        if server.tells_length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        end = size if server.break_off_after is None else start + server.break_off_after
        self.wfile.write(server.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_server() -> Iterator[FileServer]:
    """A server that runs as long as the context lasts."""
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
