import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.utils.data import DataLoader, Dataset

from axialseg.commands import check_data, train
from axialseg.commands.command_line import user_mistake
from axialseg.errors import UserError

Refusal = Callable[[Callable[[], None], list[str]], str]
SENTENCE = "data/a.png is truncated; copy it again"


def chained(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


class BrokenFile(Dataset):
    """Its only item is a mistake of the user's."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError(SENTENCE)


def test_finds_the_sentence_behind_other_exceptions() -> None:
    assert str(user_mistake(UserError(SENTENCE))) == SENTENCE
    wrapped = chained(InstantiationException("Error in call to target"), UserError(SENTENCE))
    assert str(user_mistake(chained(RuntimeError("outer"), wrapped))) == SENTENCE


def test_takes_the_sentence_out_of_a_workers_trace() -> None:
    loader = DataLoader(BrokenFile(), num_workers=1)
    with pytest.raises(UserError) as raised:
        next(iter(loader))
    assert "Traceback" in str(raised.value)
    assert str(user_mistake(raised.value)) == SENTENCE


def test_defects_are_no_mistakes() -> None:
    assert user_mistake(ValueError("a defect")) is None
    assert user_mistake(chained(InstantiationException("x"), TypeError("a defect"))) is None


def test_values_that_another_package_refuses_are_mistakes() -> None:
    config = {"data": {"list": [{"_target_": "albumentations.Affine", "rotate": "abc"}]}}
    with pytest.raises(InstantiationException) as raised:
        instantiate(config)
    sentence = str(user_mistake(raised.value))
    assert sentence.startswith("data.list.0 is refused by albumentations.")
    assert "Input should be a valid number" in sentence
    assert "http" not in sentence


def test_circular_causes_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert user_mistake(first) is None


@pytest.mark.parametrize("value", ["/a=b", "/日本/x", "/a&b"])
def test_values_that_need_quotes_are_shown_with_them(refusal: Refusal, value: str) -> None:
    for main, more in ((train.main, []), (check_data.main, ["data=coco_format"])):
        message = refusal(main, [*more, f"data.root={value}"])
        assert message == (
            f"error: data.root={value} has characters that need quotes; type "
            f"'data.root=\"{value}\"'\n"
        )
    quoted = refusal(check_data.main, ["data=coco_format", f'data.root="{value}"'])
    assert quoted.startswith(f"error: {value} does not exist; set data.root to the folder")


def test_a_value_with_commas(refusal: Refusal) -> None:
    message = refusal(check_data.main, ["data=coco_format", "data.root=/a,b"])
    assert message.startswith(
        "error: data.root=/a,b names several values: type 'data.root=\"/a,b\"'"
    )


@pytest.mark.parametrize("root", ["~/none", "'~/none'", '"~/none"'])
def test_the_home_folder(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    message = refusal(check_data.main, ["data=coco_format", f"data.root={root}"])
    assert message.startswith(f"error: {tmp_path}/none does not exist; set data.root")


def test_the_home_folder_in_the_environment(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AXIALSEG_DATA", "~/data")
    message = refusal(check_data.main, ["data=coco"])
    assert message.startswith(f"error: {tmp_path}/data/coco does not exist; set data.root")


def test_another_ctrl_c_while_a_stopped_command_ends_leaves_no_trace(tmp_path: Path) -> None:
    program = """
import atexit, os, signal, sys
from axialseg.commands.command_line import run_command
def job(cfg):
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
    sys.exit(75)
sys.argv = ["train.py"]
run_command(job, "train", lambda cfg: None)
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode in (75, -signal.SIGINT)
    assert run.stderr == ""
