"""Settings that may be tried next, and the numbers by which a Gaussian process compares them.

Shapes: N settings, D numbers of each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FixedTrial, FrozenTrial

_SPREAD, _CLOSE = 512, 16
# Of what is close, as a share of each range.
_DISTANCE = 0.1

# Suggests a trial's settings, and gives them as numbers, always as many; trials with similar numbers come out alike.
Define = Callable[[optuna.trial.BaseTrial], Sequence[float]]


class Encoded(NamedTuple):
    params: dict[str, Any]
    numbers: Sequence[float]


class Candidates:
    """Settings of one arm.

    Args:
        choices: on which other settings depend.
    """

    def __init__(self, define: Define, choices: Sequence[Mapping[str, Any]], seed: int) -> None:
        self._define, self._choices, self._seed = define, choices, seed

    @cached_property
    def spread(self) -> list[Encoded]:
        """Settings that are spread evenly, as any first few of them are."""
        # It takes a second to load.
        from scipy.stats import qmc

        _, distributions = all_dimensions(self._define, self._choices)
        points = qmc.Sobol(len(distributions), rng=self._seed).random(_SPREAD)
        return [
            self._encoded(
                {name: pick_at(of, share) for (name, of), share in zip(distributions.items(), point, strict=True)}
            )
            for point in points
        ]

    def close_to(self, trials: Sequence[FrozenTrial], generator: np.random.Generator) -> Iterator[Encoded]:
        """Settings close to those of the trials, with the same choices."""
        for trial in trials:
            ranges = {name: of for name, of in trial.distributions.items() if isinstance(of, FloatDistribution)}
            for _ in range(_CLOSE):
                moved = {
                    name: pick_at(of, _share(of, trial.params[name]) + generator.normal(0, _DISTANCE))
                    for name, of in ranges.items()
                }
                yield self._encoded(trial.params | moved)

    def scaled(self, numbers_ND: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """Numbers from 0 to 1 in place of those of the settings."""
        low_D, range_D = self._scale
        return (np.reshape(numbers_ND, (-1, len(low_D))) - low_D) / range_D

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        numbers_ND = np.array([candidate.numbers for candidate in self.spread])
        range_D = np.ptp(numbers_ND, axis=0)
        return numbers_ND.min(axis=0), np.where(range_D > 0, range_D, 1.0)

    def _encoded(self, params: dict[str, Any]) -> Encoded:
        trial = FixedTrial(params)
        numbers = self._define(trial)
        # Without what belongs to other choices.
        return Encoded(trial.params, numbers)


def all_dimensions(
    define: Define, choices: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Settings of all choices at once, and what they may be."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for choice in choices:
        study.enqueue_trial(dict(choice))
        trial = study.ask()
        define(trial)
        params |= trial.params
        distributions |= trial.distributions
    return params, distributions


def pick_at(of: BaseDistribution, share: float) -> Any:
    """The value at a share of a range, or of the choices."""
    share = min(max(share, 0.0), 1.0)
    if isinstance(of, CategoricalDistribution):
        return of.choices[min(int(share * len(of.choices)), len(of.choices) - 1)]
    assert isinstance(of, FloatDistribution)
    return round_to_matter(of.low * (of.high / of.low) ** share if of.log else of.low + share * (of.high - of.low), of)


def round_to_matter(value: Any, of: BaseDistribution) -> Any:
    """A suggested value with the digits that matter: the first four of the range's width, or of a logarithmic range's
    value. People read it in files and tables, and copy it."""
    if not isinstance(of, FloatDistribution) or of.low == of.high:
        return value
    first = math.floor(math.log10(value if of.log else of.high - of.low))
    return min(max(round(value, 3 - first), of.low), of.high)


def _share(of: FloatDistribution, value: float) -> float:
    """The inverse, of a range."""
    return math.log(value / of.low, of.high / of.low) if of.log else (value - of.low) / (of.high - of.low)
