"""An MLflow client in memory, which can be away, refuse, and lose its answers; and a small search that is recorded."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from search.output.events import (
    DataPrepared,
    Evaluation,
    Event,
    ModelRegistered,
    SearchEnded,
    SearchStarted,
    TrialEnded,
    TrialStarted,
    append_events,
)
from search.tracking.delivery import Delivery
from search.tracking.mlflow_runs import new_client
from tests import DEADLINE_S


class RefusedError(Exception):
    error_code = "INVALID_PARAMETER_VALUE"


class MissingError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class ExistsError(Exception):
    error_code = "RESOURCE_ALREADY_EXISTS"


class LockedError(Exception):
    error_code = "TEMPORARILY_UNAVAILABLE"


class Client:
    """Attributes:
    away: while set, no request is answered.
    lost: how many of the next answers are lost, by method: what was asked has been done.
    asked: requests so far, by method.
    """

    def __init__(self) -> None:
        self.away = threading.Event()
        self.lost: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.error: Callable[[str], Exception] = ConnectionError
        self.artifact_store_works = True
        self.runs: dict[str, dict[str, Any]] = {}
        self.registered: set[str] = set()
        self.experiment_tags: dict[str, str] = {}
        self.versions: list[tuple[str, str, str, dict[str, str], str]] = []

    def _request(self, method: str) -> None:
        self.asked[method] += 1
        if self.away.is_set():
            raise self.error("no answer from http://user:secret@host/")

    def _answer(self, method: str) -> None:
        if self.lost[method]:
            self.lost[method] -= 1
            raise ConnectionError("the answer was lost")

    def get_experiment_by_name(self, name: str) -> Any:
        self._request("get_experiment_by_name")
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def create_run(self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        self._request("create_run")
        if "refused" in run_name:
            raise RefusedError("the experiment is deleted")
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {
            "name": run_name,
            "tags": dict(tags),
            "params": {},
            "metrics": [],
            "files": {},
            "ids": set(),
        }
        self._answer("create_run")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> Any:
        self._request("search_runs")
        assert filter_string.startswith("tags.`search.key` = '")
        wanted = filter_string.split("'")[1]
        found = [r for r in self.runs if self.runs[r]["tags"]["search.key"] == wanted and not self.deleted(r)]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run_id)) for run_id in found]

    def delete_run(self, run_id: str) -> None:
        self.runs[run_id]["deleted"] = True

    def deleted(self, run_id: str) -> bool:
        return "deleted" in self.runs[run_id]

    def get_run(self, run_id: str) -> Any:
        self._request("get_run")
        if run_id not in self.runs:
            raise MissingError(f"Run with id={run_id} not found")
        info = SimpleNamespace(lifecycle_stage="deleted" if self.deleted(run_id) else "active")
        return SimpleNamespace(info=info, data=SimpleNamespace(params=dict(self.runs[run_id]["params"])))

    def update_run(self, run_id: str, status: str) -> None:
        self._request("update_run")
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._request("log_batch")
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        run = self.runs[run_id]
        if any(run["params"].get(p.key, p.value) != p.value for p in params):
            raise RefusedError("Changing param values is not allowed")
        if any(m.value is None for m in metrics):
            raise RefusedError("Missing value")
        for metric in metrics:
            # As MLflow's SQL store does.
            if (identity := (metric.key, metric.timestamp, metric.step, metric.value)) not in run["ids"]:
                run["ids"].add(identity)
                run["metrics"].append((metric.step, metric.key, metric.value))
        run["params"] |= {p.key: p.value for p in params}
        run["tags"] |= {t.key: t.value for t in tags}
        self._answer("log_batch")

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._request("log_text")
        if not self.artifact_store_works:
            raise OSError("no space left on device")
        self.runs[run_id]["files"][name] = text

    def log_artifact(self, run_id: str, path: str) -> None:
        self.log_text(run_id, Path(path).read_text(), Path(path).name)

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        for file in Path(folder).iterdir():
            self.log_text(run_id, file.read_text(), f"{path}/{file.name}")

    def search_model_versions(self, filter_string: str) -> list[Any]:
        self._request("search_model_versions")
        found = [name for name, _, run_id, *_ in self.versions if filter_string == f"run_id = '{run_id}'"]
        return [SimpleNamespace(name=name) for name in found]

    def create_registered_model(self, name: str) -> None:
        self._request("create_registered_model")
        if name in self.registered:
            raise ExistsError(name)
        self.registered.add(name)

    def create_model_version(self, name: str, source: str, run_id: str, tags: dict[str, str], description: str) -> None:
        self._request("create_model_version")
        self.versions.append((name, source, run_id, tags, description))
        self._answer("create_model_version")

    def log_inputs(self, run_id: str, datasets: Any) -> None:
        self._request("log_inputs")
        for used in datasets:
            self.runs[run_id]["tags"][f"data {used.dataset.name}"] = used.dataset.digest
        self._answer("log_inputs")

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self._request("set_experiment_tag")
        self.experiment_tags[key] = value

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._request("set_terminated")
        self.runs[run_id]["status"] = status

    def tags(self, run_id: str, *names: str) -> dict[str, str]:
        """Some of a run's tags."""
        return {name: value for name, value in self.runs[run_id]["tags"].items() if name in names}

    def params(self, run_id: str) -> dict[str, str]:
        """The params of a run, but for a trial's model and arm."""
        return {name: value for name, value in self.runs[run_id]["params"].items() if name not in ("model", "arm")}

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [(step, value) for step, key, value in self.runs[run_id]["metrics"] if key == name]


