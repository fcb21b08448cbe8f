"""What a search is told of a preparation that failed in another process; without Ray's processes."""

import errno
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from search.preparing import Preparing
from trainables.documents import DataError


def failed(error: Exception) -> Preparing:
    preparing = Preparing.__new__(Preparing)
    preparing.prepared = {"m": error}
    return preparing


def get(reference: Any) -> None:
    raise reference


@pytest.mark.parametrize(
    "cause",
    [DataError("data.train", "9", "at most 8"), OSError(errno.ENOSPC, "No space left on device", "/cache")],
)
def test_what_the_preparation_raised_is_raised_as_it_was(cause: Exception) -> None:
    error = RayTaskError("prepare", "a trace of many lines", cause).as_instanceof_cause()
    with mock.patch("ray.get", get), pytest.raises(type(cause)) as caught:
        failed(error).result("m")
    assert caught.value is cause


@pytest.mark.parametrize(
    "error", [RayActorError(error_msg="killed\nby the system"), OutOfMemoryError("low on memory: 9 / 10 GB\nmore")]
)
def test_a_process_that_died_is_told_in_a_line(error: Exception) -> None:
    with mock.patch("ray.get", get), pytest.raises(OSError, match="prepares the data of m died: ") as caught:
        failed(error).result("m")
    assert "\n" not in str(caught.value)
