"""Where files are kept: a folder, or a URL of an object store that fsspec knows, such as s3://bucket/runs/math.

Files are written whole or not at all."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safetensors import SafetensorError

from trainables.errors import mask_secrets, one_line

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"
# How Rust's library, and so safetensors, ends what the system told it.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# Bytes that are read at a time in search of the last line end.
_BLOCK = 4096


class StorageError(OSError):
    """Files cannot be written to a place, or read from it, whichever they are."""


def is_url(text: str) -> bool:
    return "://" in text


def place(text: str) -> Place:
    """The folder or the URL `text`; nothing is asked of a store yet.

    Raises:
        StorageError: no installed package knows stores of this kind.
    """
    if not is_url(text):
        return Path(text)
    from upath import UPath

    with store_errors(text):
        # Without listings that are kept: another process may have written since.
        url = UPath(text, use_listings_cache=False)
        # Imports the package for its scheme.
        _ = url.fs
        return url


@contextmanager
def store_errors(where: "Place | str", *others: type[Exception]) -> Iterator[None]:
    """Tells what a store refuses as a StorageError that names its URL; errors of a folder stay what they are.

    What is raised differs from store to store, and much of it is no OSError.

    Args:
        others: what is raised for another reason, and stays what it is.
    """
    as_they_are: tuple[type[Exception], ...] = (StorageError, *others)
    try:
        yield
    except as_they_are:
        raise
    except Exception as error:
        if isinstance(where, Path):
            raise
        number = error.errno if isinstance(error, OSError) and error.errno is not None else errno.EIO
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(number, one_line(text or type(error).__name__, 300), mask_secrets(str(where))) from error


@contextmanager
def safetensors_errors(folder: Place) -> Iterator[None]:
    """Raises what safetensors tells of the file system, such as that it is full, as the OSError that it is."""
    try:
        yield
    except SafetensorError as error:
        if (told := _OS_ERROR.search(str(error))) is None:
            raise
        number = int(told[1])
        raise OSError(number, os.strerror(number), str(folder)) from error


def remove(folder: Place) -> None:
    """Removes a folder and what is in it, as far as that can be done."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def replace_file(path: Place, content: bytes) -> None:
    """Writes a file whole or not at all; a store keeps an object only once all of it has come."""
    if isinstance(path, Path):
        replace_atomic(path, lambda scratch: scratch.write_bytes(content))
    else:
        url = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        url.write_bytes(content)
        url.fs.mv(url.path, path.path)


def replace_folder(folder: Place, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a new folder, which then takes the place of `folder`; a store gets its files one by one."""
    if isinstance(folder, Path):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        write(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
        return
    with tempfile.TemporaryDirectory(prefix="entrodrop-") as own:
        write(Path(own))
        with store_errors(folder):
            remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(path for path in Path(own).rglob("*") if path.is_file()):
                target = folder / path.relative_to(own).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.fs.put_file(str(path), target.path)


def fetch_folder(url: "UPath", folder: Path) -> None:
    """Copies the files under `url` into `folder`.

    Raises:
        StorageError: the store does not answer.
    """
    with store_errors(url):
        folder.mkdir(parents=True, exist_ok=True)
        for path in url.iterdir():
            if path.is_dir():
                fetch_folder(path, folder / path.name)
            else:
                path.fs.get_file(path.path, str(folder / path.name))


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    replace_atomic(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def replace_atomic(path: Path, write: Callable[[Path], object]) -> None:
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


def append_lines(path: Path, lines: str) -> None:
    """Adds whole lines to a file, all or none, so that they outlive a power failure."""
    content = lines.encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            # What cannot be cut off now is at the next start, by `drop_partial_line`.
            with suppress(OSError):
                file.truncate(end)
            raise OSError(error.errno, error.strerror, str(path)) from None


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
