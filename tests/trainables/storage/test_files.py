"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from trainables.storage.files import drop_partial_line, replace_atomic


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def write(scratch: Path) -> None:
        scratch.write_text("af")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        replace_atomic(path, write)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"a", b""), (b"a\n" + 9000 * b"b", b"a\n")],
    ids=["empty", "whole", "partial", "only partial", "longer than a block"],
)
def test_a_line_that_was_not_written_to_its_end_is_removed(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "a"
    drop_partial_line(path)
    path.write_bytes(before)
    drop_partial_line(path)
    assert path.read_bytes() == after
