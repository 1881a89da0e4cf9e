"""Finds the commands in the pages of the project."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *(f"{folder}/README.md" for folder in ("conf", "data", "experiments", "benchmarks")),
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SHELL = ("bash", "sh")
STARTS = (
    *("python", "python3", "make", "axialseg", "axialseg-train", "axialseg-evaluate", "torchrun"),
    *("srun", "pip", "pytest", "wandb", "tensorboard", "git", "bash", "sky", "hf", "eval"),
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:{'|'.join(STARTS)})(?: .*)?$")


class Documented(NamedTuple):
    """One command: the page that has it, and the line as a user would type it."""

    page: str
    line: str


def commands() -> list[Documented]:
    """Every command once, with the first page that has it."""
    found: dict[str, str] = {}
    for page in PAGES:
        for line in _lines((ROOT / page).read_text(encoding="utf-8")):
            if COMMAND.match(line):
                found.setdefault(line, page)
    return [Documented(page, line) for line, page in found.items()]


def python_blocks() -> list[Documented]:
    """The fenced blocks of Python."""
    return [
        Documented(page, block)
        for page in PAGES
        for _, language, block in FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
        if language == "python"
    ]


def code_spans() -> list[Documented]:
    """What stands between single backticks."""
    return [
        Documented(page, span)
        for page in PAGES
        for span in _spans(FENCE.sub("", (ROOT / page).read_text(encoding="utf-8")))
    ]


def _lines(text: str) -> list[str]:
    """Lines of indented and of shell blocks, and code spans of several words, without comments."""
    text = re.sub(r" *\\\n\s*", " ", text)
    lines = [line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]
    for _, language, block in FENCE.findall(text):
        lines += block.splitlines() if language in SHELL else []
    lines += [span for span in _spans(FENCE.sub("", text)) if " " in span]
    return [re.sub(r"\s{2,}#.*", "", line).strip() for line in lines]


def _spans(text: str) -> list[str]:
    prose = "\n".join("" if line.startswith("    ") else line for line in text.splitlines())
    # Doubled backticks first: they may hold single ones.
    prose = re.sub(r"``.*?``", "", prose)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
