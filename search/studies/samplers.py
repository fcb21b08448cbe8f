"""What to try next: Optuna's samplers and a Gaussian process, shown one arm's trials as they are to be learned from.

The study keeps true states; a sampler can do more with less. It sees the trials of one arm only. A trial that stopped
because it improved no more has its objective, and so is complete. A failed trial is one that violates a constraint: its
region is avoided, and so is that of trials that cost more than the space allows. Of several objectives it sees all.
What it sees does not depend on the order in which trials ended.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.studies.candidates import Candidates, Define, all_dimensions, round_to_matter
from search.studies.gaussian_process import expected_improvement, scalarise

# Above 0 a constraint is violated.
_RUNS, _FAILS = -1.0, 1.0
_FAILURE, _EXCESS = "fails", "excess"
# Optuna's samplers take it for the worst value among the others, whichever that is in the end.
_WORST = math.inf
# Of so many trials gp looks for better ones in the neighbourhood.
_BEST = 3
# With more ended trials tpe suggests in place of gp, whose time grows with their cube.
_MANY = 100


class _Readable(optuna.samplers.BaseSampler):
    """What `sampler` suggests, in no more digits than matter."""

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = self._sampler.sample_relative(study, trial, search_space)
        return {name: round_to_matter(value, search_space[name]) for name, value in values.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return round_to_matter(value, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)


class ArmSampler:
    """The sampler of one arm.

    Args:
        name: tpe, gp, random or qmc.
        startup_trials: random trials before tpe learns; gp learns from the first one on.
        seed: with a trial's number, it fixes the draws, so that a resumed search goes on as the uninterrupted one.
        define: suggests a trial's settings, and gives them as numbers; trials with similar numbers come out alike.
        choices: of the curriculum's shape, on which other settings depend.
        objectives: how many values a trial has.
        constrained: whether trials have an excess, above 0 where they cost more than is allowed.
    """

    def __init__(
        self,
        name: str,
        startup_trials: int,
        seed: int,
        define: Define,
        choices: Sequence[Mapping[str, Any]] = ({},),
        objectives: int = 1,
        constrained: bool = False,
    ) -> None:
        self._name, self._startup_trials, self._seed, self._define = name, startup_trials, seed, define
        self._objectives, self._constrained = objectives, constrained
        self._candidates = Candidates(define, choices, seed)
        self._shown = optuna.create_study(directions=["minimize"] * objectives)
        self._running: dict[int, optuna.Trial] = {}
        self._numbers: dict[int, Sequence[float]] = {}
        self._sampler = {"tpe": self._tpe, "gp": self._tpe, "random": self._random, "qmc": self._qmc}[name]
        if name == "qmc":
            # Its points have the dimensions of the first trial: one with all of them.
            params, distributions = all_dimensions(define, choices)
            values = [0.0] * objectives
            self._shown.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, values=values))
            self._points = optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            self._shown.sampler = _Readable(self._points)

    def suggest(self, number: int, guess: Mapping[str, Any] | None = None) -> FrozenTrial:
        """A trial with settings for the trial `number` of the study, by the names that `define` gives them.

        Args:
            guess: settings that are given; what is missing is random.
        """
        sampler, seed = self._sampler, self._seed + len(self._shown.get_trials(deepcopy=False))
        if guess is not None and self._name == "qmc":
            # A given trial takes a point of the sequence as well: a resumed search gives all its trials again.
            self._shown.tell(self._ask(), state=TrialState.FAIL)
        elif guess is not None:
            # No model is fitted only to be overruled.
            sampler = self._random
        elif self._name == "gp":
            guess = self._most_promising(seed)
        self._shown.sampler = _Readable(sampler(seed))
        if guess is not None:
            self._shown.enqueue_trial(dict(guess))
        trial = self._ask()
        self._running[number] = trial
        return self._shown.get_trials(deepcopy=False)[trial.number]

    def _ask(self) -> optuna.Trial:
        trial = self._shown.ask()
        self._numbers[trial.number] = self._define(trial)
        return trial

    def _most_promising(self, seed: int) -> Mapping[str, Any] | None:
        """The settings with the greatest expected improvement; None where there is more to learn from than a Gaussian
        process can."""
        trials = self._shown.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished()]
        pending = [trial for trial in trials if not trial.state.is_finished()]
        if len(ended) > _MANY:
            return None
        fails_N = np.array([max(trial.constraints.values()) > 0 for trial in ended], dtype=bool)
        if fails_N.all():
            # They are evenly spread from the first one on.
            return self._candidates.spread[len(trials) % len(self._candidates.spread)].params
        value_NK = np.array([trial.values for trial in ended])
        value_NK[fails_N] = value_NK[~fails_N].max(axis=0)
        # A stopped trial is not among the good ones, whatever it had reached by then.
        stopped_N = np.array([trial.state == TrialState.PRUNED for trial in ended])
        value_NK[stopped_N] = np.maximum(value_NK[stopped_N], np.median(value_NK, axis=0))
        generator = np.random.default_rng(seed)
        value_N = scalarise(value_NK, generator)
        best = [ended[index] for index in np.argsort(value_N, kind="stable") if not fails_N[index]][:_BEST]
        candidates = [*self._candidates.spread, *self._candidates.close_to(best, generator)]
        tried = [trial.params for trial in trials]
        candidates = [candidate for candidate in candidates if candidate.params not in tried] or candidates
        improvement_C = expected_improvement(
            self._candidates.scaled([self._numbers[trial.number] for trial in ended]),
            value_N,
            self._candidates.scaled([self._numbers[trial.number] for trial in pending]),
            self._candidates.scaled([candidate.numbers for candidate in candidates]),
        )
        return candidates[int(improvement_C.argmax())].params

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

    def _random(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)

    def _qmc(self, seed: int) -> optuna.samplers.BaseSampler:
        # One sequence for all trials; the study counts its points.
        return self._points
