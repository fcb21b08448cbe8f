"""The thread that sends the records of an outbox to MLflow, in order, again and again until they are taken."""

import threading
import time
from collections.abc import Sequence

from search.tracking.entries import Data, End, Files, Model, PendingEntry, Start, Values, groups
from search.tracking.mlflow_runs import MISSING, MlflowRuns, error_code
from search.tracking.outbox import Outbox
from trainables.errors import mask_secrets

# Seconds between two tries after one that failed: doubled from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 0.5, 10.0
# After so many failures in a row MLflow is known to be away.
_AWAY_AFTER = 3
# A try that lasts longer than this, in seconds, after `stop` is left behind.
_LAST_MOMENT = 1.0
# MLflow's codes for a record that is itself at fault: another try cannot help.
_REFUSALS = ("INVALID_PARAMETER_VALUE", MISSING)
# Artifacts can have a store of their own, which may fail for ever while the server takes everything else.
_ARTIFACT_TRIES = 5


class Delivery:
    """Delivers what is in the outbox, and what comes into it until `stop`.

    Attributes:
        last_error: why the last failed try failed, with passwords masked.
    """

    def __init__(self, outbox: Outbox, runs: MlflowRuns) -> None:
        self.last_error = ""
        self._outbox, self._runs = outbox, runs
        self._failures = 0  # in a row
        self._artifact_tries: dict[int, int] = {}
        self._changed = threading.Condition()
        self._news, self._hurry, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._news.set()

    def flush(self, timeout: float, away: float) -> bool:
        """Waits until the outbox is empty. Returns whether it is.

        Args:
            timeout: seconds after which it gives up.
            away: seconds after which it gives up if MLflow is known to be away.
        """
        began = time.monotonic()
        self._hurry.set()
        with self._changed:
            while self._outbox.count_waiting():
                limit = min(timeout, away) if self._failures >= _AWAY_AFTER else timeout
                left = began + limit - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        return self._outbox.count_undelivered() == 0

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._hurry.set()
        self._news.set()
        self._thread.join(_LAST_MOMENT)

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopped.is_set():
            self._news.clear()
            try:
                waiting = self._outbox.waiting()
                for group in groups(waiting):
                    if self._stopped.is_set():
                        return
                    self._deliver(group)
                    delay = _FIRST_DELAY
                    with self._changed:
                        self._failures = 0
                        self._changed.notify_all()
            # Whatever MLflow raises, the search must not end of it: the error is kept, and told at the end. The outbox
            # may fail here too; the search is told when it writes its next record.
            except Exception as error:
                self._keep(error)
                with self._changed:
                    self._failures += 1
                    self._changed.notify_all()
                if self._hurry.wait(delay):
                    delay = _FIRST_DELAY
                    self._hurry.clear()
                else:
                    delay = min(2 * delay, _LAST_DELAY)
            else:
                if not (waiting or self._stopped.is_set()):
                    self._news.wait()

    def _deliver(self, group: Sequence[PendingEntry]) -> None:
        """Has MLflow take or refuse records of one run; raises what another try may mend."""
        first = group[0]
        run_id = self._outbox.run_id(first.key)
        try:
            match first.content:
                case Start() as start:
                    run_id = self._runs.open(first, start)
                case _ if run_id is None:
                    # Its run was refused.
                    self._outbox.refused(group)
                    return
                case Values():
                    self._runs.log(run_id, [r.content for r in group if isinstance(r.content, Values)])
                case Files() as files:
                    self._runs.keep(run_id, files)
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
                for record in group:
                    self._deliver([record])
                return
            self._keep(error)
            self._outbox.refused(group)
        else:
            self._outbox.delivered(group, run_id)

    def _is_refusal(self, error: Exception, record: PendingEntry, run_id: str | None) -> bool:
        if error_code(error) in _REFUSALS:
            return True
        if not isinstance(record.content, Files | Model) or run_id is None:
            return False
        # While MLflow itself is away, its artifact store need not be at fault.
        self._runs.ping(run_id)
        tries = self._artifact_tries[record.id] = self._artifact_tries.get(record.id, 0) + 1
        return tries >= _ARTIFACT_TRIES

    def _keep(self, error: Exception) -> None:
        self.last_error = mask_secrets(f"{type(error).__name__}: {error}".split("\n")[0])
