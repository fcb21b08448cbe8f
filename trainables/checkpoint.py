"""The exact state of a run on disk: written by all ranks, read by any number of them, whole or not at all.

A checkpoint is a folder: `manifest.json` (what was saved, and the hashes of all files and of itself) and a folder of
torch.distributed.checkpoint, which the manifest names. The manifest is replaced last.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from trainables import parallel
from trainables.cache import digest, file_hash

_MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is cut short, or that belongs to another run."""


def save(folder: Path, tensors: dict[str, Tensor], identity: str, number: int, about: dict[str, Any]) -> None:
    """Writes a checkpoint and removes the one before; every rank calls this.

    Args:
        identity: of the run; `load` compares it.
        number: of the checkpoint, different from the one before it.
        about: what else belongs to the state, as JSON.
    """
    part = folder / f"state-{number}"
    if parallel.rank() == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    parallel.barrier()
    with _alone():
        save_distributed(tensors, checkpoint_id=part, no_dist=not dist.is_initialized())
    parallel.barrier()
    if parallel.rank() == 0:
        files = {path.name: file_hash(path) for path in sorted(part.iterdir())}
        content = {"identity": identity, "state": part.name, "files": files, "about": about}
        manifest = {**content, "hash": digest(content)}
        scratch = folder / f".{_MANIFEST}.{os.getpid()}.tmp"
        scratch.write_text(json.dumps(manifest), encoding="utf-8")
        scratch.replace(folder / _MANIFEST)
        for other in folder.glob("state-*"):
            if other != part:
                shutil.rmtree(other, ignore_errors=True)
    parallel.barrier()


def load(folder: Path, tensors: dict[str, Tensor], identity: str) -> dict[str, Any]:
    """Reads a checkpoint into `tensors`, in place, and returns `about`. Nothing is read that differs from its hash.

    Raises:
        CheckpointError: cut short, damaged, or of another run.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        part = folder / manifest["state"]
        if manifest.pop("hash") != digest(manifest):
            raise ValueError(f"{_MANIFEST} is damaged")
        for name, expected in manifest["files"].items():
            if file_hash(part / name) != expected:
                raise ValueError(f"{name} is damaged")
        about: dict[str, Any] = manifest["about"]
        other = manifest["identity"] != identity
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    if other:
        raise CheckpointError(f"{folder} belongs to another run")
    with _alone():
        load_distributed(tensors, checkpoint_id=part, no_dist=not dist.is_initialized())
    return about


@contextmanager
def _alone() -> Iterator[None]:
    """Silences the warning that a process without others works alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
