"""One conformance suite for all curricula: a new shape gets its tests by joining CURRICULA."""

import json
from collections.abc import Callable
from decimal import Decimal, getcontext
from itertools import pairwise

import pytest

from trainables.curriculum import (
    SHAPES,
    Constant,
    Cosine,
    Curriculum,
    Linear,
    Sigmoid,
    Spline,
    Step,
    curriculum_from,
    curriculum_spec,
)

getcontext().prec = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def cosine_reference(u: Decimal) -> Decimal:
    term = total = Decimal(1)
    for n in range(1, 40):
        term *= -((PI * u) ** 2) / (2 * n * (2 * n - 1))
        total += term
    return (1 - total) / 2


def sigmoid_reference(midpoint: float, steepness: float) -> Callable[[Decimal], Decimal]:
    def logistic(u: Decimal) -> Decimal:
        return 1 / (1 + (-Decimal(steepness) * (u - Decimal(midpoint))).exp())

    return lambda u: (logistic(u) - logistic(Decimal(0))) / (logistic(Decimal(1)) - logistic(Decimal(0)))


def spline_reference(rises: list[str]) -> Callable[[Decimal], Decimal]:
    """Hermite cubics with the slopes of PCHIP, for knots at equal distances."""
    heights, width = [Decimal(0)], Decimal(1) / len(rises)
    for rise in rises:
        heights.append(heights[-1] + Decimal(rise) / sum(map(Decimal, rises)))
    chords = [(after - before) / width for before, after in pairwise(heights)]

    def end(own: Decimal, next_: Decimal) -> Decimal:
        slope = (3 * own - next_) / 2
        return Decimal(0) if slope * own <= 0 else slope

    inner = [2 * a * b / (a + b) if a * b > 0 else Decimal(0) for a, b in pairwise(chords)]
    slopes = [end(*chords[:2]), *inner, end(*chords[:-3:-1])] if inner else chords * 2

    def value(u: Decimal) -> Decimal:
        i = min(int(u / width), len(rises) - 1)
        t = u / width - i
        return (
            heights[i] * (1 + 2 * t) * (1 - t) ** 2
            + heights[i + 1] * t**2 * (3 - 2 * t)
            + width * (slopes[i] * t * (1 - t) ** 2 + slopes[i + 1] * t**2 * (t - 1))
        )

    return value


# Slow starts, fast starts, plateaus, and one that says nothing.
RISES = [["1"], ["1", "3"], ["0", "0", "1"], ["1", "0", "0"], ["0.2", "0", "5", "0.3"], ["1e-9", "1", "1e-9", "1", "7"]]

# (curriculum, its slow reference, c(0), c(1))
CURRICULA: list[tuple[Curriculum, Callable[[Decimal], Decimal], float, float]] = [
    (Constant(), lambda u: Decimal(1), 1.0, 1.0),
    (Linear(), lambda u: u, 0.0, 1.0),
    *((Linear(until), lambda u, until=until: min(Decimal(1), u / Decimal(until)), 0.0, 1.0) for until in (0.05, 0.66)),
    (Cosine(), cosine_reference, 0.0, 1.0),
    *(
        (Sigmoid(midpoint, steepness), sigmoid_reference(midpoint, steepness), 0.0, 1.0)
        for midpoint in (0.0, 0.3, 0.5, 1.0)
        for steepness in (1e-3, 1.0, 10.0, 1e3)
    ),
    (Step(0.0), lambda u: Decimal(1), 1.0, 1.0),
    (Step(0.4), lambda u: Decimal(u >= Decimal("0.4")), 0.0, 1.0),
    (Step(1.0), lambda u: Decimal(u >= 1), 0.0, 1.0),
    *((Spline(tuple(map(float, rises))), spline_reference(rises), 0.0, 1.0) for rises in RISES),
    (Spline((0.0, 0.0, 0.0)), lambda u: u, 0.0, 1.0),
]
GRID = [i / 1000 for i in range(1001)]

each = pytest.mark.parametrize(
    ("curriculum", "reference", "start", "end"), CURRICULA, ids=[str(curriculum) for curriculum, *_ in CURRICULA]
)


def test_every_shape_is_tested() -> None:
    assert {type(curriculum) for curriculum, *_ in CURRICULA} == set(SHAPES.values())


@each
def test_strength_stays_in_bounds_and_does_not_decrease(
    curriculum: Curriculum, reference: Callable[[Decimal], Decimal], start: float, end: float
) -> None:
    values = [curriculum(u) for u in GRID]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert values == sorted(values)
    assert (values[0], values[-1]) == (start, end)


@each
def test_strength_equals_the_slow_reference(
    curriculum: Curriculum, reference: Callable[[Decimal], Decimal], start: float, end: float
) -> None:
    for u in GRID[::25]:
        assert curriculum(u) == pytest.approx(float(reference(Decimal(u))), abs=1e-12)


@each
def test_a_curriculum_survives_json(
    curriculum: Curriculum, reference: Callable[[Decimal], Decimal], start: float, end: float
) -> None:
    assert curriculum_from(json.loads(json.dumps(curriculum_spec(curriculum)))) == curriculum


@pytest.mark.parametrize("steepness", [1e-17, 1e-100, 1e-300])
def test_a_sigmoid_without_steepness_is_linear(steepness: float) -> None:
    assert [Sigmoid(0.3, steepness)(u) for u in GRID] == pytest.approx(GRID, abs=1e-12)


def test_an_infinitely_steep_sigmoid_is_a_step() -> None:
    curriculum = Sigmoid(0.5, 1e300)
    assert [curriculum(u) for u in (0.0, 0.499, 0.501, 1.0)] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"shape": "sine"}, KeyError),
        ({"shape": "step"}, TypeError),
        ({"shape": "linear", "at": 0.5}, TypeError),
    ],
)
def test_a_wrong_description_is_refused(spec: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        curriculum_from(spec)
