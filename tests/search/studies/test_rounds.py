import numpy as np
import pytest
from scipy import stats

from search.studies.rounds import fraction_of, is_futile, level_of_last_look, level_of_look, spent


def test_one_look_spends_all() -> None:
    assert level_of_last_look((1.0,), 0.05) == pytest.approx(0.05, rel=1e-3)


def test_a_look_that_leaves_little_to_come_costs_next_to_nothing() -> None:
    assert level_of_last_look((0.95,), 0.05) == pytest.approx(0.95 * 0.05, rel=1e-3)
    assert level_of_last_look((0.95, 1.0), 0.05) > 0.03


@pytest.mark.parametrize("fractions", [(1 / 3, 2 / 3, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0), (0.5, 0.55, 1.0)])
def test_all_looks_together_err_as_often_as_one(fractions: tuple[float, ...]) -> None:
    # Brownian motion, looked at in steps.
    steps = np.diff((0.0, *fractions))
    walk = (np.random.default_rng(0).normal(size=(200_000, len(steps))) * np.sqrt(steps)).cumsum(axis=1)
    crossed = np.zeros(len(walk), dtype=bool)
    for k, fraction in enumerate(fractions):
        bound = stats.norm.isf(level_of_last_look(fractions[: k + 1], 0.05) / 2)
        crossed |= np.abs(walk[:, k]) > bound * fraction**0.5
        assert crossed.mean() == pytest.approx(spent(fraction, 0.05), abs=0.002)


def test_estimates_of_the_information_may_fall() -> None:
    assert 0 < level_of_look([0.6, 0.5, 1.0], 0.05) <= 0.05


def test_where_documents_decide_there_is_nothing_to_come() -> None:
    assert fraction_of(1.0, 0.95) == 1.0
    assert fraction_of(0.0, 0.0) == 1.0
    assert fraction_of(1.0, 0.3) == pytest.approx(0.3)


def test_a_difference_far_within_the_last_bound_is_futile() -> None:
    assert is_futile(0.0, 1.1, 1.0, 0.05)
    assert not is_futile(1.9, 1.1, 1.0, 0.05)
    # Early, little is certain.
    assert not is_futile(1.0, 3.0, 1.0, 0.05)
