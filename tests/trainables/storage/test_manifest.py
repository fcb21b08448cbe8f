"""Hashes of files: each read once by a process, until somebody writes to it."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from trainables.storage import manifest
from trainables.storage.manifest import file_hash


def write_with_the_same_times(path: Path) -> None:
    state = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def put_another_in_its_place(path: Path) -> None:
    path.with_name("other").write_bytes(b"two")
    path.with_name("other").rename(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_bytes(b"two"), write_with_the_same_times, put_another_in_its_place],
    ids=["written", "same size and times", "another file"],
)
def test_a_file_is_read_again_once_somebody_has_changed_it(
    tmp_path: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_TICK_S", -1.0)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    with mock.patch.object(hashlib, "file_digest", wraps=hashlib.file_digest) as read:
        assert file_hash(path) == file_hash(path) == hashlib.sha256(b"one").hexdigest()
        assert read.call_count == 1
        time.sleep(0.05)
        change(path)
        assert file_hash(path) == file_hash(path) == hashlib.sha256(b"two").hexdigest()
        assert read.call_count == 2


def test_a_file_that_has_just_been_written_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    # A second write within a tick cannot be told from the first.
    with mock.patch.object(Path, "stat", return_value=path.stat()):
        assert file_hash(path) == hashlib.sha256(b"one").hexdigest()
        path.write_bytes(b"two")
        assert file_hash(path) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_TICK_S", -1.0)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    file_hash(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file_hash(path)
