"""How a search stands: what trains, what has ended, how long the rest will take; from the events of its trials."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search.arms import BASELINE, ENTRODROP, curriculum_name, curriculum_strengths, flatten
from search.output.events import (
    Evaluation,
    Event,
    ModelsAllotted,
    PhaseBegan,
    SearchEnded,
    SearchStarted,
    SlotsChanged,
    TrialEnded,
    TrialEvent,
    TrialStarted,
)
from search.studies.pruners import PLATEAU

# Trials that a person sees the end of.
_LAST_TRIALS = 6
_STARTING, _PREPARING = "packages and Ray are being loaded", "data, entropies and slots are being prepared"
# What a page shows of the use of a node, and of a trial's own GPU.
_NODE_USE = {"CPU": "system/cpu_utilization_percentage", "memory": "system/system_memory_usage_percentage"}
_GPU_USE = {"GPU": "system/gpu_0_utilization_percentage", "memory": "system/gpu_0_memory_usage_percentage"}


@dataclass
class RunningTrial:
    """A trial at work.

    Attributes:
        tokens: trained so far, of `full_tokens` (0 if that is not known yet).
        strengths: of its curriculum over the run, each in [0, 1]; empty without one.
        losses: held-out, high-entropy, in nats; one for each evaluation so far.
        node: the name of the node that it trains on; empty before its first evaluation.
        gpu_use: of its own GPU at its last evaluation, in percent: GPU and memory, as far as they are known.
    """

    study: str
    number: int
    arm: str
    curriculum: str
    full_tokens: int
    tokens: int
    strengths: tuple[float, ...] = ()
    losses: list[float] = field(default_factory=list)
    tokens_per_s: float | None = None
    node: str = ""
    gpu_use: dict[str, float] = field(default_factory=dict)
    # Time and tokens at the first report: what came before includes the start of a slot.
    first: tuple[float, int] | None = None

    @property
    def label(self) -> str:
        """Its curriculum, with its arm where that says more."""
        plain = self.arm in (BASELINE, ENTRODROP) or not self.strengths
        return self.curriculum if plain else f"{self.arm} {self.curriculum}"


@dataclass
class StudyProgress:
    """The trials of one study.

    Attributes:
        planned: how many it will have.
        states: how many have ended, by state: complete, pruned, failed.
        objectives: of the trials whose objective is known, by arm and number, in nats: those that ran to their end, and
            those that stopped because their best evaluation lay behind them.
        general_losses: of these trials, by number, in nats, where the space constrains them.
        allowed: what they may be above the one without dropout, in nats.
        answers: whether objectives are shares of wrong answers.
        confirms: whether its trials repeat a few settings with other seeds.
        settings: of each trial that has begun, by number, without its seed.
    """

    planned: int
    states: dict[str, int] = field(default_factory=lambda: {"complete": 0, "pruned": 0, "failed": 0})
    objectives: dict[str, dict[int, float]] = field(default_factory=dict)
    general_losses: dict[int, float] = field(default_factory=dict)
    allowed: float | None = None
    answers: bool = False
    confirms: bool = False
    settings: dict[int, dict[str, Any]] = field(default_factory=dict)
    # Tokens that each ended trial trained, and all reports' seconds and tokens: how fast it goes.
    tokens: list[int] = field(default_factory=list)
    seconds_measured: float = 0.0
    tokens_measured: int = 0

    @property
    def ended(self) -> int:
        return sum(self.states.values())

    @property
    def best(self) -> tuple[float, int, str] | None:
        """The least objective, in nats, its trial and its arm; no dropout apart, and what breaks the constraint."""
        known = ((v, n, arm) for arm, values in self.objectives.items() if arm != BASELINE for n, v in values.items())
        return min(((value, number, arm) for value, number, arm in known if self._keeps(number)), default=None)

    @property
    def means(self) -> dict[str, tuple[float, int]]:
        """Of each arm the least mean objective over the seeds of one setting, in nats, and how many settings it has."""
        found: dict[str, tuple[float, int]] = {}
        for arm, values in self.objectives.items():
            by_setting: dict[str, list[float]] = {}
            for number, value in values.items():
                by_setting.setdefault(str(sorted(self.settings[number].items())), []).append(value)
            found[arm] = min(map(statistics.fmean, by_setting.values())), len(by_setting)
        return found

    def searched(self, number: int) -> dict[str, Any]:
        """The settings of a trial that other trials have otherwise; what its curriculum's name tells apart."""
        given = {name: value for name, value in self.settings[number].items() if not name.startswith("curriculum.")}
        others = self.settings.values()
        return {name: value for name, value in given.items() if any(one.get(name, value) != value for one in others)}

    def _keeps(self, number: int) -> bool:
        baseline = self.objectives.get(BASELINE)
        if self.allowed is None or not baseline:
            return True
        without = self.general_losses[min(baseline, key=lambda n: (baseline[n], n))]
        return self.general_losses[number] <= without + self.allowed

    @property
    def trial_seconds(self) -> float | None:
        """What an ended trial took, on average; None if that is not known."""
        if not self.tokens or not self.tokens_measured:
            return None
        return statistics.fmean(self.tokens) * self.seconds_measured / self.tokens_measured


