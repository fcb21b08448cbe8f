"""What a search is told of a preparation that failed in another process, and that it starts again."""

import errno
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from search.scheduling.preparation import DataPreparation
from search.space import load
from tests import DEADLINE_S, tiny
from tests.clusters import ray_of_a_search
from trainables.config.to_settings import splits_of
from trainables.config.yaml_values import to_yaml
from trainables.errors import DataError
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Prepared


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


def killed_once(mark: Path, *arguments: Any) -> Prepared:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare(*arguments)


@pytest.mark.faults
def test_a_process_that_was_killed_starts_again(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    space = load(write(to_yaml(tiny.space(tmp_path)))).config
    (model,), mark = space.models, tmp_path / "killed"
    killing = mock.patch("search.scheduling.preparation._prepare", partial(killed_once, mark))
    with ray_of_a_search(tmp_path / "output", cpus=1), killing:
        preparing = DataPreparation(space, splits_of(space), [model])
        assert preparing.result(model).train_tokens > 0
        assert mark.exists()
        assert preparing.show(model, None)["tokens"]


def held(release: Path, model: str, models: Any, what: Any, tell: Any, scorer: Any) -> Prepared:
    tell("half of it is done")
    while not release.exists():
        time.sleep(0.05)
    return prepare(model, models, what, tell, scorer)


@pytest.mark.faults
def test_news_is_told_while_the_data_is_prepared(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    space = load(write(to_yaml(tiny.space(tmp_path)))).config
    (model,), release = space.models, tmp_path / "release"
    holding = mock.patch("search.scheduling.preparation._prepare", partial(held, release))
    with ray_of_a_search(tmp_path / "output", cpus=1), holding:
        preparing = DataPreparation(space, splits_of(space), [model])
        deadline = time.monotonic() + DEADLINE_S
        while preparing.news() != "half of it is done":
            assert time.monotonic() < deadline
        assert not preparing.ready(timeout=0)
        release.touch()
        assert preparing.result(model).train_tokens > 0
