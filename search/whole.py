"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    replace_whole(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a scratch file beside `path`, which then takes its place."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
