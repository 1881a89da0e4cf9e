import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import (
    DTYPE_NUMBERS,
    entry,
    header,
    message_field,
    number_field,
    sstable,
    write_bundle,
)

from axialseg.checkpoints.tensorflow.tensor_bundle import (
    VARIABLE_SUFFIX,
    TensorBundle,
    find_prefix,
    variables,
)
from axialseg.errors import UserError

GOLDENS = Path(__file__).parents[2] / "goldens"
REAL_CHECKPOINT = GOLDENS / "checkpoint" / "ckpt-1"


@pytest.fixture(scope="module")
def real() -> TensorBundle:
    return TensorBundle(REAL_CHECKPOINT)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    prefix = tmp_path / "ckpt-4.5"
    tensors = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7)}
    write_bundle(prefix, tensors)
    return prefix


class TestRealCheckpoint:
    def test_all_keys_and_shapes_are_those_of_the_manifest(self, real: TensorBundle) -> None:
        manifest = json.loads(
            (GOLDENS / "deeplab2" / "manifest" / "tiny_axial_swidernet.json").read_text()
        )
        expected = {key: tuple(shape) for key, shape in manifest["checkpoint_keys"].items()}
        found = {key: real.shape(key) for key in real.keys()}  # noqa: SIM118
        assert found.pop("_CHECKPOINTABLE_OBJECT_GRAPH") == ()
        assert found == expected

    def test_all_checksums_are_right(self, real: TensorBundle) -> None:
        for key in real.keys():  # noqa: SIM118
            real.read(key)

    def test_weights_are_those_of_the_golden(self, real: TensorBundle) -> None:
        golden = np.load(GOLDENS / "deeplab2" / "tiny_axial_swidernet.npz")
        for name, (total, squares), samples in zip(
            golden["after_step/weight_names"],
            golden["after_step/weight_sum_sumsq"],
            golden["after_step/weight_samples_at_linspace6"],
            strict=True,
        ):
            weight = real.read(str(name))
            assert weight.dtype == np.float32
            positions = np.linspace(0, weight.size - 1, 6).astype(int)
            np.testing.assert_array_equal(weight.reshape(-1)[positions], samples)
            assert weight.sum(dtype=np.float64) == pytest.approx(total, abs=1e-8)
            assert np.square(weight, dtype=np.float64).sum() == pytest.approx(squares, rel=1e-12)

    def test_moving_statistics_are_those_of_the_golden(self, real: TensorBundle) -> None:
        golden = np.load(GOLDENS / "deeplab2" / "tiny_axial_swidernet.npz")
        found = [real.read(str(name)).reshape(-1) for name in golden["after_step/bn_names"]]
        np.testing.assert_array_equal(np.concatenate(found), golden["after_step/bn_concat"])

    def test_variables_are_the_model_and_the_step(self, real: TensorBundle) -> None:
        manifest = json.loads(
            (GOLDENS / "deeplab2" / "manifest" / "tiny_axial_swidernet.json").read_text()
        )
        picked = variables(real)
        names = {row[0].removesuffix(VARIABLE_SUFFIX) for row in manifest["variables"]}
        assert set(picked.entries) == names | {"global_step"}
        assert Counter(picked.skipped.values()) == {
            "optimiser slot": 438,
            "optimiser state": 4,
            "graph of the saved objects": 1,
            "number of the checkpoint": 1,
        }
        assert all(entry.key in real.keys() for entry in picked.entries.values())  # noqa: SIM118
        assert real.read("global_step" + VARIABLE_SUFFIX) == 1

    def test_text_is_decoded(self, real: TensorBundle) -> None:
        graph = real.read("_CHECKPOINTABLE_OBJECT_GRAPH")
        assert graph.dtype == object
        assert b"instance_center_head_last_layer" in graph.item()

    def test_unknown_key_names_the_nearest(self, real: TensorBundle) -> None:
        with pytest.raises(UserError, match="nearest key is global_step"):
            real.read("global_stepp" + VARIABLE_SUFFIX)


