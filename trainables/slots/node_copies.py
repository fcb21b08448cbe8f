"""Prepared data and base weights on nodes that do not see the folder they were made in: each node copies them once."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from ray.exceptions import RayTaskError

from trainables.errors import DataError
from trainables.preparation.prepared import Prepared
from trainables.slots.mailbox import Reference
from trainables.storage.cache import cached
from trainables.storage.manifest import DamagedError, check_files, digest

# Bytes that are sent at a time: a piece lies in the object store of both nodes.
_PIECE = 32 * 2**20


# All nodes ask it. If its process is lost, Ray starts it again.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=4)
class FileServer:
    """On the node that prepared the data: gives its files to other nodes."""

    def read(self, path: str, start: int) -> bytes:
        """A piece of a file, from the byte `start`; shorter than the others if it is the last."""
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(_PIECE)


def local_copy(
    prepared: Prepared, source: Reference | None, cache: Path, node: int = 0, looks: bool = True
) -> Prepared:
    """`prepared` with folders that this node has, to the last byte: a slot may start days after it was prepared.

    Every rank calls this; one of each node looks, and none goes on before all have.

    Args:
        source: handle of the `FileServer`; None: all is on this node.
        cache: folder for copies, of this node alone or not.
        node: of this rank, as the ranks count their nodes.
        looks: whether this rank looks for its node.

    Raises:
        DataError: it is no longer what was prepared, on whichever node.
        OSError: there is no room for a copy.
    """
    folders: dict[str, Any] | Exception | None = None
    if looks:
        try:
            folders = {
                name: local_folder(getattr(prepared, name), files, source, cache)
                for name, files in prepared.files.items()
            }
        except (DataError, OSError) as error:
            folders = error
    on_nodes = {}
    from trainables import parallel

    for other, found in parallel.gather((node, folders)):
        if isinstance(found, Exception):
            raise found
        if found is not None:
            on_nodes[other] = found
    return replace(prepared, **on_nodes[node])


def local_folder(folder: Path, files: Mapping[str, str], source: Reference | None, cache: Path) -> Path:
    """The folder, if this node has it with these files, or a copy of it; see `local_copy`.

    Args:
        files: their SHA-256 by name; what else lies there is not looked at.
    """
    try:
        check_files(folder, files, others=True)
    except DamagedError as error:
        if source is None:
            raise _describe_change(folder, cache, error) from None
    else:
        return folder

    def build(entry: Path) -> None:
        for name in files:
            with (entry / name).open("wb") as file:
                try:
                    file.writelines(_pieces(folder / name, source))
                except RayTaskError as error:
                    raise _describe_change(folder, cache, error.cause) from None
        try:
            check_files(entry, files)
        except DamagedError as error:
            raise _describe_change(folder, cache, error) from None

    # By their content: another search may have made others in a folder of the same name.
    key = {"files": dict(files)}
    copies = cache / "copies"
    copies.mkdir(parents=True, exist_ok=True)
    # One process of a node copies for all.
    with FileLock(copies / f"{digest(key)[:32]}.lock"):
        return cached(cache, copies.name, key, build)


def _pieces(path: Path, source: Reference) -> Iterator[bytes]:
    start, ahead = 0, source.read.remote(str(path), 0)
    while True:
        piece: bytes = ray.get(ahead)
        start += len(piece)
        last = len(piece) < _PIECE
        if not last:
            ahead = source.read.remote(str(path), start)
        yield piece
        if last:
            return


def _describe_change(folder: Path, cache: Path, error: Exception) -> DataError:
    damaged = f"{folder} has changed since the search began ({error})"
    if folder.is_relative_to(cache):
        return DataError("ENTRODROP_CACHE", f"{damaged}; start again, which prepares it anew")
    return DataError("models", f"{damaged}; put it back as it was")
