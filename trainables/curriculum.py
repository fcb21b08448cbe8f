"""Curricula: how strongly tokens are dropped as a function of training progress.

A curriculum is a frozen dataclass that is called with progress u in [0, 1] and returns a strength c(u) in [0, 1], not
decreasing in u. The rate at which a low-entropy token is dropped is mask_ratio * c(u) (arXiv 2512.23422).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True)
class Constant:
    """c(u) = 1."""

    def __call__(self, u: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """c(u) = u / until, and 1 from progress `until` on; `until` in (0, 1]."""

    until: float = 1.0

    def __call__(self, u: float) -> float:
        return min(1.0, u / self.until)


@dataclass(frozen=True)
class Cosine:
    """c(u) = (1 - cos(pi u)) / 2."""

    def __call__(self, u: float) -> float:
        return (1.0 - math.cos(math.pi * u)) / 2.0


@dataclass(frozen=True)
class Sigmoid:
    """Logistic rise around `midpoint` (in progress), rescaled so that c(0) = 0 and c(1) = 1; `steepness` > 0."""

    midpoint: float
    steepness: float

    def __call__(self, u: float) -> float:
        start, end = self._rise(0.0), self._rise(1.0)
        if u >= 1.0:
            return 1.0
        return (self._rise(u) - start) / (end - start)

    def _rise(self, u: float) -> float:
        # The logistic function is (1 + tanh) / 2: tanh alone does not overflow as exp does, and adding 1 would lose a
        # rise that is less than a rounding error.
        return math.tanh(self.steepness * (u - self.midpoint) / 2.0)


@dataclass(frozen=True)
class Step:
    """c(u) = 0 before progress `at`, 1 from there on."""

    at: float

    def __call__(self, u: float) -> float:
        return 1.0 if u >= self.at else 0.0


@dataclass(frozen=True)
class Spline:
    """Monotone cubic spline (PCHIP; Fritsch and Butland 1984) from c(0) = 0 to c(1) = 1 over evenly spaced knots.

    `rises`: for k knots between 0 and 1, the k + 1 rises between neighbours, each at least 0, in any unit: they are
    rescaled to sum to 1. Without any rise the curriculum is linear.
    """

    rises: tuple[float, ...]

    def __post_init__(self) -> None:
        # A list, as JSON and YAML give it, could be neither compared nor hashed.
        object.__setattr__(self, "rises", tuple(self.rises))

    def __call__(self, u: float) -> float:
        return 1.0 if u >= 1.0 else min(1.0, max(0.0, float(_interpolator(self.rises)(u))))


@cache
def _interpolator(rises: tuple[float, ...]) -> "PchipInterpolator":
    # Importing it takes a while, also where settings are only handed on.
    from scipy.interpolate import PchipInterpolator

    if sum(rises) == 0:
        rises = (1.0,) * len(rises)
    heights = [sum(rises[:i]) / sum(rises) for i in range(len(rises) + 1)]
    return PchipInterpolator([i / len(rises) for i in range(len(rises) + 1)], heights)


Curriculum = Constant | Linear | Cosine | Sigmoid | Step | Spline

SHAPES: Mapping[str, Callable[..., Curriculum]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "step": Step,
    "spline": Spline,
}


def curriculum_from(spec: Mapping[str, Any]) -> Curriculum:
    """The curriculum that a mapping such as {"shape": "step", "at": 0.5} describes.

    Raises:
        KeyError: an unknown shape.
        TypeError: a parameter that the shape does not have, or one that is missing.
    """
    parameters = {name: value for name, value in spec.items() if name != "shape"}
    return SHAPES[spec["shape"]](**parameters)


def curriculum_spec(curriculum: Curriculum) -> dict[str, Any]:
    """The inverse of `curriculum_from`; {"shape": "linear"} rises to the end."""
    shape = next(name for name, kind in SHAPES.items() if kind is type(curriculum))
    return {"shape": shape} if curriculum == Linear() else {"shape": shape, **asdict(curriculum)}
