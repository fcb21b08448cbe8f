"""The record of a search in MLflow: a parent run for the search, a child run for each trial.

A thread of its own writes it, in order: training never waits for it, and a server that is away is tried
again.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.config.secrets import mask_secrets as mask_secrets

# MLflow's limits for one request: 1000 metrics, 100 params and tags (mlflow.utils.validation).
_METRICS_PER_BATCH = 1000
_ENTITIES_PER_BATCH = 100
_LONGEST_VALUE = 6000
# Seconds between two tries of a request that failed: doubled from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 0.5, 10.0
# A try that lasts longer than this after `close` has given up is left behind.
_LAST_MOMENT = 1.0
# MLflow's codes for a record that is itself at fault: another try cannot help.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
# Artifacts can have a store of their own, which may fail for ever while the server takes everything else.
_ARTIFACT_TRIES = 5

_SEARCH = ""  # the key of the parent run


@dataclass(frozen=True)
class _Start:
    key: str
    name: str
    run_id: str | None
    time_ms: int


@dataclass(frozen=True)
class _Values:
    key: str
    metrics: Mapping[str, float]
    step: int
    time_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Files:
    key: str
    paths: Sequence[Path]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class _End:
    key: str
    status: str
    time_ms: int


_Item = _Start | _Values | _Files | _End


def _client(uri: str) -> Any:
    """An MLflow client; importing mlflow takes seconds, so the thread does it."""
    # MLflow's own retries would hold up the queue for minutes without saying so.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # With a server, MLflow prints the address of each run that ends, into the live table.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    # Importing mlflow sets these levels.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _absolute(uri: str) -> str:
    """`uri`; if it is a relative SQLite file, that file under the current folder."""
    scheme = "sqlite:///"
    return scheme + os.path.abspath(uri.removeprefix(scheme)) if uri.startswith(scheme) else uri


def _error_code(error: Exception) -> str | None:
    return getattr(error, "error_code", None)


class Tracker:
    """Writes a search's runs.

    Args:
        uri: of the store or server; None for MLFLOW_TRACKING_URI, or MLflow's default,
            mlflow.db in this folder.
        experiment: made if it does not exist.
        client: makes the MLflow client from the URI.

    Attributes:
        tracking_uri: where the runs are, as MLflow takes it: with its password, if it has one.
        undelivered: records that are not written yet, or that MLflow refused.
        last_error: why the last failed request failed, with passwords masked.
    """

    def __init__(self, uri: str | None, experiment: str, client: Callable[[str], Any] = _client) -> None:
        self.tracking_uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        self.undelivered = 0
        self.last_error = ""
        self._experiment, self._make_client = experiment, client
        self._client: Any = None
        self._experiment_id = ""
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._runs: dict[str, str] = {}
        self._params: dict[str, dict[str, str]] = {}  # of each run, as MLflow holds them
        self._named = threading.Condition()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def start_search(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        texts: Mapping[str, str],
        run_id: str | None = None,
    ) -> None:
        """Opens the parent run.

        Args:
            texts: file names and contents, kept as artifacts.
            run_id: go on in this run, if MLflow still has it.
        """
        self._start(_SEARCH, name, params, tags, run_id)
        self._send(_Files(_SEARCH, (), {file: mask_secrets(text) for file, text in texts.items()}))

    def start_trial(
        self,
        key: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        run_id: str | None = None,
    ) -> None:
        """Opens a trial's run under the caller's own `key`, as a child of the search's run.

        Args:
            run_id: go on in this run, if MLflow still has it.
        """
        self._start(key, name, params, tags, run_id)

    def _start(
        self,
        key: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        run_id: str | None,
    ) -> None:
        self._send(_Start(key, mask_secrets(name), run_id, _now()))
        self._values(key, params=params, tags=tags)

    def evaluation(self, key: str, metrics: Mapping[str, float], tokens: int) -> None:
        """The metrics of one evaluation, at the tokens seen so far."""
        self._values(key, metrics=metrics, step=tokens)

    def end_trial(
        self,
        key: str,
        status: str,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Args: status: FINISHED, FAILED or KILLED."""
        self._values(key, params=params or {}, metrics=metrics or {}, tags=tags or {})
        self._send(_End(key, status, _now()))

    def end_search(
        self,
        status: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Sequence[Path],
    ) -> None:
        """Args: status: FINISHED, FAILED or KILLED; files: kept as artifacts."""
        self._values(_SEARCH, params=params, metrics=metrics, tags=tags)
        self._send(_Files(_SEARCH, list(files), {}))
        self._send(_End(_SEARCH, status, _now()))

    def _values(
        self,
        key: str,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        self._send(_Values(key, dict(metrics or {}), step, _now(), _texts(params or {}), _texts(tags or {})))

    def _send(self, item: _Item) -> None:
        with self._named:
            self.undelivered += 1
        self._queue.put(item)

    def run_id(self, key: str | None = None, timeout: float = 0) -> str | None:
        """The MLflow run of a trial, or of the search if `key` is None.

        Args:
            timeout: seconds to wait for it; None is returned if it is not known by then.
        """
        with self._named:
            self._named.wait_for(lambda: (key or _SEARCH) in self._runs, timeout)
            return self._runs.get(key or _SEARCH)

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the last records to be written. Returns whether all were."""
        self._queue.put(None)
        self._thread.join(timeout)
        self._give_up.set()
        self._thread.join(_LAST_MOMENT)
        return self.undelivered == 0

    def _work(self) -> None:
        closing = False
        while not closing:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            closing = None in waiting
            for group in _groups([item for item in waiting if item is not None]):
                self._deliver(group)

    def _deliver(self, group: Sequence[_Item]) -> None:
        """Tries until MLflow takes or refuses the records, or `close` has given up."""
        first = group[0]
        if not isinstance(first, _Start) and first.key not in self._runs:
            return  # its run was refused, or `close` has given up
        delay, tries = _FIRST_DELAY, 0
        while not self._give_up.is_set():
            try:
                if self._client is None:
                    self._client = self._make_client(self.tracking_uri)
                if not self._experiment_id:
                    self._experiment_id = self._find_experiment()
                self._write(group)
            # Whatever MLflow raises, the search must not end of it: the error is kept, and told at the end.
            except Exception as error:
                self.last_error = mask_secrets(f"{type(error).__name__}: {error}".split("\n")[0])
                tries += 1
                refused = _error_code(error) in _REFUSALS
                if refused and len(group) > 1:
                    for item in group:
                        self._deliver([item])
                if refused or (isinstance(first, _Files) and tries == _ARTIFACT_TRIES):
                    return
            else:
                with self._named:
                    self.undelivered -= len(group)
                return
            self._give_up.wait(delay)
            delay = min(2 * delay, _LAST_DELAY)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self.tracking_uri.startswith("sqlite:///"):
            # Beside the database, so that the artifacts are found from whichever folder the UI is started in.
            database = Path(self.tracking_uri.removeprefix("sqlite:///"))
            location = (database.parent / "mlartifacts").as_uri()
        return str(self._client.create_experiment(self._experiment, artifact_location=location))

    def _write(self, group: Sequence[_Item]) -> None:
        match group[0]:
            case _Start() as start:
                self._open(start)
            case _Values(key):
                self._log(key, [item for item in group if isinstance(item, _Values)])
            case _Files(key, paths, texts):
                for name, text in texts.items():
                    self._client.log_text(self._runs[key], text, name)
                for path in paths:
                    self._client.log_artifact(self._runs[key], str(path))
            case _End(key, status, time_ms):
                self._client.set_terminated(self._runs[key], status, time_ms)

    def _open(self, start: _Start) -> None:
        run_id = start.run_id and self._reopened(start.key, start.run_id)
        if not run_id:
            parent = self._runs.get(_SEARCH)
            tags = {"mlflow.parentRunId": parent} if parent else {}
            run = self._client.create_run(
                self._experiment_id,
                start_time=start.time_ms,
                tags=tags,
                run_name=start.name,
            )
            run_id = str(run.info.run_id)
        with self._named:
            self._runs[start.key] = run_id
            self._named.notify_all()

    def _reopened(self, key: str, run_id: str) -> str | None:
        """`run_id`, set running again; None if it has been deleted, or is another server's."""
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if _error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        self._params[key] = dict(run.data.params)
        return run_id

    def _log(self, key: str, group: Sequence[_Values]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        held = self._params.setdefault(key, {})
        new_params: dict[str, str] = {}
        new_tags: dict[str, str] = {}
        for item in group:
            new_tags |= item.tags
            for name, value in item.params.items():
                # MLflow refuses to change a param, as a resumed search with a larger budget would: the new
                # value becomes a tag of that name.
                kept = held.setdefault(name, value) == value
                (new_params if kept else new_tags)[name] = value
        params = [Param(name, value) for name, value in new_params.items()]
        tags = [RunTag(name, value) for name, value in new_tags.items()]
        metrics = []
        for item in group:
            metrics += [Metric(name, value, item.time_ms, item.step) for name, value in item.metrics.items()]
        for start in range(0, len(params), _ENTITIES_PER_BATCH):
            self._client.log_batch(self._runs[key], params=params[start : start + _ENTITIES_PER_BATCH])
        for start in range(0, len(tags), _ENTITIES_PER_BATCH):
            self._client.log_batch(self._runs[key], tags=tags[start : start + _ENTITIES_PER_BATCH])
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(self._runs[key], metrics=metrics[start : start + _METRICS_PER_BATCH])


def _groups(items: Sequence[_Item]) -> list[list[_Item]]:
    """`items` in order, with the values of a run together as far as that leaves the order within the run."""
    groups: list[list[_Item]] = []
    values: dict[str, list[_Item]] = {}
    for item in items:
        if isinstance(item, _Values) and item.key in values:
            values[item.key].append(item)
            continue
        groups.append([item])
        if isinstance(item, _Values):
            values[item.key] = groups[-1]
        else:
            values.pop(item.key, None)
    return groups


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: mask_secrets(str(value))[:_LONGEST_VALUE] for name, value in values.items()}


def _now() -> int:
    return int(time.time() * 1000)
