"""When a trial ends before its budget: it improves no more, or it will not win.

Both look at the objective, as far as it is known at the trial's last evaluation, and compare trials at the same tokens
only.

Shapes: N finished trials, F features of a curve so far.
"""

import bisect
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy import special

from search.studies.study import hash_to_int, losses_of, objective_value, reason_of

# Codes, as the study keeps them; study.py has the words.
PLATEAU, LOSING = "plateau", "losing"

Array = NDArray[np.float64]

# With fewer the interval of a prediction is too wide to say anything.
_FEWEST_DEGREES = 2
_FEATURES = 4
# The feature that is the objective so far.
_SO_FAR = 1
# No stop was wrong with these in 50 searches each of 16, 32 and 64 trials (LOG.md, 2026-11-29).
_FEWEST_COMEBACKS, _MARGIN, _MARGIN_OF_ONE = 5, 0.2, 4.0


def has_plateaued(losses: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` losses is below all that came before."""
    return len(losses) > patience and min(losses[:-patience]) <= min(losses[-patience:])


def is_known(trial: FrozenTrial) -> bool:
    """Whether the trial's objective is known: it ran to its end, or it stopped with its best evaluation behind it."""
    return trial.state == TrialState.COMPLETE or reason_of(trial) == PLATEAU


def rungs(first: float, factor: int, full_tokens: int) -> list[int]:
    """Tokens of each rung: `first` of the budget, then `factor` times as many, below the budget."""
    rungs_so_far = []
    rung = first * full_tokens
    while rung < full_tokens:
        rungs_so_far.append(math.ceil(rung))
        rung *= factor
    return rungs_so_far


def value_at(trial: FrozenTrial, tokens: int, objective: str) -> float | None:
    """The trial's objective at its first evaluation from `tokens` on, in nats; None if it has not come there."""
    if max(trial.intermediate_values, default=0) < tokens:
        return None
    return objective_value(objective, losses_up_to(trial, tokens))


def losses_up_to(trial: FrozenTrial, tokens: int) -> list[float]:
    """The trial's losses up to its first evaluation from `tokens` on, in nats."""
    steps = sorted(trial.intermediate_values)
    return [trial.intermediate_values[step] for step in steps[: 1 + sum(step < tokens for step in steps)]]


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving (arXiv 1810.05934) on the objective so far: at each rung a trial goes on if it is
    among the best 1 / `factor` of its arm's trials that have come there.

    Optuna's own SuccessiveHalvingPruner compares the last loss, which falls and then rebounds, and trials of all arms.
    """

    def __init__(self, first: float, factor: int, full_tokens: int, objective: str) -> None:
        self._rungs, self._factor, self._objective = rungs(first, factor, full_tokens), factor, objective

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        steps = sorted(trial.intermediate_values)
        before = steps[-2] if len(steps) > 1 else 0
        crossed = [rung for rung in self._rungs if before < rung <= steps[-1]]
        return bool(crossed) and not self._is_among_the_best(study, trial, crossed[-1])

    def _is_among_the_best(self, study: optuna.Study, trial: FrozenTrial, rung: int) -> bool:
        own_value = value_at(trial, rung, self._objective)
        others = [value_at(other, rung, self._objective) for other in of_the_same_arm(study, trial)]
        better = sum(value < own_value for value in others if value is not None and own_value is not None)
        there = 1 + sum(value is not None for value in others)
        return better < math.ceil(there / self._factor)


def of_the_same_arm(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """The other trials of the trial's arm that have not failed."""
    return [
        other
        for other in study.get_trials(deepcopy=False)
        if other.number != trial.number
        and other.state not in (TrialState.FAIL, TrialState.WAITING)
        and other.user_attrs.get("arm") == trial.user_attrs.get("arm")
    ]


def is_audited(share: float, seed: int, study: str, number: int) -> bool:
    """Whether a trial belongs to the share that runs on although it would be stopped: drawn by its number alone."""
    return hash_to_int("audit", seed, study, number) < share * 2**32


@dataclass
class _Ended:
    """Trials of an arm whose objective is known, at so many tokens, in the order of their numbers.

    Attributes:
        looked_at: of the known ones, in the order in which they became known.
    """

    numbers: list[int]
    feature_NF: Array
    end_N: Array
    looked_at: int = 0

    def add(self, number: int, feature_F: Array, end: float) -> None:
        at = bisect.bisect(self.numbers, number)
        self.numbers.insert(at, number)
        self.feature_NF = np.insert(self.feature_NF, at, feature_F, axis=0)
        self.end_N = np.insert(self.end_N, at, end)


class HistoryPruner(optuna.pruners.BasePruner):
    """Holds a trial against those of its arm whose objective is known, at the same tokens.

    It is for one study, and remembers what it has seen of trials that have ended: they do not change.

    Args:
        first: share of the budget before which no trial is stopped.
    """

    def __init__(self, first: float, full_tokens: int, objective: str) -> None:
        self._first_tokens, self._objective = first * full_tokens, objective
        self._seen = 0
        self._running: list[int] = []
        self._known: dict[str, list[FrozenTrial]] = defaultdict(list)
        self._ended: dict[tuple[str, int], _Ended] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        tokens = max(trial.intermediate_values)
        if tokens < self._first_tokens:
            return False
        self._look(study)
        ended = self._ended_at(trial.user_attrs["arm"], tokens)
        return bool(ended.numbers) and self._is_lost(ended, losses_of(trial))

    @abstractmethod
    def _is_lost(self, ended: _Ended, losses: Sequence[float]) -> bool:
        """Whether a trial with these losses so far is to be stopped."""

    def _look(self, study: optuna.Study) -> None:
        """Finds the trials whose objective has become known."""
        trials = study.get_trials(deepcopy=False)
        unsettled = [trials[number] for number in (*self._running, *range(self._seen, len(trials)))]
        for trial in unsettled:
            if is_known(trial):
                self._known[trial.user_attrs["arm"]].append(trial)
        self._running = [t.number for t in unsettled if not (is_known(t) or t.state.is_finished())]
        self._seen = len(trials)

    def _ended_at(self, arm: str, tokens: int) -> _Ended:
        ended = self._ended.setdefault((arm, tokens), _Ended([], np.empty((0, _FEATURES)), np.empty(0)))
        for trial in self._known[arm][ended.looked_at :]:
            if max(trial.intermediate_values) >= tokens:
                feature_F = self._features(losses_up_to(trial, tokens))
                ended.add(trial.number, feature_F, objective_value(self._objective, losses_of(trial)))
        ended.looked_at = len(self._known[arm])
        return ended

    def _features(self, losses: Sequence[float]) -> Array:
        change = losses[-1] - losses[-2] if len(losses) > 1 else 0.0
        return np.array([1.0, objective_value(self._objective, losses), losses[-1], change])


class CurvePruner(HistoryPruner):
    """Predicts a trial's objective at its end from its losses so far, by linear regression over the trials of its arm
    whose objective is known (Baker et al., arXiv 1705.10823).

    Args:
        chance: a trial is stopped if its probability of coming out below the best known one is less.
    """

    def __init__(self, first: float, chance: float, full_tokens: int, objective: str) -> None:
        super().__init__(first, full_tokens, objective)
        self._chance = chance

    def _is_lost(self, ended: _Ended, losses: Sequence[float]) -> bool:
        chance = chance_below(ended.end_N.min(), ended.feature_NF, ended.end_N, self._features(losses))
        return chance < self._chance


class ComebackPruner(HistoryPruner):
    """Stops a trial that the largest comeback of its arm's trials so far, with a margin, would not bring to the best.

    A comeback is what the objective falls by from here to the end. Where dropout costs first and pays later, it is the
    winners that come back furthest: a prediction errs on them, this waits for them.
    """

    def _is_lost(self, ended: _Ended, losses: Sequence[float]) -> bool:
        now = objective_value(self._objective, losses)
        return beyond_comebacks(now, ended.end_N.min(), ended.feature_NF[:, _SO_FAR] - ended.end_N)


def beyond_comebacks(now: float, best: float, comeback_N: Array) -> bool:
    """Whether an objective of `now` would stay above `best` after the largest of these comebacks and a margin, which is
    a share of their range: the fewer have been seen, the further the next one may lie beyond them. All in nats."""
    if len(comeback_N) < _FEWEST_COMEBACKS:
        return False
    margin = (_MARGIN + _MARGIN_OF_ONE / len(comeback_N)) * (comeback_N.max() - comeback_N.min())
    return bool(now - comeback_N.max() - margin > best)


def chance_below(bound: float, feature_NF: Array, end_N: Array, feature_F: Array) -> float:
    """The probability that what has the features `feature_F` ends below `bound`: Student's t about the least-squares
    prediction. 1 if there are too few trials to tell."""
    coefficient_F, _, rank, _ = np.linalg.lstsq(feature_NF, end_N, rcond=None)
    degrees = len(end_N) - int(rank)
    if degrees < _FEWEST_DEGREES:
        return 1.0
    variance = float(((end_N - feature_NF @ coefficient_F) ** 2).sum()) / degrees
    leverage = float(feature_F @ np.linalg.pinv(feature_NF.T @ feature_NF) @ feature_F)
    spread = math.sqrt(variance * (1 + leverage))
    above = float(feature_F @ coefficient_F) - bound
    return float(special.stdtr(degrees, -above / spread)) if spread > 0 else float(above < 0)
