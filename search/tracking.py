"""The record of a search in MLflow: a parent run for the search, a child run for each trial.

A thread of its own writes it, in order; training never waits for it, and a server that is away is tried again.
"""

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

# MLflow's limits for one request: 1000 metrics, 100 params and tags (mlflow.utils.validation).
_METRICS_PER_BATCH = 1000
_ENTITIES_PER_BATCH = 100
_LONGEST_VALUE = 6000
# Seconds between two tries of a request that failed: doubled from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 0.5, 10.0

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


def mask_secrets(text: str) -> str:
    """`text` with the passwords in its URLs masked."""
    return re.sub(r"(://[^/\s:@]*):[^/\s@]*@", r"\1:***@", text)


def _client(uri: str) -> Any:
    """An MLflow client; importing mlflow takes seconds, so the thread does it."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    # MLflow's own retries would hold up the queue for minutes without saying so.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    return MlflowClient(tracking_uri=uri)


class Tracker:
    """Writes a search's runs.

    Args:
        uri: of the store or server; None for MLFLOW_TRACKING_URI, or MLflow's default, mlflow.db in this folder.
        experiment: made if it does not exist.
        client: makes the MLflow client from the URI.

    Attributes:
        tracking_uri: where the runs are.
        undelivered: records that were not written when `close` gave up.
        last_error: why the last failed request failed, with passwords masked.
    """

    def __init__(self, uri: str | None, experiment: str, client: Callable[[str], Any] = _client) -> None:
        chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.tracking_uri = chosen or f"sqlite:///{Path('mlflow.db').absolute()}"
        self.undelivered = 0
        self.last_error = ""
        self._experiment, self._make_client = experiment, client
        self._client: Any = None
        self._experiment_id = ""
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._runs: dict[str, str] = {}
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
            run_id: go on in this run instead.
        """
        self._start(_SEARCH, name, params, tags, run_id)
        self._queue.put(_Files(_SEARCH, (), dict(texts)))

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
            run_id: go on in this run instead.
        """
        self._start(key, name, params, tags, run_id)

    def _start(
        self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, str], run_id: str | None
    ) -> None:
        self._queue.put(_Start(key, name, run_id, _now()))
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
        self._queue.put(_End(key, status, _now()))

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
        self._queue.put(_Files(_SEARCH, list(files), {}))
        self._queue.put(_End(_SEARCH, status, _now()))

    def _values(
        self,
        key: str,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        texts = {name: mask_secrets(str(value))[:_LONGEST_VALUE] for name, value in (params or {}).items()}
        labels = {name: mask_secrets(str(value))[:_LONGEST_VALUE] for name, value in (tags or {}).items()}
        self._queue.put(_Values(key, dict(metrics or {}), step, _now(), texts, labels))

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
        self._thread.join(_LAST_DELAY)
        return self.undelivered == 0 and not self._thread.is_alive()

    def _work(self) -> None:
        closing = False
        while not closing:
            items: list[_Item] = []
            item = self._queue.get()
            while item is not None:
                items.append(item)
                if self._queue.empty():
                    break
                item = self._queue.get()
            closing = item is None
            for position, call in enumerate(calls := self._calls(items)):
                if not self._deliver(call):
                    left = list(iter(self._queue.get, None)) if not closing else []
                    self.undelivered = len(calls) - position + len(left)
                    return

    def _deliver(self, call: Callable[[], None]) -> bool:
        """Tries until the call succeeds; False when `close` has given up."""
        delay = _FIRST_DELAY
        while True:
            try:
                if self._client is None:
                    self._client = self._make_client(self.tracking_uri)
                    self._experiment_id = self._find_experiment()
                call()
                return True
            # Whatever MLflow raises, the search must not end of it: the error is kept, and told at the end.
            except Exception as error:
                self.last_error = mask_secrets(f"{type(error).__name__}: {error}".split("\n")[0])
            if self._give_up.wait(delay):
                return False
            delay = min(2 * delay, _LAST_DELAY)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self.tracking_uri.startswith("sqlite:///"):
            # Beside the database, so that the artifacts are found from whichever folder the UI is started in.
            database = Path(self.tracking_uri.removeprefix("sqlite:///")).absolute()
            location = (database.parent / "mlartifacts").as_uri()
        return str(self._client.create_experiment(self._experiment, artifact_location=location))

    def _calls(self, items: Sequence[_Item]) -> list[Callable[[], None]]:
        """The requests that write `items`; values of one run that follow one another go together."""
        calls: list[Callable[[], None]] = []
        for (kind, _), group in groupby(items, key=lambda item: (type(item), item.key)):
            if kind is _Values:
                calls += self._value_calls([item for item in group if isinstance(item, _Values)])
            else:
                calls += [self._call(item) for item in group]
        return calls

    def _value_calls(self, group: Sequence[_Values]) -> list[Callable[[], None]]:
        from mlflow.entities import Metric, Param, RunTag

        key = group[0].key
        metrics = [
            Metric(name, value, item.time_ms, item.step) for item in group for name, value in item.metrics.items()
        ]
        params = [Param(name, value) for item in group for name, value in item.params.items()]
        tags = [RunTag(name, value) for item in group for name, value in item.tags.items()]
        calls: list[Callable[[], None]] = []
        for kind, values, size in (
            ("params", params, _ENTITIES_PER_BATCH),
            ("tags", tags, _ENTITIES_PER_BATCH),
            ("metrics", metrics, _METRICS_PER_BATCH),
        ):
            for start in range(0, len(values), size):
                part = {kind: values[start : start + size]}
                calls.append(lambda part=part: self._client.log_batch(self._runs[key], **part))  # type: ignore[misc]
        return calls

    def _call(self, item: _Item) -> Callable[[], None]:
        match item:
            case _Start():
                return lambda: self._open(item)
            case _Files():
                return lambda: self._keep(item)
            case _End():
                return lambda: self._client.set_terminated(self._runs[item.key], item.status, item.time_ms)
        raise TypeError(item)

    def _open(self, start: _Start) -> None:
        if start.run_id is not None:
            self._client.update_run(start.run_id, status="RUNNING")
            run_id = start.run_id
        else:
            parent = {} if start.key == _SEARCH else {"mlflow.parentRunId": self._runs[_SEARCH]}
            run_id = self._client.create_run(
                self._experiment_id, start_time=start.time_ms, tags=parent, run_name=start.name
            ).info.run_id
        with self._named:
            self._runs[start.key] = run_id
            self._named.notify_all()

    def _keep(self, files: _Files) -> None:
        for name, text in files.texts.items():
            self._client.log_text(self._runs[files.key], text, name)
        for path in files.paths:
            self._client.log_artifact(self._runs[files.key], str(path))


def _now() -> int:
    return int(time.time() * 1000)