class Search(Delivery):
    """Writes events to a folder as a search does, and delivers them to a client in memory, or to MLflow."""

    def __init__(self, to: Client | str, folder: Path, client: Callable[[str], Any] = new_client) -> None:
        uri = to if isinstance(to, str) else "http://user:secret@host"
        super().__init__(uri, "e", folder / "events.jsonl", client if isinstance(to, str) else lambda uri: to)

    def write(self, event: Event) -> None:
        append_events(self._path, event)
        self.wake()

    def started(self, name: str = "math", files: Sequence[str] = (), **settings: Any) -> None:
        self.write(SearchStarted(planned={}, resume_command="", name=name, settings=settings, files=list(files)))

    def prepared(self, data_hash: str, documents: Sequence[Any] = ()) -> None:
        source = {"source": "files", "path": "a.jsonl"}
        self.write(DataPrepared(model="nano", data_hash=data_hash, source=source, documents=list(documents)))

    def begun(self, trial: int, arm: str = "entrodrop", study: str = "nano", **parameters: Any) -> None:
        of = {"study": study, "trial": trial, "model": "nano", "planned": 1, "full_tokens": 0, "tokens": 0}
        self.write(TrialStarted(arm=arm, parameters=parameters, **of))

    def evaluated(self, trial: int, tokens: int, **metrics: float) -> None:
        self.write(Evaluation(study="nano", trial=trial, tokens=tokens, full_tokens=0, metrics=metrics))

    def ended(self, trial: int, state: str = "complete", study: str = "nano", **metrics: float) -> None:
        of = {"study": study, "trial": trial, "model": "nano"}
        self.write(TrialEnded(state=state, reason=None, objective=None, metrics=metrics, **of))

    def registered(self, trial: int, folder: str, name: str, tags: dict[str, str]) -> None:
        self.write(
            ModelRegistered(study="nano", trial=trial, folder=folder, name=name, tags=tags, description="use it")
        )

    def over(self, status: str = "FINISHED", **values: Any) -> None:
        self.write(SearchEnded(status=status, **values))


def a_search(into: Search, evaluations: int = 3) -> None:
    into.started(seed=0)
    into.begun(0, mask_ratio=0.5)
    for k in range(evaluations):
        into.evaluated(0, 100 * (k + 1), loss=6.0 - k, high_entropy_loss=7.0 - k)
    into.ended(0, objective=5.0)
    into.over(metrics={"best": 5.0})


EXPECTED = [(100, 6.0), (200, 5.0), (300, 4.0)]


def wait_for_error(search: Search) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not search.last_error:
        assert time.monotonic() < deadline
        time.sleep(0.01)
