"""Bash completes the commands of axialseg as the script says."""

import subprocess
from collections.abc import Callable

import pytest

from axialseg.commands import completion


@pytest.fixture(scope="module")
def script() -> str:
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        completion.completion(["bash"])
    return printed[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predi"], ["predict"]),
        (["predict", "th"], ["things_only="]),
        (["export", "f"], ["format="]),
        (["complexity", "model", "=", "max_deeplab_t"], ["max_deeplab_tiny"]),
        (["memory", "data", "="], None),  # all of them
        (
            ["download", "max_deeplab_l_os16_res1025_4"],
            ["max_deeplab_l_os16_res1025_400k_coco_train"],
        ),
        (["predict", "ckpt", "=", "/et"], ["/etc"]),
        (["import-data", "fro"], ["from="]),
    ],
)
def test_completes(words: list[str], expected: list[str] | None, script: str) -> None:
    line = " ".join(f"'{word}'" for word in ["axialseg", *words])
    ask = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _axialseg; printf '%s\n' ${{COMPREPLY[@]}}"
    )
    found = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert found.stderr == ""
    if expected is None:
        assert {"coco", "cityscapes", "shapes"} <= set(found.stdout.split())
    else:
        assert found.stdout.split() == expected


def test_other_shells(refusal: Callable[[Callable[[], None], list[str]], str]) -> None:
    assert "only bash can be completed" in refusal(completion.main, ["fish"])
