"""Folders cached by content hash: made once, written whole or not at all, checked each time they are opened."""

import ast
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import ConfigError, DataError
from trainables.storage.files import safetensors_errors
from trainables.storage.manifest import (
    MANIFEST,
    DamagedError,
    check_files,
    digest,
    hashes_of,
    manifest_of,
    read_manifest,
)

_BUILDING = ".building-"
_AT_WORK = ".lock"
# Nothing takes longer to build, on a folder that knows no locks.
_LONGEST_BUILD_S = 24 * 3600.0
# The folder of this package.
_SOURCES = Path(__file__).parents[2]


def default_root() -> Path:
    """$ENTRODROP_CACHE, or entrodrop-search in the user's cache folder; absolute, as other processes are elsewhere.

    Raises:
        ConfigError: the user has no home folder.
    """
    if chosen := os.environ.get("ENTRODROP_CACHE"):
        return Path(chosen).absolute()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen).absolute() / "entrodrop-search"
    try:
        return Path.home().absolute() / ".cache" / "entrodrop-search"
    except RuntimeError:
        raise ConfigError("ENTRODROP_CACHE: there is no home folder to keep prepared data in; name a folder") from None


def cached(root: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills for `key`; built again if it is missing, cut short or damaged.

    Args:
        key: everything that the content depends on, as JSON.
        build: writes its files into the folder that it is given.

    Raises:
        DataError: `root` cannot be written.
        OSError: an entry cannot, as when the disk is full.
    """
    folder = root / kind / digest(key)[:32]
    if _intact(folder, key):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        building = tempfile.TemporaryDirectory(dir=folder.parent, prefix=_BUILDING)
    except OSError as error:
        raise DataError("ENTRODROP_CACHE", str(root), f"a folder that can be written ({error.strerror})") from None
    with building as scratch, FileLock(Path(scratch) / _AT_WORK):
        made = Path(scratch) / "entry"
        made.mkdir()
        with safetensors_errors(root):
            build(made)
        (made / MANIFEST).write_text(manifest_of(hashes_of(made), {"key": dict(key)}), encoding="utf-8")
        # Another process may have built the same entry meanwhile: then its copy serves as well.
        if not _intact(folder, key):
            _remove(folder)
            made.rename(folder)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed have left half built; never what one is at, however the clock jumps."""
    for scratch in folder.glob(f"{_BUILDING}*"):
        # Another process may have removed it, or put its entry in place.
        with suppress(FileNotFoundError, Timeout):
            if time.time() - scratch.stat().st_mtime > _LONGEST_BUILD_S:
                with FileLock(scratch / _AT_WORK, timeout=0):
                    shutil.rmtree(scratch, ignore_errors=True)
                # On NFS the lock's own file stays until it is closed.
                shutil.rmtree(scratch, ignore_errors=True)


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of an entry's files, by name."""
    files: dict[str, str] = read_manifest(folder / MANIFEST)["files"]
    return files


def content_digest(folder: Path) -> str:
    """SHA-256 over the hashes of an entry's files."""
    return digest(contents(folder))


@cache
def code_digest(module: str, sources: Path = _SOURCES) -> str:
    """SHA-256 of the code of a module and of all modules of its package that it imports, directly or not: for the key
    of an entry that they compute. Comments and layout do not count.

    Args:
        module: its full name.
        sources: the folder of the package.
    """
    package, _, _ = module.partition(".")
    code: dict[str, str] = {}
    names = [module]
    while names:
        name = names.pop()
        path = sources / (name.replace(".", "/") + ".py")
        if name in code or not name.startswith(f"{package}.") or not path.is_file():
            continue
        tree = ast.parse(path.read_bytes())
        code[name] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                # What is imported may be a module itself.
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return digest(code)


def _intact(folder: Path, key: Mapping[str, Any]) -> bool:
    try:
        manifest = read_manifest(folder / MANIFEST)
        check_files(folder, manifest["files"])
    except (DamagedError, KeyError):
        return False
    # An entry that was put in the place of another is whole, but not what was asked for.
    return digest(manifest.get("key")) == digest(key)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