class SearchProgress:
    """Args:
    planned: trials of each study.
    clock: seconds, as the events have them.
    """

    def __init__(self, planned: Mapping[str, int], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.studies = {study: StudyProgress(trials) for study, trials in planned.items()}
        self._running: dict[tuple[str, int], RunningTrial] = {}
        self._over: set[tuple[str, int]] = set()
        # Slots differ from one model to the next: what runs at the same time is counted for the study at hand.
        self._study, self._most_running = "", 1
        # What is done before the first evaluation, and the slots; the last few trials that have ended.
        self.phase, self.slots = _STARTING, 0
        self.ended_trials: deque[tuple[RunningTrial, TrialEnded]] = deque(maxlen=_LAST_TRIALS)
        # Seconds of the search's earlier parts, and of this one its first and last event.
        self.earlier_s = 0.0
        self._part = (math.nan, math.nan)
        # Seconds that the slots have worked, and since when.
        self._busy_s, self._busy_since = 0.0, math.inf
        self._node_use: dict[str, dict[str, float]] = {}

    @property
    def running(self) -> list[RunningTrial]:
        # A copy: the live table's own thread asks for it.
        return list(self._running.values())

    @property
    def nodes(self) -> dict[str, dict[str, float]]:
        """The use of each node that evaluated trials are running on, in percent: CPU and memory, at the last
        evaluation there."""
        return {trial.node: self._node_use[trial.node] for trial in self.running if trial.losses}

    def begin(self, planned: Mapping[str, int]) -> None:
        """The search begins, or goes on after an interruption, when nothing runs.

        Args:
            planned: trials of each study.
        """
        for name, trials in planned.items():
            self.studies.setdefault(name, StudyProgress(trials)).planned = trials
        self._running.clear()
        self._busy_s, self._busy_since = 0.0, math.inf

    def follow(self, event: Event) -> RunningTrial | None:
        """Takes in an event, which may be from an earlier part of the search. Returns the trial that it is about."""
        if isinstance(event, SearchStarted):
            self.begin(event.planned)
            for progress in self.studies.values():
                progress.answers = event.settings.get("objective") == "exact_match"
                progress.allowed = event.settings.get("constraints", {}).get("general_loss")
            self.earlier_s += self._part_s
            self._part = (event.time, event.time)
        self._part = (self._part[0], event.time)
        match event:
            case SearchStarted():
                self.phase = _PREPARING
            case PhaseBegan():
                self.phase = event.words
            case Evaluation() | SearchEnded():
                self.phase = ""
            case ModelsAllotted() | SlotsChanged():
                self.slots = event.slots
        if isinstance(event, SearchEnded) and event.status == "FINISHED":
            for study in self.studies.values():
                study.planned = study.ended
        if not isinstance(event, TrialEvent):
            return None
        key = event.study, event.trial
        match event:
            case TrialStarted():
                self._started(event)
            case Evaluation():
                self._evaluated(self._running[key], event)
            case TrialEnded():
                trial = self._running.pop(key)
                self._ended(trial, event)
                self.ended_trials.append((trial, event))
                return trial
        return self._running.get(key)

    def _started(self, event: TrialStarted) -> None:
        study = self.studies[event.study]
        study.planned, study.confirms = event.planned, event.stage == "confirmation"
        study.settings[event.trial] = {k: v for k, v in flatten(event.parameters).items() if k != "seed"}
        name, strengths = curriculum_name(event.arm, event.parameters), curriculum_strengths(event.parameters)
        if event.study != self._study and not self._running:
            # A confirmation may have ended with fewer runs than it could have had.
            if (over := self.studies.get(self._study)) is not None:
                over.planned = over.ended
            self._study, self._most_running = event.study, 1
            self._busy_s, self._busy_since = 0.0, math.inf
        trial = RunningTrial(event.study, event.trial, event.arm, name, event.full_tokens, event.tokens, strengths)
        self._running[event.study, event.trial] = trial
        self._most_running = max(self._most_running, len(self._running))

    def _evaluated(self, trial: RunningTrial, event: Evaluation) -> None:
        seconds = event.metrics.get("seconds", 0.0)
        trial.tokens, trial.full_tokens = event.tokens, event.full_tokens or trial.full_tokens
        trial.tokens_per_s = event.metrics.get("tokens_per_s")
        trial.node = event.node
        trial.gpu_use = {words: event.metrics[name] for words, name in _GPU_USE.items() if name in event.metrics}
        self._node_use[event.node] = {w: event.metrics[name] for w, name in _NODE_USE.items() if name in event.metrics}
        trial.losses.append(event.metrics["high_entropy_loss"])
        trial.first = trial.first or (event.time, trial.tokens)
        self._busy_s += seconds
        self._busy_since = min(self._busy_since, event.time - seconds)

    def _ended(self, trial: RunningTrial, event: TrialEnded) -> None:
        study, objective = self.studies[trial.study], event.objective
        # A driver that is killed may have told the end of a trial that then goes on, and ends again.
        if (trial.study, trial.number) not in self._over:
            self._over.add((trial.study, trial.number))
            study.states[event.state] += 1
        if trial.first is not None:
            study.tokens.append(trial.tokens)
            study.seconds_measured += event.time - trial.first[0]
            study.tokens_measured += trial.tokens - trial.first[1]
        if objective is not None and (event.state == "complete" or event.reason == PLATEAU):
            study.objectives.setdefault(trial.arm, {})[trial.number] = objective
            if (general := event.metrics.get("objective.general_loss")) is not None:
                study.general_losses[trial.number] = general

    @property
    def _part_s(self) -> float:
        began, last = self._part
        return last - began if math.isfinite(began) else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the search so far, its earlier parts included."""
        began = self._part[0]
        return self.earlier_s + (max(0.0, self._clock() - began) if math.isfinite(began) else 0.0)

    def time_left(self) -> float | None:
        """Seconds that the trials still to run will take, going by the ended ones; None before the first."""
        known = [seconds for study in self.studies.values() if (seconds := study.trial_seconds) is not None]
        if not known:
            return None
        running = self.running
        work, trials = 0.0, 0
        for name, study in self.studies.items():
            each = study.trial_seconds or statistics.fmean(known)
            shares = [t.tokens / t.full_tokens for t in running if t.study == name and t.full_tokens]
            work += each * max(0.0, study.planned - study.ended - sum(shares))
            trials += max(0, study.planned - study.ended)
        return work / max(1, min(self._most_running, trials))

    def busy(self) -> float | None:
        """The share of the slots' time, since the first report, in which they trained or evaluated; None before."""
        elapsed = self._clock() - self._busy_since
        return min(1.0, self._busy_s / (elapsed * self._most_running)) if elapsed > 0 else None
