"""Text for terminals and log files: nothing is wider than 100 columns, unless one word is."""

import textwrap
from collections.abc import Sequence

WIDTH = 100


def wrapped(text: str, indent: str = "  ") -> str:
    """Each line of a text in lines of 100 columns; words, paths and keys stay whole.

    Args:
        text: one sentence or more.
        indent: of the lines after the first one.
    """
    wrapper = textwrap.TextWrapper(
        WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def help_text(summary: str, usage: str, examples: Sequence[str]) -> str:
    """What a command answers to ``--help``.

    Args:
        summary: what it does, one sentence.
        usage: the command line with all that it takes.
        examples: command lines, as they are typed.
    """
    lines = [wrapped(summary), "", wrapped(f"usage: {usage}", indent=" " * 7), "", "Examples"]
    return "\n".join([*lines, *(f"  {example}" for example in examples)])
