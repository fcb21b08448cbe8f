"""Holds a search at a chosen point until the test says go on, so that what the test does in between finds it there.

    holds.hold("builtin-nano/0@2", "builtin-nano/1@2")
    process = searches.start("output", program=PROGRAM, environment=holds.environment)
    holds.wait(process)
    (the test acts)
    holds.release()

"builtin-nano/0@2" is trial 0 of the study between the first optimizer step after its first evaluation and its second
evaluation; PREPARATION is the preparation of the data. A held trial can be interrupted as between any two steps.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests import DEADLINE_S, ROOT
from trainables import parallel
from trainables.preparation.prepare import Prepared, prepare
from trainables.slots.slot import Slot as SearchSlot

# What Python runs in place of `-m search.run`. Ray reads the environment when it is imported.
PROGRAM = (
    "-c",
    "from search.cluster.ray_runtime import set_environment; set_environment(); from tests.holds import run; run()",
)
PREPARATION = "preparation"
_FOLDER = "TEST_HOLDS"


class Holds:
    """Args: folder: a new one, which the search's processes see on all nodes.

    Attributes:
        environment: of a search that is to be held.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._points: tuple[str, ...] = ()
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.environment = {_FOLDER: str(folder), "PYTHONPATH": path.rstrip(os.pathsep)}

    def hold(self, *points: str) -> None:
        """Holds at these points, and no longer at the ones before."""
        for point in points:
            _path(self._folder, point).touch()
        for point in set(self._points) - set(points):
            _path(self._folder, point).unlink()
        self._points = points

    def release(self) -> None:
        self.hold()

    def wait(self, process: subprocess.Popen[str], workers: int = 1) -> None:
        """Waits until the search, or the job that follows it, is held at all points, with so many workers at each."""
        deadline = time.monotonic() + DEADLINE_S
        reached = [Path(f"{_path(self._folder, point)}.{rank}") for point in self._points for rank in range(workers)]
        while missing := [path.name for path in reached if not path.exists()]:
            assert process.poll() is None, f"ended before {missing}: {process.communicate()}"
            assert time.monotonic() < deadline, f"did not come to {missing}"
            time.sleep(0.05)


def _path(folder: Path, point: str) -> Path:
    return folder / point.replace("/", "-")


def _wait(path: Path, stepped: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    # All ranks leave together, as each step is one of all.
    while parallel.sum_over_ranks(torch.tensor(float(path.exists()))):
        Path(f"{path}.{parallel.rank()}").touch()
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody released {path}")
        time.sleep(0.05)
        stepped()


def run() -> None:
    """`python -m search.run`, held."""
    from search.run import main

    preparing = partial(_prepare, Path(os.environ[_FOLDER]))
    with (
        mock.patch("search.scheduling.tune_adapter.Slot", Slot),
        mock.patch("search.scheduling.preparation.prepare", preparing),
    ):
        sys.exit(main())


def _prepare(folder: Path, *arguments: Any) -> Prepared:
    _wait(_path(folder, PREPARATION))
    return prepare(*arguments)


class Slot(SearchSlot):
    """The processes of a search are known by this name."""

    def _fit(self) -> None:
        with mock.patch("trainables.slots.worker_group._serve", partial(_serve, Path(os.environ[_FOLDER]))):
            super()._fit()


def _serve(folder: Path, config: dict[str, Any]) -> None:
    from trainables.slots import worker

    advance = worker._advance

    def held(request: Any, run: Any, stepped: Callable[[], None]) -> Any:
        def step() -> None:
            stepped()
            _wait(_path(folder, f"{request.run.name}@{request.evaluations}"), stepped)

        return advance(request, run, step)

    with mock.patch.object(worker, "_advance", held):
        worker.serve(config)
