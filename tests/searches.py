"""Runs the real command on a very small budget, and reads what it leaves behind; for tests and benchmarks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.storages.journal import JournalFileBackend

from search.cluster.ray_runtime import ray_folder
from search.output.cursor import Cursor
from search.output.folder import CURSOR
from search.tracking.entries import SEARCH
from tests import DEADLINE_S

# With SHORT_TRIALS in the environment a trial has a tenth of its tokens: no test may depend on how long one takes.
_TRAINING = {"batch_size": 2, "sequence_length": 8 if os.environ.get("SHORT_TRIALS") else 512}
SPACE = {
    "name": "tiny",
    "models": ["builtin/nano"],
    "data": {"source": "builtin", "task": "word_problems", "train": 6, "validation": 6, "test": 6},
    "budget": {"trials": 6, "epochs": 6},
    "training": _TRAINING,
    "early_stopping": {"pruner": "rungs", "patience": 3, "first_rung": 0.4},
    "sampler": {"startup_trials": 2},
    "confirmation": {"best": 1, "seeds": 2},
}


_started: list[subprocess.Popen[str]] = []


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
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a search, which `end_searches` ends if nothing else has.

        Args:
            address: of a Ray cluster to join.
            program: what Python runs.
            environment: that it has besides that of the tests.
        """
        command = [sys.executable, *program, str(space or self.space), "--output", output, *arguments]
        variables = os.environ | {"ENTRODROP_CACHE": str(self.cache), "COLUMNS": "120"} | dict(environment or {})
        variables.pop("RAY_ADDRESS", None)
        if address is not None:
            variables["RAY_ADDRESS"] = address
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=self.folder, env=variables, stdout=pipe, stderr=pipe, text=True)
        _started.append(process)
        return process

    def run(
        self, output: str, *arguments: str, space: Path | None = None, code: int = 0, seconds: float = DEADLINE_S
    ) -> tuple[str, str]:
        """Runs a search to its end, and asserts that neither a process nor a folder of Ray's is left of it."""
        process = self.start(output, *arguments, space=space)
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == code, f"{out}\n{err}"
        _, left = psutil.wait_procs(filter(self._is_ours, ray_processes(psutil.process_iter())), timeout=120)
        assert left == []
        assert not ray_folder(self.folder / output).exists()
        return out, err

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether one of these searches has started it: others may run on this machine."""
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            return process.environ().get("ENTRODROP_CACHE") == str(self.cache)
        return False

    def wait_for_evaluations(self, output: str, count: int, process: subprocess.Popen[str]) -> None:
        """Waits until the search has reported `count` evaluations."""
        events = self.folder / output / "events.jsonl"
        deadline = time.monotonic() + DEADLINE_S
        while not (events.exists() and events.read_text().count('"event": "evaluation"') >= count):
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


def end_searches() -> None:
    """Kills the searches that still run, with all that they have started."""
    while _started:
        end_process(_started.pop())


def end_process(process: subprocess.Popen[str]) -> None:
    """Kills a process, if it still runs, with all that it has started."""
    if process.poll() is None:
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            # It may end just now.
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


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
