import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import write_bundle
from file_server import FileServer, running_server
from filelock import FileLock

from axialseg.checkpoints import download as download_module
from axialseg.checkpoints import published
from axialseg.checkpoints.download import download, fetch
from axialseg.checkpoints.published import (
    cache_folder,
    cached_checkpoint,
    published_checkpoint,
    published_checkpoints,
)
from axialseg.checkpoints.tensorflow.tensor_bundle import TensorBundle
from axialseg.errors import UserError

NAME = "tiny_axial_swidernet_test"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as running:
        yield running


class TestFetch:
    @pytest.fixture(autouse=True)
    def content(self, server: FileServer) -> bytes:
        server.content = np.random.default_rng(0).bytes(3_000_000)
        return server.content

    def test_whole_file(self, server: FileServer, tmp_path: Path) -> None:
        fetch(server.url, tmp_path / "f", print)
        assert (tmp_path / "f").read_bytes() == server.content
        assert [path.name for path in tmp_path.iterdir()] == ["f"]
        assert server.asked_ranges == [None]

    def test_broken_off_then_resumed(self, server: FileServer, tmp_path: Path) -> None:
        server.break_off_after = 1_200_000
        with pytest.raises(UserError, match="broke off after 1200000 of 3000000 bytes"):
            fetch(server.url, tmp_path / "f", print)
        assert [path.name for path in tmp_path.iterdir()] == ["f.part"]
        server.break_off_after = 700_000
        with pytest.raises(UserError, match="broke off after 1900000 of 3000000 bytes"):
            fetch(server.url, tmp_path / "f", print)
        server.break_off_after = None
        fetch(server.url, tmp_path / "f", print)
        assert (tmp_path / "f").read_bytes() == server.content
        assert server.asked_ranges == [None, "bytes=1200000-", "bytes=1900000-"]

    def test_server_without_ranges_begins_again(self, server: FileServer, tmp_path: Path) -> None:
        server.knows_ranges = False
        (tmp_path / "f.part").write_bytes(b"x" * 4_000_000)
        fetch(server.url, tmp_path / "f", print)
        assert (tmp_path / "f").read_bytes() == server.content

    def test_part_longer_than_the_file_begins_again(
        self, server: FileServer, tmp_path: Path
    ) -> None:
        (tmp_path / "f.part").write_bytes(b"x" * 4_000_000)
        fetch(server.url, tmp_path / "f", print)
        assert (tmp_path / "f").read_bytes() == server.content
        assert server.asked_ranges == ["bytes=4000000-", None]

    def test_unknown_length(self, server: FileServer, tmp_path: Path) -> None:
        server.tells_length = False
        lines: list[str] = []
        fetch(server.url, tmp_path / "f", lines.append)
        assert (tmp_path / "f").read_bytes() == server.content
        assert lines[0] == "f: fetching unknown size"

    def test_wrong_range_is_not_appended(self, server: FileServer, tmp_path: Path) -> None:
        server.wrong_range = True
        (tmp_path / "f.part").write_bytes(server.content[:100])
        with pytest.raises(UserError, match="wrong range"):
            fetch(server.url, tmp_path / "f", print)
        assert (tmp_path / "f.part").read_bytes() == server.content[:100]

    @pytest.mark.parametrize("status", [404, 416, 503])
    def test_http_error(self, server: FileServer, tmp_path: Path, status: int) -> None:
        server.status = status
        with pytest.raises(UserError, match=f"{re.escape(server.url)} cannot .*HTTP {status}"):
            fetch(server.url, tmp_path / "f", print)
        assert list(tmp_path.iterdir()) == []

    def test_no_server(self, server: FileServer, tmp_path: Path) -> None:
        server.server_close()
        with pytest.raises(UserError, match="see to the connection"):
            fetch(server.url, tmp_path / "f", print)

    def test_full_disk_is_seen_before(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = download_module.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
        monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match=r"needs 3\.00 MB more, but its disk has 1\.00 MB"):
            fetch(server.url, tmp_path / "f", print)

    def test_progress_is_whole_lines(
        self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "f.part").write_bytes(server.content[:500_000])
        lines: list[str] = []
        fetch(server.url, tmp_path / "f", lines.append)
        assert lines[0] == "f: fetching 3.00 MB, from 0.50 MB on"
        assert re.fullmatch(r"f: 100 % of 3\.00 MB, [\d.]+ MB/s, 0 min left", lines[1])
        assert len(lines) == 2  # a quick download says no more
        monkeypatch.setattr(download_module, "_REPORT_SECONDS", 0.0)
        fetch(server.url, tmp_path / "f", lines.append)
        assert len(lines) == 2 + 1 + 3 + 1  # one line for each block of 2**20 bytes


