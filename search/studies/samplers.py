"""What to try next: Optuna's samplers, shown one arm's trials as they are to be learned from.

The study keeps true states; a sampler can do more with less. It sees the trials of one arm only. A trial that stopped
because it improved no more has its objective, and so is complete. A failed trial is one that violates a constraint: its
region is avoided, and so is that of trials that cost more than the space allows. Of several objectives it sees all.
What it sees does not depend on the order in which trials ended.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

# Above 0 a constraint is violated.
_RUNS, _FAILS = -1.0, 1.0
_FAILURE, _EXCESS = "fails", "excess"
# Optuna's samplers take it for the worst value among the others, whichever that is in the end.
_WORST = math.inf


class ArmSampler:
    """The sampler of one arm.

    Args:
        name: tpe, gp, random or qmc.
        startup_trials: random trials before tpe and gp learn.
        seed: with a trial's number, it fixes the draws, so that a resumed search goes on as the uninterrupted one.
        define: suggests a trial's settings.
        choices: of the curriculum's shape, on which other settings depend.
        objectives: how many values a trial has.
        constrained: whether trials have an excess, above 0 where they cost more than is allowed.
    """

    def __init__(
        self,
        name: str,
        startup_trials: int,
        seed: int,
        define: Callable[[optuna.Trial], object],
        choices: Sequence[Mapping[str, Any]] = ({},),
        objectives: int = 1,
        constrained: bool = False,
    ) -> None:
        self._name, self._startup_trials, self._seed, self._define = name, startup_trials, seed, define
        self._objectives, self._constrained = objectives, constrained
        self._shown = optuna.create_study(directions=["minimize"] * objectives)
        self._running: dict[int, optuna.Trial] = {}
        self._sampler = {"tpe": self._tpe, "gp": self._gp, "random": self._random, "qmc": self._qmc}[name]
        if name == "qmc":
            # Its points have the dimensions of the first trial: one with all of them.
            self._shown.add_trial(_with_all_dimensions(define, choices, objectives))
            self._points = optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            self._shown.sampler = self._points

    def suggest(self, number: int, guess: Mapping[str, Any] | None = None) -> FrozenTrial:
        """A trial with settings for the trial `number` of the study, by the names that `define` gives them.

        Args:
            guess: settings that are given; what is missing is random.
        """
        sampler = self._sampler
        if guess is not None and self._name == "qmc":
            # A given trial takes a point of the sequence as well: a resumed search gives all its trials again.
            self._shown.tell(self._defined(), state=TrialState.FAIL)
        elif guess is not None:
            # No model is fitted only to be overruled.
            sampler = self._random
        self._shown.sampler = sampler(self._seed + len(self._shown.get_trials(deepcopy=False)))
        if guess is not None:
            self._shown.enqueue_trial(dict(guess))
        trial = self._defined()
        self._running[number] = trial
        return self._shown.get_trials(deepcopy=False)[trial.number]

    def _defined(self) -> optuna.Trial:
        trial = self._shown.ask()
        with warnings.catch_warnings():
            # gp says that it clips the worst value, and divides by zero where it finds no better place.
            warnings.simplefilter("ignore")
            self._define(trial)
        return trial

    def learn(
        self,
        number: int,
        values: Sequence[float],
        intermediate: Mapping[int, float] | None = None,
        excess: float = 0.0,
    ) -> None:
        """The trial ended with these values; with `intermediate`, it was stopped before they were its own."""
        trial = self._ended(number, _RUNS, excess)
        if intermediate is None or self._objectives > 1:
            self._shown.tell(trial, list(values))
        elif self._name == "gp":
            # It overlooks pruned trials, and would suggest the same again and again.
            self._shown.tell(trial, _WORST)
        else:
            trial.report(values[0], max(intermediate))
            self._shown.tell(trial, state=TrialState.PRUNED)

    def learn_failure(self, number: int) -> None:
        """The trial failed."""
        self._shown.tell(self._ended(number, _FAILS, 0.0), [_WORST] * self._objectives)

    def _ended(self, number: int, failure: float, excess: float) -> optuna.Trial:
        trial = self._running.pop(number)
        trial.set_constraint(_FAILURE, failure)
        if self._constrained:
            trial.set_constraint(_EXCESS, excess)
        return trial

    def _tpe(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=self._startup_trials,
            multivariate=True,
            # Groups let a curriculum's own parameters be modelled among the trials that have that shape.
            group=True,
            constant_liar=True,
        )

    def _gp(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self._startup_trials)

    def _random(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)

    def _qmc(self, seed: int) -> optuna.samplers.BaseSampler:
        # One sequence for all trials; the study counts its points.
        return self._points


def _with_all_dimensions(
    define: Callable[[optuna.Trial], object], choices: Sequence[Mapping[str, Any]], objectives: int
) -> FrozenTrial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    parameters: dict[str, Any] = {}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for choice in choices:
        study.enqueue_trial(dict(choice))
        trial = study.ask()
        define(trial)
        parameters |= trial.params
        distributions |= trial.distributions
    return optuna.trial.create_trial(params=parameters, distributions=distributions, values=[0.0] * objectives)
