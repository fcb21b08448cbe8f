"""When a trial ends before its budget: it improves no more, or it will not win.

Both look at the objective, as far as it is known at the trial's last evaluation, and compare trials at the same tokens
only.
"""

import math
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.studies.ledger import hashed, objective_value

PLATEAU = "no improvement any more"
LOSING = "will not win"


def plateaued(losses: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` losses is below all that came before."""
    return len(losses) > patience and min(losses[:-patience]) <= min(losses[-patience:])


def is_known(trial: FrozenTrial) -> bool:
    """Whether the trial's objective is known: it ran to its end, or it stopped with its best evaluation behind it."""
    return trial.state == TrialState.COMPLETE or trial.user_attrs.get("reason") == PLATEAU


def rungs(first: float, factor: int, full_tokens: int) -> list[int]:
    """Tokens of each rung: `first` of the budget, then `factor` times as many, below the budget."""
    found = []
    rung = first * full_tokens
    while rung < full_tokens:
        found.append(math.ceil(rung))
        rung *= factor
    return found


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
        own = value_at(trial, rung, self._objective)
        others = [value_at(other, rung, self._objective) for other in of_the_same_arm(study, trial)]
        better = sum(value < own for value in others if value is not None and own is not None)
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


def audited(share: float, seed: int, study: str, number: int) -> bool:
    """Whether a trial belongs to the share that runs on although it would be stopped: drawn by its number alone."""
    return hashed("audit", seed, study, number) < share * 2**32
