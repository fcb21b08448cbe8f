"""The order in which results of parallel trials are acted upon: by training progress, not by wall time.

Which trial reports first on the wall clock depends on the machine. If the sampler and the pruner acted on results as
they come in, the same space and seed would give another search each time. So each trial has a clock that counts
evaluations, started where the trial before it in the slot ended, and results are handled in the order of these clocks
(conservative discrete-event simulation; Chandy and Misra 1979). A trial may report further evaluations before its turn
comes: how far it has run ahead changes nothing.
"""

from dataclasses import dataclass, field


@dataclass
class _Trial:
    started: int
    handled: int = 0
    waiting: int = 0


@dataclass
class ReportOrder:
    """Handles reports of up to `slots` trials in an order that only depends on what was handled before.

    Attributes:
        now: the clock; a resumed search goes on with what it was.
    """

    slots: int
    now: int = 0
    _trials: dict[int, _Trial] = field(default_factory=dict)

    def start(self, trial: int, started: int | None = None, handled: int = 0) -> None:
        """A trial begins, or goes on; trials are numbered in the order in which they begin.

        Args:
            started, handled: of a trial that goes on: when it began, and its reports that will not come again.
        """
        self._trials[trial] = _Trial(self.now if started is None else started, handled)

    def report(self, trial: int) -> None:
        """The trial has evaluated once more; the evaluation waits for a decision."""
        self._trials[trial].waiting += 1

    def end(self, trial: int) -> None:
        self._trials.pop(trial, None)

    @property
    def running(self) -> int:
        return len(self._trials)

    @property
    def has_room(self) -> bool:
        return self.running < self.slots

    def next(self) -> int | None:
        """The trial whose report is to be handled now; None while an earlier one may still come.

        The caller asks only when no slot waits for a new trial: what a new trial is depends on what was handled before.
        """
        if not self._trials:
            return None
        # A trial that is still training reports one evaluation after its last one, at the earliest.
        due, trial = min((t.started + t.handled + 1, number) for number, t in self._trials.items())
        if not self._trials[trial].waiting:
            return None
        # A resumed trial repeats its last report.
        self.now = max(self.now, due)
        self._trials[trial].handled += 1
        self._trials[trial].waiting -= 1
        return trial
