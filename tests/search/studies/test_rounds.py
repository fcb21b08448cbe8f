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


@pytest.mark.faults
@pytest.mark.parametrize("true", [0.0, 2.6])
def test_rounds_of_few_runs_err_seldom_and_find_what_five_seeds_find(true: float) -> None:
    generator, tries, most = np.random.default_rng(0), 20_000, 6
    loss_TS, theirs_TS = generator.normal(-true, size=(tries, most)), generator.normal(size=(tries, most))
    live_T, found_T, runs_T = np.ones(tries, dtype=bool), np.zeros(tries, dtype=bool), np.zeros(tries)
    for seeds in range(2, most + 1):
        sides = loss_TS[:, :seeds], theirs_TS[:, :seeds]
        error_T = np.sqrt(sum(side.var(axis=1, ddof=1) for side in sides) / seeds)
        t_T = np.abs(sides[0].mean(axis=1) - sides[1].mean(axis=1)) / error_T
        level = level_of_look([s / most for s in range(2, seeds + 1)], 0.05)
        found_T |= live_T & (t_T > stats.t.isf(level / 2, 2 * seeds - 2))
        runs_T[live_T] = 2 * seeds
        live_T &= ~found_T
    five_T = stats.ttest_ind(loss_TS[:, :5], theirs_TS[:, :5], axis=1).pvalue < 0.05
    if true:
        assert found_T.mean() > five_T.mean() - 0.01
        assert runs_T.mean() < 8.5
    else:
        assert found_T.mean() < 0.055


def test_where_documents_decide_there_is_nothing_to_come() -> None:
    assert fraction_of(0.95) == 1.0
    assert fraction_of(0.3) == 0.3


def test_a_difference_far_within_the_last_bound_is_futile() -> None:
    assert is_futile(0.0, 1.1, 1.0, 0.05)
    assert not is_futile(1.9, 1.1, 1.0, 0.05)
    # Early, little is certain.
    assert not is_futile(1.0, 3.0, 1.0, 0.05)
