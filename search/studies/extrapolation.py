"""A pruner that extrapolates learning curves: it stops a trial that will hardly come out below the best one.

Shapes: N finished trials, F features of a curve so far.
"""

import math
from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy import stats

from search.studies.ledger import losses_of, objective_value
from search.studies.stopping import is_known, losses_up_to, of_the_same_arm

Array = NDArray[np.float64]

# With fewer the interval of a prediction is too wide to say anything.
_FEWEST_DEGREES = 2


class CurvePruner(optuna.pruners.BasePruner):
    """Predicts a trial's objective at its end from its losses so far, by linear regression over the trials of its arm
    whose objective is known (Baker et al., arXiv 1705.10823).

    Args:
        first: share of the budget before which no trial is stopped.
        chance: a trial is stopped if its probability of coming out below the best known one is less.
    """

    def __init__(self, first: float, chance: float, full_tokens: int, objective: str) -> None:
        self._first_tokens, self._chance, self._objective = first * full_tokens, chance, objective

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        tokens = max(trial.intermediate_values)
        ended = [t for t in of_the_same_arm(study, trial) if is_known(t) and max(t.intermediate_values) >= tokens]
        if tokens < self._first_tokens or not ended:
            return False
        feature_NF = np.array([self._features(losses_up_to(other, tokens)) for other in ended])
        end_N = np.array([objective_value(self._objective, losses_of(other)) for other in ended])
        return chance_below(end_N.min(), feature_NF, end_N, self._features(losses_of(trial))) < self._chance

    def _features(self, losses: Sequence[float]) -> Array:
        change = losses[-1] - losses[-2] if len(losses) > 1 else 0.0
        return np.array([1.0, objective_value(self._objective, losses), losses[-1], change])


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
    return float(stats.t.cdf(-above / spread, degrees)) if spread > 0 else float(above < 0)