@pytest.mark.parametrize(
    "name",
    [name for name in DTYPE_NUMBERS if name not in ("string", "bfloat16")],
)
def test_dtypes(tmp_path: Path, name: str) -> None:
    tensor = np.array([[0, 1, 3], [100, 7, 0]]).astype(name)
    write_bundle(tmp_path / "ckpt", {"x": tensor})
    bundle = TensorBundle(tmp_path / "ckpt")
    assert bundle.dtype("x") == np.dtype(name)
    read = bundle.read("x")
    assert read.dtype == np.dtype(name)
    np.testing.assert_array_equal(read, tensor)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    tensor = np.array([1.0, -2.5, 3.140625, np.inf, 1e-30], dtype=np.float32)
    write_bundle(tmp_path / "ckpt", {"x": tensor}, dtype_names={"x": "bfloat16"})
    bundle = TensorBundle(tmp_path / "ckpt")
    assert bundle.entry("x").size == 10
    assert bundle.read("x").dtype == bundle.dtype("x") == np.float32
    np.testing.assert_allclose(bundle.read("x"), tensor, rtol=2**-7)
    np.testing.assert_array_equal(bundle.read("x")[:4], tensor[:4])


def test_texts(tmp_path: Path) -> None:
    tensor = np.array([[b"", b"one"], [b"x" * 200, b"\0\1"]], dtype=object)
    write_bundle(tmp_path / "ckpt", {"x": tensor}, dtype_names={"x": "string"})
    read = TensorBundle(tmp_path / "ckpt").read("x")
    assert read.tolist() == tensor.tolist()


def test_scalar_and_empty_tensors(tmp_path: Path) -> None:
    tensors = {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(5, np.int64)}
    write_bundle(tmp_path / "ckpt", tensors)
    bundle = TensorBundle(tmp_path / "ckpt")
    assert bundle.read("empty").shape == (0, 3)
    assert bundle.read("scalar").shape == ()
    assert bundle.read("scalar") == 5


