"""Runs the real command on a very small budget, and reads what it leaves behind; for tests and benchmarks."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.storages.journal import JournalFileBackend

from search.tracking.cursor import CURSOR, Cursor
from search.tracking.entries import SEARCH

SPACE = {
    "name": "tiny",
    "models": ["builtin/nano"],
    "data": {"source": "reasoning_gym", "task": "gsm_symbolic", "train": 6, "validation": 6, "test": 6},
    "budget": {"trials": 6, "epochs": 6},
    "training": {"batch_size": 2},
    "early_stopping": {"pruner": "rungs", "patience": 3, "first_rung": 0.4},
    "sampler": {"startup_trials": 2},
    "confirmation": {"best": 1, "seeds": 2},
}


class Searches:
    """Runs searches in one folder, with one cache.

    Args:
        cache: in which base models may have been pretrained; None: an empty one in the folder.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any] = SPACE, cache: Path | None = None) -> None:
        self.folder, self.cache = folder, cache or folder / "cache"
        self.space = folder / "tiny.yaml"
        self.space.write_text(yaml.safe_dump(dict(content)))

    def start(
        self,
        output: str,
        *arguments: str,
        space: Path | None = None,
        address: str | None = None,
        program: Sequence[str] = ("-m", "search.run"),
    ) -> subprocess.Popen[str]:
        """Args:
        address: of a Ray cluster to join.
        program: what Python runs.
        """
        command = [sys.executable, *program, str(space or self.space), "--output", output, *arguments]
        environment = os.environ | {"ENTRODROP_CACHE": str(self.cache), "COLUMNS": "120"}
        environment.pop("RAY_ADDRESS", None)
        if address is not None:
            environment["RAY_ADDRESS"] = address
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(
        self, output: str, *arguments: str, space: Path | None = None, code: int = 0, seconds: float = 300
    ) -> tuple[str, str]:
        """Runs a search to its end, and asserts that neither a process nor a folder of Ray's is left of it."""
        processes, folders = _of_ray()
        process = self.start(output, *arguments, space=space)
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == code, f"{out}\n{err}"
        later, still = _of_ray()
        _, left = psutil.wait_procs(later - processes, timeout=10)
        assert (left, still - folders) == ([], set())
        return out, err

    def wait_for_evaluations(self, output: str, count: int, process: subprocess.Popen[str]) -> None:
        """Waits until the search has reported `count` evaluations."""
        events = self.folder / output / "events.jsonl"
        deadline = time.monotonic() + 200
        while not (events.exists() and events.read_text().count('"evaluation"') >= count):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the search reported nothing"
            time.sleep(0.05)

    def study(self, output: str, name: str = "builtin/nano") -> optuna.Study:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.folder / output / "study.journal")))
        return optuna.load_study(storage=storage, study_name=name)

    def table(self, output: str, name: str = "builtin/nano") -> list[Any]:
        trials = self.study(output, name).trials
        return [(t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in trials]

    def run_ids(self, output: str, trials: int, name: str = "builtin/nano") -> list[str | None]:
        """The MLflow runs of the first `trials` trials of a study."""
        runs = Cursor(self.folder / output / CURSOR).runs
        return [runs.get(f"{name}/{number}") for number in range(trials)]

    def search_run_id(self, output: str) -> str:
        """The MLflow run of a search itself."""
        return Cursor(self.folder / output / CURSOR).runs[SEARCH]

    def events(self, output: str, kind: str | None = None) -> list[dict[str, Any]]:
        """All, or those of a kind, as events.jsonl has them."""
        lines = (self.folder / output / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if kind in (None, event["event"])]

    def summary(self, output: str) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / output / "summary.json").read_text())
        return summary


def _of_ray() -> tuple[set[psutil.Process], set[Path]]:
    """Ray's processes on this machine, and the folders that searches have made for it."""
    return ray_processes(psutil.process_iter()), set(Path(tempfile.gettempdir()).glob("ray-*"))


def ray_processes(among: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those of Ray."""
    found = set()
    for process in among:
        # It may end just now.
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(("ray::", "raylet", "gcs_server")):
                found.add(process)
    return found


def workers_and_slots(search: int) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The processes of a running search's Ray Train workers, and those of its slots.

    Args:
        search: id of its driver's process.
    """
    workers, slots = [], []
    for process in psutil.Process(search).children(recursive=True):
        # It may end just now. Linux cuts a name after 15 characters; Ray's says what an actor is doing.
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::RayTrainWo"):
                workers.append(process)
            elif process.name().startswith(("ray::Slot", "ray::ResourceTr")):
                slots.append(process)
    return workers, slots
