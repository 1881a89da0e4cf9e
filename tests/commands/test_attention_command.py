import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_checkpoint import PREFIX

from axialseg.commands import attention
from axialseg.errors import UserError
from axialseg.inference.explain import find_layers

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

REFERENCE = [f"ckpt={PREFIX}", "model=axial_swidernet_tiny"]
BLOCK = "backbone.stages.stage4.1.branch.attention"


@pytest.fixture(scope="module")
def checkpoint(trained_run: Path) -> Path:
    """The last checkpoint of a finished run."""
    return trained_run / "checkpoints" / "last.ckpt"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_checkpoint_of_a_run(
    checkpoint: Path, image: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    output = image.with_name("drawn.png")
    query = ["query=[39,0]", "layer=stage3.0", f"output={output}"]
    command(attention.main, [f"ckpt={checkpoint}", f"image={image}", *query])
    assert capsys.readouterr().out == (
        f"backbone.stages.stage3.0.branch.attention of {checkpoint}\nwritten: {output}\n"
    )
    with Image.open(output) as picture:
        width, height = picture.size
    assert width > 3 * height  # four panels of 129 x 129 pixels: evaluation pads to that


def test_model_and_layer_by_name(image: Path, command: Command) -> None:
    output = image.with_name("drawn.png")
    query = ["query=[5,50]", f"layer={BLOCK}.height_axis", f"output={output}"]
    command(attention.main, [*REFERENCE, f"image={image}", *query])
    with Image.open(output) as picture:
        width, height = picture.size
    assert 1.5 * height < width < 3 * height  # two panels of 40 x 60 pixels


def test_checkpoint_that_was_moved_needs_its_model(
    checkpoint: Path, image: Path, tmp_path: Path, refusal: Refusal
) -> None:
    shutil.copy(checkpoint, tmp_path / "moved.ckpt")
    arguments = [f"ckpt={tmp_path / 'moved.ckpt'}", f"image={image}", "query=[1,1]", "layer=x"]
    assert "name its model=... too" in refusal(attention.main, arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("query=[40,0]", "query=[40,0] lies outside the image, which has 40 rows and 60 columns"),
        ("query=[0,-1]", "query=[0,-1] lies outside"),
        ("query=[1]", "query=[1] is not a pixel; give query=[y,x]"),
        ("query=[1,b]", "query[1]: Value 'b' of type 'str' could not be converted to Integer"),
        ("layer=stage9", "layer=stage9 is not a layer of this model; name one of backbone.stages."),
        ("layer=stage5", "stands for several layers; name one of backbone.stages.stage5.0.branch"),
        ("image=/none.png", "image=/none.png does not exist"),
        ("output=drawn.jpg", "output=drawn.jpg must end with .png"),
        ("querry=[1,1]", "querry does not exist; did you mean query?"),
        ("ckpt=/none.ckpt", "the checkpoint /none.ckpt does not exist"),
        ("model=axial_deeplab_tiny", "is of another architecture"),
        ("model=panoptic_deeplab_resnet50", "is of another architecture"),
    ],
)
def test_mistakes(wrong: str, message: str, image: Path, refusal: Refusal) -> None:
    right = [*REFERENCE, f"image={image}", "query=[5,50]", f"layer={BLOCK}"]
    key = wrong.partition("=")[0]
    arguments = [line for line in right if not line.startswith(f"{key}=")] + [wrong]
    assert message in refusal(attention.main, arguments)


@pytest.mark.parametrize("missing", ["ckpt", "image", "query", "layer"])
def test_what_is_missing_is_named(missing: str, image: Path, refusal: Refusal) -> None:
    complete = [*REFERENCE, f"image={image}", "query=[5,50]", f"layer={BLOCK}"]
    arguments = [line for line in complete if not line.startswith(f"{missing}=")]
    assert f"{missing} is not set; give it as {missing}=" in refusal(attention.main, arguments)


def test_model_without_axial_attention() -> None:
    with pytest.raises(UserError, match="no axial attention"):
        find_layers([], "stage4")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (f"{BLOCK}.width_axis", [f"{BLOCK}.width_axis"]),
        (BLOCK, [f"{BLOCK}.height_axis", f"{BLOCK}.width_axis"]),
        ("stage4.1", [f"{BLOCK}.height_axis", f"{BLOCK}.width_axis"]),
        ("stage4.1.branch.attention.height_axis", [f"{BLOCK}.height_axis"]),
    ],
)
def test_names_of_layers(wanted: str, found: list[str]) -> None:
    layers = [
        f"{place}.{axis}"
        for place in (BLOCK, BLOCK.replace("4.1", "4.11"), BLOCK.replace("4.1", "5.0"))
        for axis in ("height_axis", "width_axis")
    ]
    assert find_layers(layers, wanted) == found
