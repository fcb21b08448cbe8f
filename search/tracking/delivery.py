"""The thread that tells MLflow what is in events.jsonl, in order, again and again until it is taken."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from search.environment import tracking_uri
from search.output.cursor import Cursor
from search.output.events import Event, Events
from search.output.folder import CURSOR
from search.results.page.trial import TrialPage
from search.tracking.entries import (
    SEARCH,
    Data,
    End,
    Entry,
    EntryMaker,
    Files,
    Model,
    Start,
    Values,
    View,
    groups,
)
from search.tracking.mlflow_runs import (
    MISSING,
    DeletedExperimentError,
    MlflowRuns,
    error_code,
    new_client,
)
from search.tracking.outbox import take_over
from trainables.errors import mask_secrets

# Seconds between two tries after one that failed: doubled from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 0.5, 10.0
# After so many failures in a row MLflow is known to be away, and is waited for this long, in seconds.
_AWAY_AFTER, _AWAY_TIMEOUT = 3, 5.0
# A try that lasts longer than this, in seconds, after `close` is left behind.
_LAST_MOMENT = 1.0
# MLflow's codes for an entry that is itself at fault: another try cannot help.
_REFUSALS = ("INVALID_PARAMETER_VALUE", MISSING)
# Artifacts can have a store of their own, which may fail for ever while the server takes everything else: after so many
# failures in a row each is tried once.
_ARTIFACTS, _ARTIFACT_TRIES = Files | TrialPage | Model, 5
# Bytes of events.jsonl that are read at once.
_READ_AT_ONCE = 2**18


class Delivery:
    """Delivers the events in the file `events`, and those that come into it until `close`.

    Args:
        uri: of the store or server; None for MLFLOW_TRACKING_URI, or MLflow's default, mlflow.db in this folder.
        experiment: made if it does not exist.
        client: makes the MLflow client from the URI.

    Raises:
        ConfigError: the events or the cursor beside them are damaged.
        OSError: they cannot be read or written.

    Attributes:
        note: is given a line for the person when MLflow has not taken something.
        tracking_uri: where the runs are, as MLflow takes it: with its password, if it has one.
        pages: of MLflow's UI with the trials of each model's search, the best on top, once the search has ended: their
            addresses at a server.
        left: events that MLflow had not taken before.
        last_error: why the last failed try failed, with passwords masked; empty if none has.
    """

    def __init__(
        self, uri: str | None, experiment: str, events: Path, client: Callable[[str], Any] = new_client
    ) -> None:
        self.tracking_uri, self.last_error = tracking_uri(uri), ""
        self.note: Callable[[str], object] = lambda line: None
        self.pages: dict[str, str] = {}
        self._noted = False
        # Files are found again from whichever folder a later process is started in.
        self._path = events.absolute()
        self._cursor = take_over(self._path)
        self._runs = MlflowRuns(self.tracking_uri, experiment, self._cursor, client)
        self._events, self._maker = Events(self._path), EntryMaker(self._cursor.seen)
        self._pending: list[list[Entry]] = []  # read and not taken
        # What was refused in an earlier part of the search waits again: the reason may be gone.
        self._read(self._cursor.offset)
        self.left = self.undelivered
        self._failures = 0  # in a row
        self._artifact_failures = 0  # in a row
        self._changed, self._idle = threading.Condition(), False
        self._news, self._hurry, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    @property
    def undelivered(self) -> int:
        """Events of which MLflow has not taken all."""
        offset = self._cursor.offset
        refused = {begins for begins, _ in self._cursor.refused if begins < offset}
        if (rest := self._size() - offset) <= 0:
            return len(refused)
        with self._path.open("rb") as file:
            file.seek(offset)
            return len(refused) + file.read(rest).count(b"\n")

    def run_id(self, key: str = SEARCH) -> str | None:
        """The MLflow run of a trial, or of the search; None as long as MLflow has not named it."""
        return self._cursor.runs.get(key)

    def wake(self) -> None:
        """There is something new in the file."""
        with self._changed:
            self._idle = False
            self._news.set()

    def flush(self, timeout: float, away: float | None = None) -> bool:
        """Waits until MLflow has taken or refused all events so far. Returns whether it has taken them.

        Args:
            timeout: seconds after which it gives up.
            away: seconds after which it gives up if MLflow is known to be away.
        """
        began, away = time.monotonic(), _AWAY_TIMEOUT if away is None else away
        self._hurry.set()
        with self._changed:
            while not self._idle:
                limit = min(timeout, away) if self._failures >= _AWAY_AFTER else timeout
                left = began + limit - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        return self.undelivered == 0

    def close(self, timeout: float) -> bool:
        """Waits as `flush` does, and ends the thread. Returns whether MLflow has taken all events."""
        self.flush(timeout)
        self._stopped.set()
        self._hurry.set()
        self._news.set()
        self._thread.join(_LAST_MOMENT)
        return self.undelivered == 0

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _read(self, end: int) -> bool:
        """Reads the events up to the byte `end`, and keeps the entries that MLflow has not taken. Returns whether there
        were any events."""
        entries: list[Entry] = []

        def follow(event: Event) -> None:
            made = self._maker.make(event, self._events.begins)
            entries.extend(entry for entry in made if self._cursor.waits(entry.id))

        if end > (before := self._events.offset):
            self._events.hand_to(follow, end)
        self._pending = groups(entries)
        return self._events.offset > before

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopped.is_set():
            self._news.clear()
            try:
                if not self._pending and not self._read(min(self._size(), self._events.offset + _READ_AT_ONCE)):
                    self._wait_for_news()
                    continue
                while self._pending and not self._stopped.is_set():
                    self._deliver(self._pending[0])
                    del self._pending[0]
                    delay = _FIRST_DELAY
                    self._advance()
                if not self._pending:
                    self._advance()
            # Whatever MLflow raises, the search must not end of it: the error is kept, and told at the end. The files
            # may fail here too; the search is told when it writes its next event.
            except Exception as error:
                self._keep(error)
                with self._changed:
                    self._failures += 1
                    self._changed.notify_all()
                if self._failures == _AWAY_AFTER:
                    self._tell()
                if self._hurry.wait(delay):
                    delay = _FIRST_DELAY
                    self._hurry.clear()
                else:
                    delay = min(2 * delay, _LAST_DELAY)

    def _wait_for_news(self) -> None:
        """Waits for news."""
        with self._changed:
            if self._news.is_set():
                return
            self._idle = True
            self._changed.notify_all()
        self._news.wait()

    def _advance(self) -> None:
        """Notes up to where MLflow has taken or refused all."""
        begins = (entry.id[0] for group in self._pending for entry in group)
        self._cursor.advance(min(begins, default=self._events.offset))
        with self._changed:
            self._failures = 0
            self._changed.notify_all()

    def _deliver(self, group: Sequence[Entry]) -> None:
        """Has MLflow take or refuse entries of one run; raises what another try may mend."""
        first, ids = group[0], [entry.id for entry in group]
        run_id = self._cursor.runs.get(first.key)
        try:
            match first.content:
                case Start() as start:
                    run_id = self._runs.open(first.key, start)
                case _ if run_id is None:
                    # Its run was refused.
                    self._cursor.refuse(ids)
                    return
                case Values():
                    self._runs.log(run_id, [e.content for e in group if isinstance(e.content, Values)])
                case Files() as files:
                    self._runs.keep(run_id, files)
                case TrialPage() as page:
                    self._runs.show(run_id, page)
                case View() as view:
                    self.pages[view.model] = self._runs.share(run_id, view)
                case Data() as data:
                    self._runs.use(run_id, data)
                case Model() as model:
                    self._runs.register(run_id, model)
                case End() as end:
                    self._runs.end(run_id, first.key, end)
        except Exception as error:
            if not self._is_refusal(error, first, run_id):
                raise
            if len(group) > 1:
                for entry in group:
                    self._deliver([entry])
                return
            self._keep(error)
            self._tell()
            self._cursor.refuse(ids)
        else:
            if isinstance(first.content, _ARTIFACTS):
                self._artifact_failures = 0
            self._cursor.take(ids)

    def _is_refusal(self, error: Exception, entry: Entry, run_id: str | None) -> bool:
        if error_code(error) in _REFUSALS:
            return True
        if not isinstance(entry.content, _ARTIFACTS) or run_id is None:
            return False
        # While MLflow itself is away, its artifact store need not be at fault.
        self._runs.ping(run_id)
        self._artifact_failures += 1
        return self._artifact_failures >= _ARTIFACT_TRIES

    def _keep(self, error: Exception) -> None:
        own = isinstance(error, DeletedExperimentError)
        self.last_error = mask_secrets(str(error) if own else f"{type(error).__name__}: {error}".split("\n")[0])

    def _tell(self) -> None:
        """Once: the search goes on, and the person may mend it meanwhile."""
        if not self._noted:
            self._noted = True
            self.note(f"MLflow does not take the record, which is kept: {self.last_error}")


def adopt_copy(events: Path) -> list[str]:
    """Takes a copy of events.jsonl and of its cursor, which went on elsewhere: any run may exist in MLflow.

    Returns:
        The folders of models that MLflow has yet to take.
    """
    take_over(events).look_again()
    return undelivered_models(events)


def undelivered_models(events: Path) -> list[str]:
    """The folders of models that MLflow has yet to take."""
    cursor, reader = Cursor(events.with_name(CURSOR)), Events(events)
    maker = EntryMaker(cursor.seen)
    entries = (entry for event in reader.new() for entry in maker.make(event, reader.begins))
    return [e.content.folder for e in entries if isinstance(e.content, Model) and cursor.waits(e.id)]
