"""The exact state of a run on disk: written by all ranks, read by any number of them, whole or not at all.

A checkpoint is a folder, or a URL of an object store: `manifest.json` (what was saved, and the hashes of all files and
of itself) and a folder of torch.distributed.checkpoint, which the manifest names. The manifest is replaced last. Small
tensors lie in the folder as one for each type of number.
"""

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from trainables import parallel
from trainables.errors import mask_secrets, one_line
from trainables.storage.files import Place, StorageError, remove, replace_file, store_errors
from trainables.storage.manifest import MANIFEST, DamagedError, check_files, hashes_of, manifest_of, read_manifest

# What the metadata of a checkpoint of tensors is made of, beside the types of numbers.
_METADATA = {
    ("pathlib", "PosixPath"),
    # ... in Python 3.13.
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
}
# Bytes of a tensor that is written together with others.
_SMALL = 2**20


class CheckpointError(ValueError):
    """A checkpoint that is cut short, or that belongs to another run."""


def save(folder: Place, tensors: dict[str, Tensor], identity: str, number: int, about: dict[str, Any]) -> None:
    """Writes a checkpoint and removes the one before; every rank calls this.

    Args:
        identity: of the run; `load` compares it.
        number: of the checkpoint, different from the one before it.
        about: what else belongs to the state, as JSON.

    Raises:
        OSError: what the file system said; a StorageError for a URL.
    """
    part = folder / f"state-{number}"
    # Of a rank that died torch raises RuntimeError, and of memory.
    with store_errors(folder, RuntimeError, MemoryError):
        written = _pack(tensors)
        if parallel.rank() == 0:
            remove(part)
            part.mkdir(parents=True, exist_ok=True)
        parallel.barrier()
        try:
            with _silence_alone():
                save_distributed(written, storage_writer=_writer(part), no_dist=not dist.is_initialized())
        except CheckpointException as error:
            raise _cause(error, part, sum(tensor.nbytes for tensor in tensors.values())) from error
        files = parallel.gather(hashes_of(part, _is_own))
        if parallel.rank() == 0:
            together = {name: found for own in files for name, found in own.items()}
            manifest = manifest_of(together, {"identity": identity, "state": part.name, "about": about})
            replace_file(folder / MANIFEST, manifest.encode())
            for other in folder.glob("state-*"):
                if other.name != part.name:
                    remove(other)
        parallel.barrier()


def load(folder: Place, tensors: dict[str, Tensor], identity: str) -> dict[str, Any]:
    """Reads a checkpoint into `tensors`, in place, and returns `about`. Nothing is read that differs from its hash.

    Raises:
        CheckpointError: cut short, damaged, or of another run.
        StorageError: the store of a URL does not answer.
    """
    with store_errors(folder, CheckpointError):
        manifest, refusal = {}, None
        try:
            manifest = _manifest(folder)
        except CheckpointError as error:
            refusal = error
        # Of what one rank found damaged none reads anything.
        for found in parallel.gather(refusal):
            if found is not None:
                raise found
        with _readable(folder):
            about: dict[str, Any] = manifest["about"]
            if manifest["identity"] != identity:
                raise CheckpointError(f"{mask_secrets(str(folder))} belongs to another run")
            reader = _reader(_state(folder, manifest))
        with _silence_alone():
            # Those that a checkpoint does not have by their own names are packed in it.
            there = reader.metadata.state_dict_metadata
            apart = {name: tensor for name, tensor in tensors.items() if name in there}
            packed = _groups({name: tensor for name, tensor in tensors.items() if name not in there})
            whole = {key: _empty(parts) for key, parts in packed.items()}
            load_distributed(apart | whole, storage_reader=reader, no_dist=not dist.is_initialized())
            for key, parts in packed.items():
                _unpack(whole[key], parts)
    return about


def _is_own(name: str) -> bool:
    """Whether this rank has written the file of this name; rank 0 has written what is no rank's."""
    return name.startswith(f"__{parallel.rank()}_") or (parallel.rank() == 0 and not name.startswith("__"))


