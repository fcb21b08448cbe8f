"""Tensors on disk and back, and what a file system that does not take them is told as."""

import errno
import json
import os
import resource
import shutil
import signal
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.checkpoint.api import CheckpointException

from tests.trainables.damage import flip_a_byte
from trainables.parallel import leave_group
from trainables.storage import manifest
from trainables.training import checkpoint


@contextmanager
def small_files() -> Iterator[None]:
    """The system takes no file above 64 kB, not even pytest's own output, if that goes to one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def state(fill: float) -> dict[str, torch.Tensor]:
    return {
        "scalar": torch.tensor(fill),
        "transposed": torch.full((3, 2), fill).T,
        "large": torch.full((2**19,), fill),
        "long": torch.full((2, 2), fill, dtype=torch.int64),
        "bf16": torch.full((0, 4), fill, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("small", [-1, checkpoint._SMALL, 2**30])
def test_tensors_of_every_size_and_type_come_back(tmp_path: Path, small: int) -> None:
    # With -1 as before small tensors were packed; a search of then can be resumed.
    with mock.patch.object(checkpoint, "_SMALL", small):
        checkpoint.save(tmp_path / "state", state(3.0), "run", 1, {"steps": 1})
    # In another order, as a state that is made anew may have it.
    read = dict(reversed(state(0.0).items()))
    assert checkpoint.load(tmp_path / "state", read, "run") == {"steps": 1}
    for name, expected in state(3.0).items():
        torch.testing.assert_close(read[name], expected, rtol=0, atol=0)


def test_what_the_file_system_refuses_is_an_os_error(tmp_path: Path) -> None:
    with small_files(), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        checkpoint.save(tmp_path / "state", {"large": torch.ones(100_000)}, "run", 1, {})
    assert not (tmp_path / "state" / "manifest.json").exists()


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    checkpoint.save(folder, {"small": torch.ones(3)}, "run", 1, {"steps": 1})
    with small_files(), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        checkpoint.save(folder, {"small": torch.zeros(100_000)}, "run", 2, {"steps": 2})
    read = {"small": torch.zeros(3)}
    assert checkpoint.load(folder, read, "run") == {"steps": 1}
    assert read["small"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("free", "expected"), [(100, OSError), (10**9, RuntimeError)])
def test_the_cause_in_another_process_is_looked_for_on_the_disk(
    tmp_path: Path, free: int, expected: type[Exception]
) -> None:
    # torch's writer says no more once the exception has come from another rank.
    failure = CheckpointException("write", {1: (RuntimeError("unexpected pos 704 vs 598"), [])})
    usage = namedtuple("usage", "free")(free)
    with (
        mock.patch.object(checkpoint, "save_distributed", side_effect=failure),
        mock.patch.object(shutil, "disk_usage", return_value=usage),
        pytest.raises(expected),
    ):
        checkpoint.save(tmp_path / "state", {"t": torch.ones(100)}, "run", 1, {})


def _two_ranks(rank: int, folder: Path) -> None:
    """Saves, loads, damages and refuses; writes which files this rank has read, and what it was told."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    told: dict[str, Any] = {}
    # Two of these, so that each rank has one to write.
    tensors = {"one": torch.ones(2**19), "two": torch.ones(2**19)}
    for what in ("save", "load", "damaged"):
        with mock.patch.object(manifest, "file_hash", wraps=manifest.file_hash) as read:
            try:
                if what == "save":
                    checkpoint.save(folder / "run", tensors, "run", 1, {})
                else:
                    checkpoint.load(folder / "run", tensors, "run")
            except checkpoint.CheckpointError as error:
                told["refused"] = str(error)
        told[what] = sorted(call.args[0].name for call in read.call_args_list)
        dist.barrier()
        if what == "load" and rank == 0:
            flip_a_byte(folder / "run" / "state-1" / "__1_0.distcp")
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(told))
    leave_group()


@pytest.mark.cluster
def test_each_rank_reads_its_share_of_the_files_and_all_refuse_together(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_two_ranks, (tmp_path,), nprocs=2)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # What it has written itself.
    assert (one["save"], two["save"]) == ([".metadata", "__0_0.distcp"], ["__1_0.distcp"])
    assert sorted(one["load"] + two["load"]) == sorted(one["save"] + two["save"])
    assert one["load"]
    assert two["load"]
    assert one["refused"] == two["refused"]
    assert "__1_0.distcp is damaged" in one["refused"]
