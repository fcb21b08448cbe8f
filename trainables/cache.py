"""Folders cached by content hash: made once, written whole or not at all, checked each time they are opened."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.documents import DataError

_MANIFEST = "manifest.json"


def default_root() -> Path:
    """$ENTRODROP_CACHE, or entrodrop-search in the user's cache folder."""
    if chosen := os.environ.get("ENTRODROP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "entrodrop-search"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def cached(root: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills for `key`; built again if it is missing, cut short or damaged.

    Args:
        key: everything that the content depends on, as JSON.
        build: writes its files into the folder that it is given.

    Raises:
        DataError: `root` cannot be written.
    """
    folder = root / kind / digest(key)[:32]
    if _intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("ENTRODROP_CACHE", str(root), f"a folder that can be written ({error.strerror})") from None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        made = Path(scratch) / "entry"
        made.mkdir()
        build(made)
        hashes = {path.name: file_hash(path) for path in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps({"key": dict(key), "files": hashes}, indent=1))
        # Another process may have built the same entry meanwhile: then its copy serves as well.
        if folder.exists() and not _intact(folder):
            shutil.rmtree(folder)
        if not folder.exists():
            made.rename(folder)
    return folder


def content_digest(folder: Path) -> str:
    """SHA-256 over the hashes of an entry's files."""
    return digest(json.loads((folder / _MANIFEST).read_text())["files"])


def _intact(folder: Path) -> bool:
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        return all(file_hash(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