class TestDownload:
    @pytest.fixture(autouse=True)
    def row(self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        row = {
            "url": server.url,
            "model": "axial_swidernet_tiny",
            "data": "shapes",
            "output_stride": 16,
            "input_size": [65, 97],
            "pq": 50.0,
            "weights_mb": 7,
            "source": "here",
        }
        (tmp_path / "published.yaml").write_text(json.dumps({NAME: row}))
        monkeypatch.setattr(published, "TABLE_PATH", tmp_path / "published.yaml")
        server.content = self.archive_of(1.0, tmp_path)

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        return tmp_path / "new" / "cache"

    def archive_of(self, value: float, tmp_path: Path) -> bytes:
        (tmp_path / "checkpoint").mkdir(exist_ok=True)
        write_bundle(tmp_path / "checkpoint" / "ckpt-1", {"x": np.full(2000, value)})
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            archive.add(tmp_path / "checkpoint", "model")
        return stream.getvalue()

    @staticmethod
    def convert(prefix: Path, output: Path) -> None:
        assert output.suffix == ".safetensors"
        output.write_bytes(TensorBundle(prefix).read("x")[:3].tobytes())

    @staticmethod
    def files(cache: Path) -> list[str]:
        return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))

    def test_fetched_converted_and_recorded(self, server: FileServer, cache: Path) -> None:
        path = download(NAME, cache, self.convert, print)
        assert path == cache / f"{NAME}.safetensors" == cached_checkpoint(NAME, cache)
        assert path.read_bytes() == np.ones(3).tobytes()
        assert self.files(cache) == [f"{NAME}.json", f"{NAME}.safetensors"]
        assert json.loads((cache / f"{NAME}.json").read_text()) == {
            "url": server.url,
            "archive_sha256": hashlib.sha256(server.content).hexdigest(),
            "converted_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }

    def test_size_is_said_before_a_server_is_asked(self, server: FileServer, cache: Path) -> None:
        server.server_close()
        lines: list[str] = []
        with pytest.raises(UserError, match="see to the connection"):
            download(NAME, cache, self.convert, lines.append)
        (line,) = lines
        assert line.startswith(f"{NAME}: 7 MB of weights from {server.url}; the archive is")

    def test_second_call_fetches_nothing(self, server: FileServer, cache: Path) -> None:
        download(NAME, cache, self.convert, print)
        lines: list[str] = []
        download(NAME, cache, self.convert, lines.append)
        assert lines == [f"{NAME}: in the cache already"]
        assert len(server.asked_ranges) == 1

    def test_damaged_file_in_the_cache_is_replaced(self, server: FileServer, cache: Path) -> None:
        path = download(NAME, cache, self.convert, print)
        path.write_bytes(b"damaged")
        download(NAME, cache, self.convert, print)
        assert path.read_bytes() == np.ones(3).tobytes()

    def test_another_file_at_the_address_is_refused(
        self, server: FileServer, cache: Path, tmp_path: Path
    ) -> None:
        path = download(NAME, cache, self.convert, print)
        path.unlink()
        server.content = self.archive_of(2.0, tmp_path)
        with pytest.raises(UserError, match=r"gave another file than the one recorded in .*json"):
            download(NAME, cache, self.convert, print)
        assert self.files(cache) == [f"{NAME}.json"]
        (cache / f"{NAME}.json").unlink()  # the cure that the message names
        download(NAME, cache, self.convert, print)
        assert path.read_bytes() == np.full(3, 2.0).tobytes()

    def test_broken_off_then_resumed(self, server: FileServer, cache: Path) -> None:
        server.break_off_after = 100
        with pytest.raises(UserError, match="broke off"):
            download(NAME, cache, self.convert, print)
        assert self.files(cache) == [f"{NAME}.tar.gz.part"]
        server.break_off_after = None
        download(NAME, cache, self.convert, print)
        assert server.asked_ranges == [None, "bytes=100-"]

    def test_damaged_archive_is_not_kept(self, server: FileServer, cache: Path) -> None:
        whole = server.content
        server.content = whole[:-20]
        with pytest.raises(UserError, match="cut off or damaged"):
            download(NAME, cache, self.convert, print)
        assert self.files(cache) == []
        server.content = whole
        download(NAME, cache, self.convert, print)

    def test_archive_without_a_checkpoint(self, server: FileServer, cache: Path) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("readme"))
        server.content = stream.getvalue()
        with pytest.raises(UserError, match="no TensorFlow checkpoint"):
            download(NAME, cache, self.convert, print)
        assert not (cache / f"{NAME}.safetensors").exists()

    def test_failed_conversion_keeps_the_archive_for_the_next_attempt(
        self, server: FileServer, cache: Path
    ) -> None:
        def fail(prefix: Path, output: Path) -> None:
            output.write_bytes(b"half")
            raise UserError("another architecture")

        with pytest.raises(UserError, match="another architecture"):
            download(NAME, cache, fail, print)
        assert self.files(cache) == [f"{NAME}.json", f"{NAME}.tar.gz"]
        with pytest.raises(UserError, match="not in"):
            cached_checkpoint(NAME, cache)
        path = download(NAME, cache, self.convert, print)
        assert path.read_bytes() == np.ones(3).tobytes()
        assert len(server.asked_ranges) == 1
        assert self.files(cache) == [f"{NAME}.json", f"{NAME}.safetensors"]

    def test_two_at_once_are_refused(self, cache: Path) -> None:
        cache.mkdir(parents=True)
        with FileLock(cache / f".{NAME}.lock"), pytest.raises(UserError, match="already"):
            download(NAME, cache, self.convert, print)

    def test_cache_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("")
        with pytest.raises(UserError, match="cannot be kept in the cache"):
            download(NAME, tmp_path / "cache", self.convert, print)

    def test_unknown_name(self, cache: Path) -> None:
        with pytest.raises(UserError, match=f"choose one of: {NAME}"):
            download("tiny_axial_swidernet", cache, self.convert, print)
        assert not cache.exists()


