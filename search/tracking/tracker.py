"""The record of a search, as the search tells it."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.tracking.delivery import Delivery
from search.tracking.entries import SEARCH, Content, Data, End, Entry, Files, Model, Start, Values
from search.tracking.mlflow_runs import SQLITE, MlflowRuns, new_client
from search.tracking.outbox import Outbox
from trainables.errors import mask_secrets

_LONGEST_VALUE = 6000
# Characters that MLflow allows.
_LONGEST_DIGEST = 36
# Seconds that are waited for MLflow at most once it is known to be away.
_AWAY_TIMEOUT = 5.0


class Tracker:
    """Writes a search's runs. Nothing waits for MLflow but `flush` and `close`.

    Args:
        uri: of the store or server; None for MLFLOW_TRACKING_URI, or MLflow's default,
            mlflow.db in this folder.
        experiment: made if it does not exist.
        outbox: the file that holds the records until MLflow has taken them; what is in it is delivered first.
        client: makes the MLflow client from the URI.

    Every method raises OSError if the outbox cannot be read or written, as when the disk is full, and ConfigError if it
    is damaged.

    Attributes:
        tracking_uri: where the runs are, as MLflow takes it: with its password, if it has one.
        left: records that were in the outbox when it was opened.
    """

    def __init__(
        self, uri: str | None, experiment: str, outbox: Path, client: Callable[[str], Any] = new_client
    ) -> None:
        self.tracking_uri = tracking_uri(uri)
        # Files that are recorded are found again from whichever folder a later process is started in.
        self._folder = outbox.parent.absolute()
        self._outbox = Outbox(self._folder / outbox.name)
        self.left = self._outbox.count_undelivered()
        self._delivery = Delivery(self._outbox, MlflowRuns(self.tracking_uri, experiment, self._outbox, client))

    @property
    def undelivered(self) -> int:
        """Records that MLflow has not taken yet, or refused."""
        return self._outbox.count_undelivered()

    @property
    def last_error(self) -> str:
        """Why the last failed request failed, with passwords masked; empty if none has."""
        return self._delivery.last_error

    def start_search(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, str], texts: Mapping[str, str]
    ) -> None:
        """Opens the parent run, or goes on in the one that the search had.

        Args:
            texts: file names and contents, kept as artifacts.
        """
        kept = Files(texts={file: mask_secrets(text) for file, text in texts.items()})
        self._put(SEARCH, *_start(name, params, tags), kept)

    def start_trial(self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Opens a trial's run, or goes on in the one that it had, under the caller's own `key`, as a child of the
        search's run."""
        self._put(key, *_start(name, params, tags))

    def evaluation(self, key: str, metrics: Mapping[str, float], tokens: int) -> None:
        """The metrics of one evaluation, at the tokens seen so far; of those at the same tokens, the first counts."""
        self._send(Entry(key, Values(_now(), metrics, step=tokens), once=f"{key}@{tokens}"))

    def data(self, name: str, data_hash: str, source: Mapping[str, Any], key: str | None = None) -> None:
        """What a trial trained on, or the search if `key` is None; once for each run and data set.

        Args:
            source: where it comes from, as JSON values.
        """
        digest = data_hash[:_LONGEST_DIGEST]
        content = Data(name, digest, mask_secrets(json.dumps(source)))
        self._send(Entry(key or SEARCH, content, once=f"{key or SEARCH}@data {name} {digest}"))

    def register(self, key: str, folder: Path, name: str, tags: Mapping[str, str]) -> None:
        """Registers the model of a trial, once, as a version of the model with this name.

        Args:
            folder: that transformers loads it from; it must stay until MLflow has taken it.
        """
        content = Model(self._place(folder), mask_secrets(name), _texts(tags))
        self._send(Entry(key, content, once=f"{key}@model {name}"))

    def end_trial(
        self,
        key: str,
        status: str,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Args: status: FINISHED, FAILED or KILLED."""
        self._send(*_end(key, status, params or {}, metrics or {}, tags or {}))

    def end_search(
        self,
        status: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Sequence[Path],
    ) -> None:
        """Args: status: FINISHED, FAILED or KILLED; files: kept as artifacts, as they are when MLflow takes them."""
        *values, end = _end(SEARCH, status, params, metrics, tags)
        self._send(*values, Entry(SEARCH, Files([self._place(file) for file in files])), end)

    def run_id(self, key: str | None = None) -> str | None:
        """The MLflow run of a trial, or of the search if `key` is None; None as long as MLflow has not named it."""
        return self._outbox.run_id(key or SEARCH)

    def flush(self, timeout: float, away: float = _AWAY_TIMEOUT) -> bool:
        """Waits until MLflow has taken all records so far. Returns whether it has.

        Args:
            timeout: seconds after which it gives up.
            away: seconds after which it gives up if MLflow is known to be away.
        """
        return self._delivery.flush(timeout, away)

    def close(self, timeout: float) -> bool:
        """Waits as `flush` does, and ends the delivery. Returns whether MLflow has taken all records."""
        self._delivery.flush(timeout, _AWAY_TIMEOUT)
        self._delivery.stop()
        return self.undelivered == 0

    def _put(self, key: str, *contents: Content) -> None:
        self._send(*(Entry(key, content) for content in contents))

    def _send(self, *records: Entry) -> None:
        self._outbox.put(*records)
        self._delivery.wake()

    def _place(self, file: Path) -> str:
        """A file's path from the outbox's folder, which may be moved, if it is in there."""
        path = file.absolute()
        return str(path.relative_to(self._folder) if path.is_relative_to(self._folder) else path)


def _start(name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> tuple[Start, Values]:
    now = _now()
    return Start(mask_secrets(name), now), Values(now, params=_texts(params), tags=_texts(tags))


def _end(
    key: str, status: str, params: Mapping[str, object], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> list[Entry]:
    """The records of a run's end. A run that ends a second time, as after a kill, has each value but once."""
    now = _now()
    values = [
        Entry(key, Values(now, {name: value}), once=f"{key}@end {name}={value!r}") for name, value in metrics.items()
    ]
    words = Entry(key, Values(now, params=_texts(params), tags=_texts(tags)))
    return [*values, words, Entry(key, End(status, now))]


def tracking_uri(uri: str | None) -> str:
    """`uri`, or else MLFLOW_TRACKING_URI, or MLflow's default; a relative SQLite file is under the current folder."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    return SQLITE + os.path.abspath(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else uri


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: mask_secrets(str(value))[:_LONGEST_VALUE] for name, value in values.items()}


def _now() -> int:
    return int(time.time() * 1000)
