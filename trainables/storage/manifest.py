"""Files sealed by a manifest: their hashes, what they belong to, and its own hash. What differs is not read."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from trainables.storage.files import Place

MANIFEST = "manifest.json"
# A file system's clock ticks: what changed twice within a tick looks as if it had changed once.
_TICK_S = 2.0


class DamagedError(ValueError):
    """Files that differ from their manifest, or a manifest that differs from itself."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_hash(path: Place) -> str:
    """SHA-256 of a file's content. A process reads a file of a folder once, as long as nobody writes to it."""
    if isinstance(path, Path):
        state = path.stat()
        if time.time() - max(state.st_mtime, state.st_ctime) > _TICK_S:
            # Nobody can set back the time of a file's last change (ctime).
            return _unchanged_hash(
                path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
            )
    return _read_hash(path)


def _read_hash(path: Place) -> str:
    with path.open("rb") as file:
        # What fsspec opens has `readinto` as well.
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


@lru_cache(maxsize=1024)
def _unchanged_hash(path: Path, *_state: int) -> str:
    return _read_hash(path)


def hashes_of(part: Place, those: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """The hashes of the files in the folder `part`, by name.

    Args:
        those: whether the file of this name is meant.
    """
    return {path.name: file_hash(path) for path in part.iterdir() if those(path.name)}


def manifest_of(files: Mapping[str, str], about: Mapping[str, Any]) -> str:
    """The text of the manifest of files.

    Args:
        files: their hashes by name.
        about: what else is sealed, as JSON.
    """
    return _text({**about, "files": dict(sorted(files.items()))})


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "hash": digest(content)}, indent=1)


def read_manifest(path: Place) -> dict[str, Any]:
    """The content of a manifest: what it was made with, and "files".

    Raises:
        DamagedError: it is missing, or not to the last byte as it was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        content.pop("hash")
        intact = text == _text(content)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path.name}: {type(error).__name__}: {error}") from error
    if not intact:
        raise DamagedError(f"{path.name} is damaged")
    return content


def check_files(part: Place, files: Mapping[str, str], share: slice = slice(None), others: bool = False) -> None:
    """Compares the files in the folder `part` with a manifest's "files"; the manifest may lie among them.

    Args:
        share: of the files, in their order, which are read; the others must be there.
        others: whether there may be files that are not in the manifest.

    Raises:
        DamagedError: one is missing, differs, or is not in the manifest.
    """
    try:
        there = {path.name for path in part.iterdir()} - {MANIFEST}
        # No name leads out of the folder: each is that of a file that lies in it.
        if wrong := sorted(files.keys() - there if others else there.symmetric_difference(files)):
            raise DamagedError(f"{wrong[0]} is {'not in the manifest' if wrong[0] in there else 'missing'}")
        for name, expected in list(files.items())[share]:
            path = part / name
            if not path.is_file() or file_hash(path) != expected:
                raise DamagedError(f"{name} is damaged")
    except (OSError, TypeError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
