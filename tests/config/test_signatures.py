import inspect
from pathlib import Path

import pytest

from axialseg.config import signatures
from axialseg.config.signatures import UnknownTarget, constructor_signature


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose modules would fail if they were imported."""
    folder = tmp_path / "shop"
    (folder / "goods").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .goods.fruit import Apple as Pomme\nimport nothing\n")
    (folder / "goods/__init__.py").write_text("")
    (folder / "goods/fruit.py").write_text(
        "import nothing_of_this_name\n"
        "from dataclasses import dataclass\n"
        "from typing import NamedTuple\n"
        "from ..base import Food, Plain\n"
        "class Apple(Food): pass\n"
        "class Pear(Food):\n"
        "    def __init__(self, size: int, *, ripe: bool = True, **rest): ...\n"
        "    @classmethod\n"
        "    def sized(cls, grams: float): ...\n"
        "@dataclass(frozen=True)\n"
        "class Plum:\n"
        "    stone: str | None\n"
        "class Pair(NamedTuple):\n"
        "    left: int\n"
        "class Nut(Plain): pass\n"
        "try:\n"
        "    def peel(fruit, knife=None): ...\n"
        "except ImportError: ...\n"
    )
    (folder / "base.py").write_text(
        "class Food:\n    def __init__(self, weight: float): ...\nclass Plain: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (signatures.module_file, signatures._statements):
        cached.cache_clear()
    return "shop"


@pytest.mark.parametrize(
    ("target", "annotations"),
    [
        ("shop.goods.fruit.Apple", {"weight": "float"}),
        ("shop.Pomme", {"weight": "float"}),
        ("shop.goods.fruit.Plum", {"stone": "str | None"}),
        ("shop.goods.fruit.Pair", {"left": "int"}),
        ("shop.goods.fruit.Nut", {}),
        ("shop.goods.fruit.peel", {"fruit": "", "knife": ""}),
        ("shop.goods.fruit.Pear.sized", {"grams": "float"}),
    ],
)
def test_finds_the_definition(package: str, target: str, annotations: dict[str, str]) -> None:
    signature = constructor_signature(target)
    assert signature is not None
    assert signature.annotations == annotations
    assert not signature.takes_any_keyword


def test_tells_keyword_arguments(package: str) -> None:
    signature = constructor_signature("shop.goods.fruit.Pear")
    assert signature == signatures.Signature({"size": "int", "ripe": "bool"}, True)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("shop.goods.fruit.Aple", "shop.goods.fruit has no 'Aple'"),
        ("shop.good.fruit.Apple", "there is no module 'shop.good'"),
        ("nothing_of_this_name.Apple", "there is no module 'nothing_of_this_name'"),
        ("Apple", "not a dotted name"),
    ],
)
def test_says_what_does_not_exist(package: str, target: str, sentence: str) -> None:
    with pytest.raises(UnknownTarget, match=sentence):
        constructor_signature(target)


@pytest.mark.parametrize(
    "name",
    [
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "torch.optim.AdamW",
        "albumentations.GaussNoise",  # through two modules that import by a star
    ],
)
def test_agrees_with_python_on_installed_libraries(name: str) -> None:
    import albumentations
    import lightning.pytorch.callbacks
    import torch

    known = {
        "torch.optim.AdamW": torch.optim.AdamW,
        "lightning.pytorch.callbacks.ModelCheckpoint": lightning.pytorch.callbacks.ModelCheckpoint,
        "albumentations.GaussNoise": albumentations.GaussNoise,
    }
    signature = constructor_signature(name)
    assert signature is not None
    assert list(signature.annotations) == list(inspect.signature(known[name]).parameters)
