"""Curricula as a person reads them."""

from collections.abc import Mapping
from typing import Any

from search.arms import BASELINE
from trainables.curriculum import curriculum_from

_POINTS = 16


def curriculum_name(arm: str, parameters: Mapping[str, Any]) -> str:
    """The curriculum of a trial in a few words, as in "step 0.3"."""
    if arm == BASELINE:
        return "no dropout"
    if "curriculum" not in parameters:
        return arm
    shape, *parameters = parameters["curriculum"].values()
    numbers = [number for value in parameters for number in (value if isinstance(value, list) else [value])]
    return " ".join([shape, *(f"{number:.3g}" for number in numbers)])


def curriculum_strengths(parameters: Mapping[str, Any]) -> tuple[float, ...]:
    """The strength of a trial's curriculum over the run, each in [0, 1]; empty without a curriculum."""
    if "curriculum" not in parameters:
        return ()
    curriculum = curriculum_from(parameters["curriculum"])
    return tuple(curriculum((n + 0.5) / _POINTS) for n in range(_POINTS))