def _manifest(folder: Place) -> dict[str, Any]:
    """The manifest of a checkpoint, a share of whose files this rank has found whole.

    Raises:
        CheckpointError: cut short or damaged.
        OSError: the store of a URL does not answer.
    """
    with _readable(folder):
        manifest = read_manifest(folder / MANIFEST)
        check_files(_state(folder, manifest), manifest["files"], slice(parallel.rank(), None, parallel.size()))
        return manifest


def _state(folder: Place, manifest: Mapping[str, Any]) -> Place:
    return folder / Path(manifest["state"]).name


@contextmanager
def _readable(folder: Place) -> Iterator[None]:
    """Raises CheckpointError if a checkpoint is not what was written."""
    try:
        yield
    except (DamagedError, KeyError, TypeError, pickle.UnpicklingError) as error:
        cause = error.__cause__
        if not isinstance(folder, Path) and isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            # Another rank may have had an answer: they must not go separate ways.
            raise cause from None
        raise CheckpointError(f"{mask_secrets(str(folder))} cannot be read: {error}") from error


def _pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with the small ones as one on the CPU for each type of number.

    torch's writer pickles each tensor apart, which takes longer than to write a small one. Of a tensor that is shared
    out, as FSDP does, no rank has the whole.
    """
    small = {n: tensor for n, tensor in tensors.items() if tensor.nbytes <= _SMALL and not isinstance(tensor, DTensor)}
    apart = {name: tensor for name, tensor in tensors.items() if name not in small}
    packed = _groups(small)
    return apart | {key: torch.cat([part.flatten().cpu() for part in parts]) for key, parts in packed.items()}


def _groups(small: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors that are packed as one, in their order in it."""
    groups: dict[str, list[Tensor]] = {}
    for name in sorted(small):
        groups.setdefault(f"packed.{small[name].dtype}", []).append(small[name])
    return groups


def _empty(parts: Sequence[Tensor]) -> Tensor:
    """What the parts are read into as one."""
    return torch.empty(sum(part.numel() for part in parts), dtype=parts[0].dtype)


def _unpack(whole: Tensor, parts: Sequence[Tensor]) -> None:
    for part, value in zip(parts, whole.split([part.numel() for part in parts]), strict=True):
        value = value.view(part.shape).to(part.device)
        if isinstance(part, DTensor):
            # Every rank has read all of it, and takes its share.
            value = distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)
        part.copy_(value)


def _cause(error: CheckpointException, part: Place, size: int) -> Exception:
    """What went wrong, which torch hides in an exception that is not an `Exception`.

    Args:
        size: bytes that were to be written here.
    """
    causes: list[BaseException] = []
    for failure, _ in error.failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, OSError):
                return cause
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
    if not isinstance(part, Path):
        return StorageError(errno.EIO, one_line(str(causes[0])), mask_secrets(str(part)))
    # From other processes comes only the last link of the chain, in which torch's writer has lost count.
    if shutil.disk_usage(part).free < size:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))
    return RuntimeError(str(error))


class _UrlWriter(FsspecWriter):
    @property
    def checkpoint_id(self) -> str:
        """What the checkpoint's metadata keeps of the URL."""
        return mask_secrets(str(self.path))


def _writer(part: Place) -> FileSystemWriter:
    if isinstance(part, Path):
        return FileSystemWriter(part)
    # A file that cannot be synchronised, as an object cannot, makes torch synchronise all disks of the machine.
    return _UrlWriter(str(part), sync_files=False, **part.storage_options)


class _Reader(FileSystemReader):
    """Reads the metadata of a checkpoint, which is a pickle, without running any code that it may name."""

    metadata: Metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self.metadata


class _UrlReader(_Reader, FsspecReader):
    """The same, from a URL."""


def _reader(part: Place) -> _Reader:
    reader = _Reader(part) if isinstance(part, Path) else _UrlReader(str(part), **part.storage_options)
    with (part / ".metadata").open("rb") as file:
        reader.metadata = _MetadataUnpickler(file).load()
    return reader


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _METADATA or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's metadata")


@contextmanager
def _silence_alone() -> Iterator[None]:
    """Silences the warning that a process without others works alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
