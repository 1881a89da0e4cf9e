"""The demo in a real browser: a picture is dropped, pointed at, clicked on."""

import base64
import http.client
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

import axialseg
from axialseg.demo.answers import Answers
from axialseg.demo.server import demo_server

SIDE = 96
PATIENCE = 60.0  # seconds, for a busy machine


@pytest.fixture(scope="module")
def address(seeing_run: Path) -> Iterator[str]:
    """Host and port of a running demo."""
    server = demo_server(Answers(axialseg.load(seeing_run)), port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def picture() -> bytes:
    """Halves of two colours with some noise, PNG."""
    noise = np.random.default_rng(0).integers(0, 40, (SIDE, SIDE, 1)).repeat(3, axis=2)
    noise[: SIDE // 2] += (180, 160, 190)
    content = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(content, "png")
    return content.getvalue()


def drop(page: Browser, content: bytes) -> None:
    """As a hand does it."""
    data = base64.b64encode(content).decode()
    page.evaluate(
        f"(() => {{ const bytes = Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0));"
        "const data = new DataTransfer(); data.items.add(new File([bytes], 'a.png'));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data })); })()"
    )


def mouse(page: Browser, kind: str, x: float, y: float) -> None:
    """An event at a place of the canvas, in shares of its sides."""
    page.evaluate(
        f"(() => {{ const box = canvas.getBoundingClientRect();"
        f"canvas.dispatchEvent(new MouseEvent('{kind}', {{"
        f"clientX: box.left + {x} * box.width, clientY: box.top + {y} * box.height }})); }})()"
    )


def state(page: Browser, until_not: str) -> str:
    """What the page says when it no longer says that it works."""
    for _ in range(int(PATIENCE / 0.1)):
        text = str(page.evaluate("document.getElementById('state').textContent"))
        if not text.startswith(until_not):
            return text
        time.sleep(0.1)
    raise AssertionError(text)


def painted(page: Browser) -> np.ndarray:
    """The canvas, ``[H, W, 3]``."""
    address = page.evaluate("canvas.toDataURL('image/png')")
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_a_visit(address: str, seeing_run: Path, tmp_path: Path) -> None:
    expected = axialseg.load(seeing_run).predict(np.array(Image.open(io.BytesIO(picture()))))
    names = [f"{segment.name} {segment.score:.2f}" for segment in expected.segments]
    with Browser() as page:
        page.open(f"http://{address}/")
        drop(page, picture())
        said = state(page, "Segmenting")
        assert said.startswith(f"{len(names)} segments in {SIDE} x {SIDE} pixels")
        rows = page.evaluate(
            "[...document.querySelectorAll('#segments label')].map((row) => row.innerText)"
        )
        assert [" ".join(row.split()) for row in rows] == names

        # Pointing tells the segment; it is painted in its colour.
        number = 1 + int(np.argmax([segment.area for segment in expected.segments]))
        inside = np.argwhere(expected.id_map == number)
        y, x = inside[len(inside) // 2]
        mouse(page, "mousemove", (x + 0.5) / SIDE, (y + 0.5) / SIDE)
        assert page.evaluate("document.getElementById('tip').textContent") == names[number - 1]
        with_paint = painted(page)
        page.evaluate("document.getElementById('none').click()")
        np.testing.assert_allclose(painted(page), expected.image, atol=24)  # a JPEG of it
        assert np.abs(with_paint.astype(int) - expected.image).mean() > 10
        page.evaluate("document.querySelector('#segments input').click()")
        shown = np.abs(painted(page).astype(int) - expected.image).sum(2) > 90
        assert set(np.unique(expected.id_map[shown])) == {1}

        # A click shows both axes.
        mouse(page, "click", 0.3, 0.7)
        assert state(page, "Looking") == "What the pixel in row 67, column 28 attends to."
        size = page.evaluate("document.querySelector('#attention img').naturalWidth")
        assert size > 600

        # Other scales; then a file that is no picture.
        page.evaluate("document.querySelector('#scales input[value=\"0.5\"]').click()")
        assert state(page, "Segmenting").endswith(" s")
        assert page.errors == []
        drop(page, b"no picture")
        assert state(page, "Segmenting") == (
            "this file is no image that can be read; drop another one"
        )
        page.screenshot(tmp_path / "page.png")
        assert all(request.startswith(f"http://{address}/") for request in page.requests)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("POST", "/segment", {"Origin": "http://evil.example"}, 403),
        ("GET", "/../server.py", {}, 404),
        ("GET", "/attention?picture=none&y=1&x=1", {}, 400),
        ("GET", "/attention", {}, 400),
        ("POST", "/segment", {"Content-Length": str(1 << 40)}, 413),
    ],
)
def test_refused(
    method: str, path: str, headers: dict[str, str], status: int, address: str
) -> None:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()
