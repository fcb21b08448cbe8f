"""What is done next in a search: which trial a free slot gets, whose report is acted upon, which trials go on.

Knows studies, their order and interruptions; how trials come to slots is search/scheduling/tune_adapter.py's.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.trial import TrialState

from search.interruption import Interruption
from search.scheduling.report_order import ReportOrder
from search.studies.comparison import is_finite
from search.studies.study import Candidate, TrialStudy
from trainables.errors import one_line
from trainables.slots.mailbox import Failure
from trainables.slots.slot import SlotReport

# Why a trial fails that has lost its slot too often; see study.py.
SLOT_LOST = "slot_lost"
# Characters of an error that are told while the trials save their state; all of it is told in the end.
_LONGEST_REASON = 300


class Observer(Protocol):
    """Is told what happens, in the order in which it is acted upon."""

    def slots_changed(self, slots: int) -> None: ...

    def trial_started(self, study: TrialStudy, candidate: Candidate) -> None: ...

    def trial_report(
        self, study: TrialStudy, candidate: Candidate, metrics: Mapping[str, float], node: str
    ) -> None: ...

    def trial_ended(
        self, study: TrialStudy, candidate: Candidate, state: TrialState, reason: str | None, detail: str
    ) -> None: ...


@dataclass(frozen=True)
class Decision:
    """What becomes of a trial after an evaluation.

    Attributes:
        tune_id: the name that Tune has for it.
        evaluations: those that count so far.
    """

    tune_id: str
    evaluations: int
    goes_on: bool


@dataclass
class _Running:
    """A trial on a slot.

    Attributes:
        tune_id: the name that Tune has for it.
        reports: those that are not acted upon yet.
        saved: whether it has saved its state because the search ends.
        smaller: whether it ran out of memory and goes on with smaller micro-batches.
    """

    tune_id: str
    study: TrialStudy
    candidate: Candidate
    index: int
    reports: deque[SlotReport] = field(default_factory=deque)
    saved: bool = False
    smaller: bool = False


class TrialLoop:
    """Starts trials, hands their reports to the studies in order, and says which of them go on.

    Attributes:
        error: why the search cannot go on, such as data that could not be prepared; its trials are left as they are.
        slot_start_s, overhead_s: see trainables.slots.slot.Slot.

    Args:
        studies: in their order; one starts when the one before it has ended.
        slots: trials that run at the same time.
        full_tokens: tokens of a trial of a model that is not stopped early; waits until the data is prepared.
        interruption: ends the search; its trials are left as they are.
        restarts: times that a trial may lose its slot before it fails.
    """

    def __init__(
        self,
        studies: Sequence[TrialStudy],
        slots: int,
        full_tokens: Callable[[str], int],
        observer: Observer,
        interruption: Interruption,
        restarts: int = 2,
    ) -> None:
        self._studies = list(studies)
        self._full_tokens = full_tokens
        self._observer = observer
        self.interruption = interruption
        self._restarts = restarts
        self._losses: dict[tuple[str, int], int] = {}
        self._order = ReportOrder(slots, max((study.clock for study in studies), default=0))
        self._running: dict[str, _Running] = {}
        # Trials that have ended, whose slots have not heard of it yet.
        self._leaving: dict[str, _Running] = {}
        self._indices: dict[tuple[str, int], int] = {}
        self._ready: set[str] = set()
        self.slot_start_s: list[float] = []
        self.overhead_s: list[float] = []
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore of its own, which is not used; the studies are the state."""
        return {}

    @property
    def _study(self) -> TrialStudy | None:
        """The study that the next trial comes from."""
        while self._studies and self._studies[0].exhausted:
            if self._order.running:
                return None
            self._studies.pop(0)
        return self._studies[0] if self._studies else None

    @property
    def _gives_trials(self) -> bool:
        study = self._study
        return study is not None and not study.waits

    @property
    def finished(self) -> bool:
        """True when no further trial will begin; while one runs, it may have to begin again."""
        return self.interruption.asked or (
            not self._running and len(self._studies) <= 1 and all(s.exhausted for s in self._studies)
        )

    @property
    def saved(self) -> bool:
        """True when all running trials have saved their state."""
        return all(running.saved for running in self._running.values())

    def use_slots(self, slots: int, idle: int = 0) -> int:
        """Sets how many trials run at the same time.

        Args:
            idle: slots that wait for a trial; they hold their workers.

        Returns:
            how many slots too many there are, which have to go.
        """
        if slots != self._order.slots:
            self._order.slots = slots
            self._observer.slots_changed(slots)
        return max(0, self._held + idle - slots)

    @property
    def _held(self) -> int:
        """Slots that have a trial."""
        return self._order.running + len(self._leaving)

    def begin(self, tune_id: str) -> Candidate | None:
        """The next trial, if a slot is free and a study has one."""
        if self.interruption.asked or self._held >= self._order.slots or (study := self._study) is None:
            return None
        # A budget of hours may have been used up since.
        if (candidate := study.ask(self._order.now)) is None:
            return None
        # One that begins again after its slot was lost keeps its place among those whose turn comes at the same time.
        index = self._indices.setdefault((study.name, candidate.number), len(self._indices))
        self._running[tune_id] = _Running(tune_id, study, candidate, index)
        self._order.start(index, candidate.clock, self.count_done(tune_id))
        self._observer.trial_started(study, candidate)
        return candidate

    def study(self, tune_id: str) -> TrialStudy:
        """The study of a running trial."""
        return self._running[tune_id].study

    def count_done(self, tune_id: str) -> int:
        """The evaluations of a trial that it need not repeat. One that goes on after an interruption repeats its last,
        which may not have been acted upon."""
        running = self._running[tune_id]
        return max(0, len(running.study.losses(running.candidate.number)) - 1)

    def report(self, tune_id: str, report: SlotReport) -> None:
        """Takes in a report; it is acted upon in `decide`."""
        if (running := self._running.get(tune_id)) is None:
            self._leaving[tune_id].reports.append(report)
            return
        if report.response.interrupted:
            running.saved = True
            return
        running.reports.append(report)
        for seconds, record in ((report.slot_start_s, self.slot_start_s), (report.overhead_s, self.overhead_s)):
            if seconds is not None:
                record.append(seconds)
        self._order.report(running.index)

    def decide(self) -> list[Decision]:
        """What becomes of the trials whose turn it is."""
        decided = []
        # While a slot waits for a trial, its suggestion comes first: it must not depend on what is handled later.
        while not (self._order.has_room and self._gives_trials and not self.interruption.asked):
            index = self._order.next()
            if index is None:
                break
            running = next(r for r in self._running.values() if r.index == index)
            goes_on = self._handle(running)
            if self.error is not None:
                break
            evaluations = len(running.study.losses(running.candidate.number))
            decided.append(Decision(running.tune_id, evaluations, goes_on))
        return decided

    def _handle(self, running: _Running) -> bool:
        study, candidate, report = running.study, running.candidate, running.reports.popleft()
        response = report.response
        if study.name not in self._ready:
            try:
                study.set_full_tokens(self._full_tokens(study.model))
            except Exception as error:
                return self._give_up(running, error)
            self._ready.add(study.name)
        if response.fatal is not None:
            # No other setting will do better: the search ends, and says what is to be mended.
            return self._give_up(running, response.fatal)
        if report.accumulation is not None and not running.smaller:
            running.smaller = True
            study.annotate(candidate.number, "accumulation", report.accumulation)
        if response.failure is not None:
            self._end(running, TrialState.FAIL, response.failure, response.detail)
            return False
        if not all(math.isfinite(response.metrics[name]) for name in study.measures):
            self._end(running, TrialState.FAIL, Failure.NAN, f"{' or '.join(study.measures)} is not finite")
            return False
        if int(response.metrics["tokens"]) > study.tokens(candidate.number):
            metrics = {**response.metrics, "seconds": report.seconds}
            metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
            # The observer first: what is recorded twice is found, what the study alone holds would never be recorded.
            self._observer.trial_report(study, candidate, metrics, response.node)
            reason = study.report(candidate.number, metrics)
        else:
            reason = study.decision(candidate.number)
        if len(study.losses(candidate.number)) >= candidate.settings.evaluations:
            if response.test is not None:
                if not is_finite(response.test):
                    self._end(running, TrialState.FAIL, Failure.NAN, "a loss on the test split is not finite")
                    return False
                study.conclude(candidate.number, response.test)
            self._end(running, TrialState.COMPLETE, None)
            return False
        if reason is not None:
            self._end(running, TrialState.PRUNED, reason)
            return False
        return True

    def _give_up(self, running: _Running, error: Exception) -> bool:
        """The search cannot go on. The trial is left as it is, and the others save their state: they would wait for its
        turn for ever."""
        self.error = error
        running.saved = True
        self.interruption.ask(one_line(str(error), _LONGEST_REASON))
        return False

    def lose(self, tune_id: str, detail: str, counts: bool) -> None:
        """The slot of a trial broke down: the trial goes on elsewhere, as after an interruption, or fails.

        Args:
            counts: whether the trial may have less of such losses from now on.
        """
        if tune_id in self._leaving:
            self.take_back(tune_id)
        if (running := self._running.get(tune_id)) is None:
            return
        study, number = running.study, running.candidate.number
        losses = self._losses[study.name, number] = self._losses.get((study.name, number), 0) + counts
        if losses > self._restarts:
            self._end(running, TrialState.FAIL, SLOT_LOST, detail)
            self.take_back(tune_id)
        else:
            study.put_back(number)
            self._order.end(running.index)
            del self._running[tune_id]

    def take_back(self, tune_id: str, report: SlotReport | None = None) -> None:
        """A trial that has ended has left its slot, which can have another.

        Args:
            report: the last one.
        """
        left = self._leaving.pop(tune_id)
        reports = [*left.reports, *([report] if report is not None else [])]
        ahead = max((r.response.discarded or r.response.metrics.get("tokens", 0) for r in reports), default=0)
        tokens = int(ahead) - left.study.tokens(left.candidate.number)
        if tokens > 0:
            left.study.count_discarded(tokens, sum(report.seconds for report in reports))

    def _end(self, running: _Running, state: TrialState, reason: str | None, detail: str = "") -> None:
        study, candidate = running.study, running.candidate
        self._observer.trial_ended(study, candidate, state, reason, detail)
        study.tell(candidate.number, state, reason)
        self._order.end(running.index)
        self._leaving[running.tune_id] = self._running.pop(running.tune_id)
