"""Files that appear whole or not at all."""

from contextlib import suppress
from pathlib import Path

from axialseg.machine.whole_file import whole_file


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with whole_file(path) as draft:
        draft.write_text("whole")
        assert not path.exists()
        assert draft.suffix == ".csv"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("earlier")
    with suppress(KeyboardInterrupt), whole_file(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), whole_file(tmp_path / "new") as draft:
        draft.mkdir()
        (draft / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    link = tmp_path / "last"
    for target in ("one", "none"):
        with whole_file(link) as draft:
            draft.symlink_to(target)
    assert str(link.readlink()) == "none"
    assert (tmp_path / "one").read_text() == "1"
