"""Files that are written whole or not at all, and files of lines that are."""

import os
from collections.abc import Callable
from pathlib import Path

_BLOCK = 4096


def write_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    replace_whole(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a scratch file beside `path`, which then takes its place."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(scratch)
        # The name must not be on the disk before the content, should the machine be lost.
        with scratch.open("r+b") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def drop_partial_line(path: Path) -> None:
    """Removes what follows the last line end: the process was killed, or the disk full, within a line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole, start = end, end
        # A line can be longer than one block.
        while start:
            start = max(0, start - _BLOCK)
            file.seek(start)
            newline = file.read(_BLOCK).rfind(b"\n")
            whole = start + newline + 1
            if newline >= 0:
                break
        if whole < end:
            file.truncate(whole)