class TestPublished:
    def test_table(self) -> None:
        checkpoints = published_checkpoints()
        for name, checkpoint in checkpoints.items():
            assert checkpoint.name == name
            assert checkpoint.url == (
                f"https://storage.googleapis.com/gresearch/tf-deeplab/checkpoint/{name}.tar.gz"
            )
            is_backbone = checkpoint.data == "imagenet"
            assert (checkpoint.pq is None) == is_backbone
            assert (checkpoint.input_size is None) == is_backbone

    def test_expected_pq(self) -> None:
        end = "_os16_axial_deeplab_cityscapes_trainfine"
        expected = {
            f"axial_swidernet_1_1_1{end}": 66.1,
            f"axial_swidernet_1_1_3{end}": 67.1,
            f"axial_swidernet_1_1_4.5{end}": 68.0,
            f"max_deeplab_s_backbone{end}": 64.5,
            f"max_deeplab_l_backbone{end}": 66.3,
            "max_deeplab_s_os16_res641_100k_coco_train": 45.9,
            "max_deeplab_s_os16_res641_200k_coco_train": 46.5,
            "max_deeplab_s_os16_res641_400k_coco_train": 47.0,
            "max_deeplab_s_os16_res1025_100k_coco_train": 47.9,
            "max_deeplab_s_os16_res1025_200k_coco_train": 48.7,
            "max_deeplab_s_os16_res1025_400k_coco_train": 49.0,
        }
        checkpoints = published_checkpoints()
        assert {name: checkpoints[name].pq for name in expected} == expected

    def test_unknown_name_lists_the_nearest(self) -> None:
        with pytest.raises(UserError) as caught:
            published_checkpoint("axial_swidernet_1_1_1_os16_cityscapes")
        names = str(caught.value).split("choose one of: ")[1]
        assert names.startswith("axial_swidernet_1_1_1_os16_axial_deeplab_cityscapes_trainfine, ")
        assert names.count(",") == 2

    def test_name_like_none_lists_all(self) -> None:
        with pytest.raises(UserError) as caught:
            published_checkpoint("????")
        assert all(name in str(caught.value) for name in published_checkpoints())

    def test_not_yet_downloaded(self, tmp_path: Path) -> None:
        name = "resnet50_imagenet1k"
        with pytest.raises(UserError, match=f"python -m axialseg download {name}"):
            cached_checkpoint(name, tmp_path)

    def test_cache_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("AXIALSEG_CACHE", raising=False)
        assert cache_folder() == tmp_path / ".cache" / "axialseg"
        monkeypatch.setenv("AXIALSEG_CACHE", "~/elsewhere")
        assert cache_folder() == tmp_path / "elsewhere"
