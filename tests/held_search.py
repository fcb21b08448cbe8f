"""`python -m search.run`, held where tests/holds.py says."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests import DEADLINE_S
from tests.holds import FOLDER, PREPARATION, file_of
from trainables import parallel
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Prepared
from trainables.slots.slot import Slot as SearchSlot


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
    from search.run import main

    preparing = partial(_prepare, Path(os.environ[FOLDER]))
    with (
        mock.patch("search.scheduling.tune_adapter.Slot", Slot),
        mock.patch("search.scheduling.preparation._prepare", preparing),
    ):
        sys.exit(main())


def _prepare(folder: Path, *arguments: Any) -> Prepared:
    _wait(file_of(folder, PREPARATION))
    return prepare(*arguments)


class Slot(SearchSlot):
    """The processes of a search are known by this name."""

    def _fit(self) -> None:
        with mock.patch("trainables.slots.worker_group._serve", partial(_serve, Path(os.environ[FOLDER]))):
            super()._fit()


def _serve(folder: Path, config: dict[str, Any]) -> None:
    from trainables.slots import worker

    advance = worker._advance

    def held(request: Any, run: Any, stepped: Callable[[], None]) -> Any:
        def step() -> None:
            stepped()
            _wait(file_of(folder, f"{request.run.name}@{request.evaluations}"), stepped)

        return advance(request, run, step)

    with mock.patch.object(worker, "_advance", held):
        worker.serve(config)
