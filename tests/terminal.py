"""What commands print, as one sentence again."""


def unwrapped(text: str) -> str:
    """Undoes the line breaks of `wrapped`; checks that it has made what it promises."""
    for line in text.splitlines():
        assert len(line) <= 100 or " " not in line.strip(), line
    return text.replace("\n  ", " ")
