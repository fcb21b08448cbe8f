"""The learning rate over the full budget, against a slow reference."""

import math

import pytest

from tests import tiny
from trainables.learning_rate import learning_rate

TOTAL = 40


def rates(lr_schedule: str, warmup: float = 0.0, lr_decay: float = 0.2) -> list[float]:
    settings = tiny.settings(lr_schedule=lr_schedule, warmup=warmup, lr_decay=lr_decay, learning_rate=1.0)
    return [learning_rate(settings, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "wsd"])
def test_every_schedule_warms_up_to_the_peak_and_does_not_rise_after_it(lr_schedule: str) -> None:
    values = rates(lr_schedule, warmup=0.25)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(value > 0 for value in values)
    assert values[9:] == sorted(values[9:], reverse=True)


def test_the_schedules_after_the_warm_up() -> None:
    assert set(rates("constant", warmup=0.25)[9:]) == {1.0}
    assert rates("cosine") == pytest.approx([math.cos(math.pi * step / (2 * TOTAL)) ** 2 for step in range(TOTAL)])
    assert rates("wsd", lr_decay=0.25) == pytest.approx([1.0] * 30 + [1 - i / 10 for i in range(10)])


@pytest.mark.parametrize("lr_schedule", ["cosine", "wsd"])
def test_a_run_of_a_single_step_has_a_rate(lr_schedule: str) -> None:
    settings = tiny.settings(lr_schedule=lr_schedule, warmup=0.0, learning_rate=1.0)
    assert learning_rate(settings, 0, 1) == 1.0
    warm = tiny.settings(lr_schedule=lr_schedule, warmup=1.0, learning_rate=1.0)
    assert learning_rate(warm, 0, 1) == 1.0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_schedule 'linear'"):
        rates("linear")