def test_read_gives_an_array_of_its_own(small: Path) -> None:
    bundle = TensorBundle(small)
    bundle.read("a/kernel")[:] = 0
    assert bundle.read("a/kernel").sum() == 15


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("rows_per_block", [1, 7, 1000])
def test_forms_of_the_files(tmp_path: Path, snappy: bool, shards: int, rows_per_block: int) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"encoder/_stage{i % 4}/_block{i}/kernel{VARIABLE_SUFFIX}": rng.normal(size=(i, 3))
        for i in range(40)
    }
    write_bundle(tmp_path / "ckpt", tensors, None, shards, rows_per_block, snappy)
    bundle = TensorBundle(tmp_path / "ckpt")
    assert bundle.keys() == sorted(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(bundle.read(key), tensor)


class TestDamage:
    @pytest.mark.parametrize("snappy", [False, True])
    def test_any_flipped_byte_of_the_index(self, tmp_path: Path, snappy: bool) -> None:
        prefix = tmp_path / "ckpt"
        tensors = {f"a/{i}": np.full(3, i, np.float32) for i in range(4)}
        write_bundle(prefix, tensors, rows_per_block=2, snappy=snappy)
        index = prefix.with_suffix(".index")
        whole = index.read_bytes()
        footer_padding = range(len(whole[:-8].rstrip(b"\0")), len(whole) - 8)
        for position in set(range(len(whole))) - set(footer_padding):
            damaged = bytearray(whole)
            damaged[position] ^= 0x21
            index.write_bytes(damaged)
            with pytest.raises(UserError, match=re.escape(str(index))):
                TensorBundle(prefix)

    def test_any_flipped_byte_of_the_data_names_the_tensor(self, small: Path) -> None:
        data = small.with_name("ckpt-4.5.data-00000-of-00001")
        whole = data.read_bytes()
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 0x01
            data.write_bytes(damaged)
            key, other = ("a/kernel", "b") if position < 24 else ("b", "a/kernel")
            bundle = TensorBundle(small)
            with pytest.raises(UserError, match=f"checksum of {key} in .*data-00000-of-00001"):
                bundle.read(key)
            bundle.read(other)

    def test_any_flipped_byte_of_a_text(self, tmp_path: Path) -> None:
        tensor = np.array([b"one", b"x" * 130], dtype=object)
        write_bundle(tmp_path / "ckpt", {"t": tensor}, dtype_names={"t": "string"})
        data = tmp_path / "ckpt.data-00000-of-00001"
        whole = data.read_bytes()
        bundle = TensorBundle(tmp_path / "ckpt")
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 0x81
            data.write_bytes(damaged)
            with pytest.raises(UserError, match="checksum of t"):
                bundle.read("t")

    def test_index_cut_anywhere(self, small: Path) -> None:
        index = small.with_name("ckpt-4.5.index")
        whole = index.read_bytes()
        for size in range(len(whole)):
            index.write_bytes(whole[:size])
            with pytest.raises(UserError, match="cut off"):
                TensorBundle(small)

    def test_data_cut_anywhere(self, small: Path) -> None:
        data = small.with_name("ckpt-4.5.data-00000-of-00001")
        whole = data.read_bytes()
        for size in range(len(whole)):
            data.write_bytes(whole[:size])
            with pytest.raises(UserError, match=f"cut off: it has {size} of at least 32 bytes"):
                TensorBundle(small)

    def test_data_cut_after_opening(self, small: Path) -> None:
        bundle = TensorBundle(small)
        data = small.with_name("ckpt-4.5.data-00000-of-00001")
        data.write_bytes(data.read_bytes()[:10])
        with pytest.raises(UserError, match="cut off within a/kernel"):
            bundle.read("a/kernel")

    def test_missing_shard(self, tmp_path: Path) -> None:
        write_bundle(tmp_path / "ckpt", {"a": np.ones(2), "b": np.ones(2)}, shards=2)
        (tmp_path / "ckpt.data-00001-of-00002").unlink()
        with pytest.raises(UserError, match="data-00001-of-00002 is missing"):
            TensorBundle(tmp_path / "ckpt")

    def test_missing_index(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            TensorBundle(tmp_path / "ckpt")

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "ckpt.index").write_bytes(b"no table" * 100)
        with pytest.raises(UserError, match="not the index of a TensorFlow checkpoint"):
            TensorBundle(tmp_path / "ckpt")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({}, "has no header"),
            ({b"": header(big_endian=True)}, "big-endian"),
            ({b"": header(min_consumer=2)}, "later format version"),
            ({b"": header(shards=0)}, "0 shards"),
            ({b"": b"\x0a\x01x"}, "message in place of a number"),
            ({b"": header(), b"a": b"\x08"}, "ends within an integer"),
            ({b"": header(), b"a": b"\x12\x7f\x01"}, "ends within a field"),
            ({b"": header(), b"a": b"\x13"}, "unknown kind 3"),
            ({b"": header(), b"a": entry(1, (2,), 0, 0, b"123", bytes(4))}, "does not fit"),
            ({b"": header(), b"a": entry(1, (1,), 1, 0, b"1234", bytes(4))}, "into shard 1 of 1"),
        ],
    )
    def test_impossible_index(self, tmp_path: Path, rows: dict[bytes, bytes], message: str) -> None:
        (tmp_path / "ckpt.index").write_bytes(sstable(rows))
        (tmp_path / "ckpt.data-00000-of-00001").write_bytes(b"1234")
        with pytest.raises(UserError, match=message):
            TensorBundle(tmp_path / "ckpt")


class TestOddTensors:
    def test_slices_are_refused_and_not_listed(self, tmp_path: Path) -> None:
        whole = number_field(1, 1) + message_field(2, message_field(2, number_field(1, 4)))
        rows = {
            b"sliced": whole + message_field(7, b""),
            b"\0\1sliced\0\1\1\x80": entry(1, (2,), 0, 0, b"", bytes(4)),
        }
        write_bundle(tmp_path / "ckpt", {"x": np.ones(1)}, extra_rows=rows)
        bundle = TensorBundle(tmp_path / "ckpt")
        assert bundle.keys() == ["sliced", "x"]
        with pytest.raises(UserError, match=r"sliced in .* is cut into slices"):
            bundle.read("sliced")
        bundle.read("x")

    def test_unknown_dtype_is_refused_when_read(self, tmp_path: Path) -> None:
        rows = {b"variant": entry(21, (), 0, 0, b"12345678", bytes(4))}
        write_bundle(tmp_path / "ckpt", {"x": np.ones(1)}, extra_rows=rows)
        bundle = TensorBundle(tmp_path / "ckpt")
        with pytest.raises(UserError, match="type number 21"):
            bundle.read("variant")
        bundle.read("x")


