"""What a search is told of a preparation that failed in another process; without Ray's processes."""

import errno
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from search.scheduling.preparation import DataPreparation
from trainables.errors import DataError


def failed(error: Exception) -> DataPreparation:
    preparing = DataPreparation.__new__(DataPreparation)
    preparing.prepared = {"m": error}
    return preparing


def get(reference: Any) -> None:
    raise reference


@pytest.mark.parametrize("error", [GetTimeoutError("not yet"), RayActorError(error_msg="killed")])
def test_a_process_that_does_not_answer_has_no_news(error: Exception) -> None:
    preparing = failed(error)
    preparing._actor = mock.Mock()
    with mock.patch("ray.get", side_effect=error) as asked:
        assert preparing.news() == ""
    # As long as it imports torch, nobody waits for it: the search may be ending.
    assert asked.call_args.kwargs["timeout"] <= 1.0


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
