"""Every command of README and docs is one that works.

A command of this project runs up to the end of its checks: configuration composed, each key known,
types right; what would follow (data, minutes, GPUs) has tests of its own. Of other programs, what
they are told is looked up: files, targets, options. A command that this file does not know how to
try is a failure.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from documented_commands import ROOT, Documented, code_spans, commands, python_blocks
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import axialseg
from axialseg.checkpoints.published import published_checkpoint
from axialseg.commands import command_line, evaluate, train
from axialseg.commands.command_files import command_files
from axialseg.commands.command_line import check_command_line
from axialseg.commands.sweep import expand_globs
from axialseg.config.compose import compose_shipped
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.config.signatures import constructor_signature

# Patterns of commands, which stand for many.
TEMPLATES = {
    "python train.py group=choice key=value",
    "python -m axialseg <command>",
    "python -m axialseg predict ...",
    "axialseg predict ...",
    "python evaluate.py ckpt=<any of these> model=... data=...",
    "python evaluate.py ckpt=<name>",
}
# What a reader puts there -> what the test puts there; anything else becomes a word.
FILLED_IN = {
    "<row>": "coco/max_deeplab_s_641",
    "query=[y,x]": "query=[40,60]",
    "<checkpoint of the classifier>": "classifier.ckpt",
    "ckpt=<name>": "ckpt=max_deeplab_s_os16_res641_100k_coco_train",
    "download <name>": "download max_deeplab_s_os16_res641_100k_coco_train",
    "predictions=<JSON file or folder>": "predictions=photos",
    "images=<folder of pictures>": "images=photos",
    "<folder> model=mine": "mine model=mine",
    "[model=<name> key=value ...]": "",
    "ckpt=model.onnx data=": "ckpt=model model=max_deeplab_s data=",  # the file tells its model
}
# The run that a page speaks of.
RUNS = {
    "docs/max_deeplab.md": ["model=max_deeplab_tiny"],
    "docs/reproduce.md": ["experiments=coco/max_deeplab_s_641"],
    "docs/classification.md": ["model=axial_resnet_tiny", "data=patterns"],
}
TOOLS = command_files()
COMMANDS = commands()


def id_of(documented: Documented) -> str:
    return f"{documented.page}: {documented.line[:90]}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of runs that hold their config alone."""
    made: dict[str, Path] = {}

    def run(page: str) -> Path:
        key = page if page in RUNS else ""
        if key not in made:
            folder = made[key] = tmp_path_factory.mktemp("run")
            (folder / ".hydra").mkdir()
            config = compose_shipped(RUNS.get(page, []))
            (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
        return made[key]

    return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, with the variables that readers set."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "holiday"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name / "a.jpg")
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/mine.yaml").write_text("defaults: [axial_hybrid_tiny]")
    for name in ("COCO_ROOT", "CITYSCAPES_ROOT", "IMAGENET_ROOT", "MAPILLARY_ROOT"):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.mark.parametrize("documented", COMMANDS, ids=id_of)
def test_command(
    documented: Documented, runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, line = documented
    if line in TEMPLATES:
        return
    for placeholder, value in FILLED_IN.items():
        line = line.replace(placeholder, value)
    # Folder of a run, however the page calls it.
    line = re.sub(r"\brun=(?:<[^>]*>|[\w./<>]*)", f"run={runs(page)}", line)
    line = re.sub(r"ckpt=outputs/[\w./<>]*", f"ckpt={runs(page)}", line)
    if "experiments=" not in line:
        line = line.replace("ckpt=<checkpoint>", f"ckpt={runs(page) / 'checkpoints/last.ckpt'}")
    line = re.sub(r"<[^>]*>", "something", line)
    line = re.sub(r"\$(\w+_ROOT)", ".", line)
    for part in line.split(" && "):
        words = [word for word in shlex.split(part, comments=True) if word != "..."]
        while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
            words = words[1:]
        try_command(words, monkeypatch)


def try_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command as far as this machine can; unknown ones fail."""
    program, *arguments = words[0].removeprefix(".venv/bin/"), *words[1:]
    if program in ("torchrun", "srun"):
        place = next((n for n, word in enumerate(arguments) if word.endswith(".py")), None)
        assert place is not None, f"{program} starts nothing that is known: {words}"
        program, arguments = "python", arguments[place:]
    if program in ("axialseg", "axialseg-train", "axialseg-evaluate"):
        started = {"axialseg": ["-m", "axialseg"]}
        arguments = started.get(program, [program.removeprefix("axialseg-") + ".py"]) + arguments
        program = "python"
    if program.startswith("python") and arguments[:1] == ["-m"]:
        module, *rest = arguments[1:]
        known = {"axialseg": try_tool, "pytest": try_pytest}
        assert module in ("venv", "http.server", *known), words
        if module in known:
            known[module](rest, monkeypatch)
    elif program.startswith("python"):
        try_script(arguments, monkeypatch)
    elif program == "pytest":
        try_pytest(arguments, monkeypatch)
    elif program == "make":
        assert f"\n{arguments[0]}: " in (ROOT / "Makefile").read_text(), words
    elif program == "bash":
        assert (ROOT / arguments[0]).is_file(), words
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        text = (ROOT / "pyproject.toml").read_text()
        for extra in ",".join(extras).split(",") if extras else ():
            assert f"\n{extra} = [" in text, words
    else:
        files = [word for word in arguments if word.startswith("docs/")]
        assert all(yaml.safe_load((ROOT / file).read_text()) for file in files), words
        known = {
            "git": ("clone", "apply"),
            "wandb": ("login", "offline", "sync", "sweep", "agent"),
            "tensorboard": ("--logdir",),
            "sky": ("jobs",),
            "hf": ("upload", "auth"),
            "eval": (
                "$(axialseg-train -sc install=bash)",
                "$(axialseg-evaluate -sc install=bash)",
                "$(axialseg completion bash)",
            ),
            "cd": ("axialseg",),
        }
        assert arguments[0] in known.get(program, ()), f"no test knows how to try {words}"


def try_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script, *rest = arguments
    if script not in ("train.py", "evaluate.py"):
        text = (ROOT / script).read_text()
        assert all(f'"{word}"' in text for word in rest if word.startswith("--")), arguments
        return
    register_schemas()
    rest = expand_globs(rest)
    args = get_args_parser().parse_args(rest)
    monkeypatch.setattr(command_line, "SWEEP_CHECKS", 2)  # of a sweep's jobs
    if script == "train.py":
        check_command_line("train", args, train.check_training)
    elif args.overrides or not args.help:
        check = evaluate.check_evaluation if args.overrides else lambda cfg: None
        check_command_line("evaluate", args, check, evaluate.register_saved_run)


class Composed(Exception):
    """The command has got as far as its config."""


def try_tool(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command, *rest = arguments
    assert command in TOOLS, arguments
    module: Any = import_module(f"axialseg.commands.{TOOLS[command].stem}")
    if not rest or command == "convert":
        return  # what it prints, and files, have tests of their own
    if command == "download":
        assert published_checkpoint(rest[0])
        return
    if command == "completion":
        module.completion(rest)
        return
    composed = module.compose_config

    def compose_and_stop(name: str, overrides: list[str]) -> DictConfig:
        cfg = composed(name, overrides)
        raise Composed(OmegaConf.missing_keys(cfg))

    with monkeypatch.context() as patch:
        patch.setattr(module, "compose_config", compose_and_stop)
        with pytest.raises(Composed) as stopped:
            getattr(module, TOOLS[command].stem)(rest)
    assert not stopped.value.args[0], f"{arguments} does not set {stopped.value.args[0]}"


def try_pytest(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    places = [word for word in arguments if word.startswith("tests/")]
    for place in places:
        assert (ROOT / place.partition("::")[0]).exists(), place
    if "-k" in arguments and places:
        words = re.findall(r"\w+", arguments[arguments.index("-k") + 1])
        files = [file for place in places for file in files_of(ROOT / place)]
        text = "".join(file.read_text() for file in files)
        assert any(word in text for word in words if word not in ("and", "or", "not")), arguments


def files_of(place: Path) -> Iterator[Path]:
    yield from place.rglob("test_*.py") if place.is_dir() else [place]


KEY = re.compile(
    r"[~+]*(?P<key>(?:model|data|schedule|trainer|callbacks|logger)(?:\.\w+)+)(?:=.*)?"
)
SPANS = {span: page for page, span in code_spans() if KEY.fullmatch(span)}
# Files and objects in Python that look like keys.
NO_KEYS = re.compile(
    r"data\.json|model\.(?:onnx|pt2|safetensors|predict|explain|to|segmenter|net|tar\.gz)$"
)
BASES = (
    ["model=axial_deeplab_l", "data=coco"],
    ["model=max_deeplab_s", "data=cityscapes"],
    ["model=kmax_r50", "data=coco_format"],
    ["model=axial_resnet_50_s", "data=imagenet"],
    ["experiments=imagenet/ps_attention_resnet_50"],
    ["logger=wandb", "callbacks=ema"],
    ["logger=tensorboard"],
    ["data=mapillary_vistas", "model=kmax_r50", "model/backbone=timm"],
)


@pytest.fixture(scope="module")
def configs() -> list[DictConfig]:
    register_schemas()
    evaluate.register_saved_run([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        trainings = [compose("train", base) for base in BASES]
        return [*trainings, compose("evaluate", ["model=max_deeplab_s", "data=coco"])]


def test_every_key_that_a_page_names_exists(configs: list[DictConfig]) -> None:
    unknown = {
        span: page
        for span, page in SPANS.items()
        if not NO_KEYS.match(span) and not any(holds(cfg, span) for cfg in configs)
    }
    assert not unknown


def holds(cfg: DictConfig, span: str) -> bool:
    """Whether the config has a key, or a constructor an argument of that name."""
    match = KEY.fullmatch(span)
    assert match
    parent, _, name = match["key"].rpartition(".")
    if span.startswith("+callbacks."):
        return True  # one of the reader's own
    node: Any = OmegaConf.select(cfg, parent, throw_on_missing=False)
    if not isinstance(node, DictConfig):
        return False
    if name in node:
        return True
    target = OmegaConf.to_container(node, resolve=False)
    signature = constructor_signature(str(node._target_)) if "_target_" in target else None
    return signature is not None and name in signature.annotations


BLOCKS = [block for block in python_blocks() if "axialseg" in block.line]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.page)
def test_python(
    block: Documented, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/my_run").symlink_to(trained_run)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.new("RGB", (240, 160), (200, 30, 30)).save(tmp_path / name)
    image = torch.zeros(1, 3, 65, 65)
    names = {
        **{"torch": torch, "net": axialseg.create_model("axial_deeplab_tiny").eval()},
        **{"images": image, "image": image, "valid": torch.ones(1, 65, 65)},
    }
    exec(compile(block.line, block.page, "exec"), names)


@pytest.mark.parametrize("name", [name for name in TOOLS if name not in ("train", "evaluate")])
def test_help_fits_a_screen_and_its_examples_work(
    name: str,
    runs: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = import_module(f"axialseg.commands.{TOOLS[name].stem}")
    monkeypatch.setattr("sys.argv", [f"axialseg {name}", "--help"])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    examples = lines[lines.index("Examples") + 1 :]
    assert len(examples) == 3
    for example in examples:
        line = re.sub(r"ckpt=(last|best)\.ckpt", f"ckpt={runs('')}/checkpoints/last.ckpt", example)
        try_command(shlex.split(line), monkeypatch)