def test_variables_skip_all_that_is_no_weight(tmp_path: Path) -> None:
    tensors = {
        "encoder/kernel" + VARIABLE_SUFFIX: np.ones(1),
        "encoder/kernel/.OPTIMIZER_SLOT/optimizer/m" + VARIABLE_SUFFIX: np.ones(1),
        "optimizer/_variables/3" + VARIABLE_SUFFIX: np.ones(1),
        "backbone_optimizer/iter" + VARIABLE_SUFFIX: np.ones(1),
        "save_counter" + VARIABLE_SUFFIX: np.ones(1),
        "name" + VARIABLE_SUFFIX: np.array(b"text", dtype=object),
        "resnet/conv1/weights": np.ones(1),
    }
    names = {"name" + VARIABLE_SUFFIX: "string"}
    write_bundle(tmp_path / "ckpt", tensors, dtype_names=names)
    picked = variables(TensorBundle(tmp_path / "ckpt"))
    assert list(picked.entries) == ["encoder/kernel"]
    assert picked.entries["encoder/kernel"].key == "encoder/kernel" + VARIABLE_SUFFIX
    assert sorted(picked.skipped.values()) == [
        "not a variable of an object",
        "number of the checkpoint",
        "optimiser slot",
        "optimiser state",
        "optimiser state",
        "text",
    ]


class TestFindPrefix:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[[str], Path]:
        def write_one(name: str) -> Path:
            prefix = tmp_path / name
            prefix.parent.mkdir(parents=True, exist_ok=True)
            write_bundle(prefix, {"x": np.ones(1)})
            return prefix

        return write_one

    @pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001"])
    def test_file(self, write: Callable[[str], Path], suffix: str) -> None:
        prefix = write("1.4.5/ckpt-60000")
        assert find_prefix(Path(f"{prefix}{suffix}")) == prefix

    def test_only_one_in_the_folder(self, write: Callable[[str], Path], tmp_path: Path) -> None:
        prefix = write("ckpt-1.0")
        (tmp_path / "._ckpt-1.0.index").write_bytes(b"left by another system")
        assert find_prefix(tmp_path) == prefix

    def test_folder_within(self, write: Callable[[str], Path], tmp_path: Path) -> None:
        prefix = write("model/variant/ckpt-1")
        assert find_prefix(tmp_path) == prefix

    @pytest.mark.parametrize("noted", ["ckpt-2", "/far/away/ckpt-2", "..\\\\other\\\\ckpt-2"])
    def test_state_file_decides(
        self, write: Callable[[str], Path], tmp_path: Path, noted: str
    ) -> None:
        for name in ("ckpt-1", "ckpt-2", "ckpt-3"):
            write(name)
        (tmp_path / "checkpoint").write_text(
            f'model_checkpoint_path: "{noted}"\nall_model_checkpoint_paths: "ckpt-1"\n'
        )
        assert find_prefix(tmp_path) == tmp_path / "ckpt-2"

    def test_stale_state_file_beside_only_one(
        self, write: Callable[[str], Path], tmp_path: Path
    ) -> None:
        prefix = write("ckpt-1")
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-9"\n')
        assert find_prefix(tmp_path) == prefix

    def test_several_are_listed(self, write: Callable[[str], Path], tmp_path: Path) -> None:
        write("ckpt-1")
        write("ckpt-2")
        with pytest.raises(UserError, match=r"several checkpoints \(ckpt-1, ckpt-2\)"):
            find_prefix(tmp_path)

    def test_several_folders_are_not_chosen_from(
        self, write: Callable[[str], Path], tmp_path: Path
    ) -> None:
        write("a/ckpt-1")
        write("b/ckpt-1")
        (tmp_path / "a" / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
        with pytest.raises(UserError, match=r"a/ckpt-1, b/ckpt-1"):
            find_prefix(tmp_path)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no TensorFlow checkpoint"):
            find_prefix(tmp_path)
        with pytest.raises(UserError, match="not a TensorFlow checkpoint: there is no"):
            find_prefix(tmp_path / "ckpt-1")
        (tmp_path / "model.tar.gz").write_bytes(b"")
        with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
            find_prefix(tmp_path / "model.tar.gz")
