"""When a confirmation has seeds enough: looks at its runs between rounds of seeds, with one error for all of them.

Information is one over the variance of the difference (nats**-2). How much of the error a look may spend goes by the
share of the information that there can be (Lan and DeMets 1983, Biometrika 70:659), so that a look at what further
seeds can hardly change spends nearly all of it, and costs nothing.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

# A look that stops would have been followed by a decision less often than this.
_FUTILE = 0.1
# Share of the information above which further seeds cannot narrow the interval by a twentieth.
ENOUGH = 0.9
# Nothing is decided at a smaller level before the last look: the resamples cannot tell its quantile.
LEAST_LEVEL = 0.002
# Standard errors that no look goes beyond.
_FARTHEST = 8.0
_POINTS = 101
# Share of the error that is left unspent where all is still to come: with few runs, Student's t at one look is less
# like that at the next than the normal process that levels are solved for (5.8 % instead of 5; LOG.md, 2026-11-29).
_LESS_ALIKE = 0.25


def spent(fraction: float, error: float) -> float:
    """The error that may be spent up to this share of the information (Kim and DeMets 1987, power family, rho 1)."""
    return error * min(1.0, fraction)


@cache
def level_of_last_look(fractions: tuple[float, ...], error: float) -> float:
    """The level of the last of these looks: the error, two-sided, of its interval by itself.

    Whatever looks follow, the intervals of all looks together miss the true difference with the chance `error` at most,
    if fractions end at 1. Solved by integration over the looks before it (Armitage, McPherson and Rowe 1969).

    Args:
        fractions: of the information at each look so far, rising.
    """
    density, points, before, used, level = np.ones(1), np.zeros(1), 0.0, 0.0, error
    for fraction in fractions:
        step, root = math.sqrt(fraction - before), math.sqrt(fraction)
        may = spent(fraction, error) - used

        low, high = 0.0, _FARTHEST
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if _integrate(middle * root, points, density, step) > may else (low, middle)
        level, used = 2 * float(ndtr(-high)), used + _integrate(high * root, points, density, step)
        edges, weights = np.polynomial.legendre.leggauss(_POINTS)
        inside = high * root * edges
        moved = np.exp(-(((inside[:, None] - points) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        density, points, before = (moved @ density) * weights * high * root, inside, fraction
    return level


def _integrate(bound: float, points: Array, density: Array, step: float) -> float:
    """The chance that a process which stands at the points leaves [-bound, bound] in a step of this deviation."""
    return float(density @ (ndtr((points - bound) / step) + ndtr((-bound - points) / step)))


def is_futile(difference: float, variance: float, least_variance: float, level: float) -> bool:
    """Whether all seeds that there may be would hardly tell the difference from zero, going by what is seen so far.

    Args:
        difference: seen, in nats.
        variance, least_variance: of it, now and with all seeds.
        level: two-sided, of the last interval.
    """
    room = math.sqrt(max(0.0, variance - least_variance))
    bound = -float(ndtri(level / 2)) * math.sqrt(least_variance)
    return abs(difference) + -float(ndtri(_FUTILE)) * room < bound


def fraction_of(share: float) -> float:
    """The share of the information that there can be: 1 where further seeds would change little.

    Args:
        share: the difference's variance with all seeds, of what it is now.
    """
    return 1.0 if share >= ENOUGH else share


def level_of_look(fractions: Sequence[float], error: float) -> float:
    """The level of the last of these looks, whose estimates of the information may fall from one to the next."""
    rising: list[float] = []
    for fraction in fractions:
        # Thousandths: the same looks need not be solved for again.
        rising.append(min(1.0, max(round(fraction, 3), rising[-1] + 0.001 if rising else 0.001)))
    return level_of_last_look(tuple(rising), error * (1 - _LESS_ALIKE * (1 - rising[0])))
