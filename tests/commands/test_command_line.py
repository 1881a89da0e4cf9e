import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.utils.data import DataLoader, Dataset

from axialseg.commands.command_line import user_mistake
from axialseg.errors import UserError

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
    assert user_mistake(UserError(SENTENCE)) == SENTENCE
    wrapped = chained(InstantiationException("Error in call to target"), UserError(SENTENCE))
    assert user_mistake(chained(RuntimeError("outer"), wrapped)) == SENTENCE


def test_takes_the_sentence_out_of_a_workers_trace() -> None:
    loader = DataLoader(BrokenFile(), num_workers=1)
    with pytest.raises(UserError) as raised:
        next(iter(loader))
    assert "Traceback" in str(raised.value)
    assert user_mistake(raised.value) == SENTENCE


def test_defects_are_no_mistakes() -> None:
    assert user_mistake(ValueError("a defect")) is None
    assert user_mistake(chained(InstantiationException("x"), TypeError("a defect"))) is None


def test_values_that_another_package_refuses_are_mistakes() -> None:
    config = {"data": {"list": [{"_target_": "albumentations.Affine", "rotate": "abc"}]}}
    with pytest.raises(InstantiationException) as raised:
        instantiate(config)
    sentence = user_mistake(raised.value)
    assert sentence is not None
    assert sentence.startswith("data.list.0 is refused by albumentations.")
    assert "Input should be a valid number" in sentence
    assert "http" not in sentence


def test_circular_causes_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert user_mistake(first) is None
