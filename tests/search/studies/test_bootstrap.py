import numpy as np
import pytest
from scipy import stats

from search.studies.bootstrap import Array, Difference, Verdict, difference

TOKENS_K = np.array([12.0, 7.0, 30.0, 21.0, 9.0, 16.0, 25.0, 11.0])


def losses(shift: float, seeds: int = 3, tokens_K: Array = TOKENS_K, seed: int = 0) -> Array:
    """Summed losses about 2 nats a token, with noise of 0.05 by document and of 0.01 by seed."""
    generator = np.random.default_rng(seed)
    noise_SK = generator.normal(0, 0.05, len(tokens_K)) + generator.normal(0, 0.01, (seeds, 1))
    return np.asarray(tokens_K * (2 + shift + noise_SK))


def test_equal_losses_have_no_difference() -> None:
    same = losses(0.0)
    assert difference(same, same, TOKENS_K) == Difference(0.0, 0.0, 0.0)
    assert difference(same, same, TOKENS_K).verdict == Verdict.NO_DIFFERENCE


def test_noise_is_no_difference() -> None:
    found = difference(losses(0.0, seed=1), losses(0.0, seed=2), TOKENS_K)
    assert found.low < 0 < found.high
    assert found.verdict == Verdict.NO_DIFFERENCE


def test_a_lower_loss_is_better_and_a_higher_one_is_worse() -> None:
    ours, theirs = losses(-0.5, seed=1), losses(0.0, seed=2)
    better, worse = difference(ours, theirs, TOKENS_K), difference(theirs, ours, TOKENS_K)
    assert better.mean == pytest.approx(-0.5, abs=0.1)
    assert better.low < better.mean < better.high < 0 < worse.low
    assert (better.verdict, worse.verdict) == (Verdict.BETTER, Verdict.WORSE)
    assert worse.mean == -better.mean
    assert worse.high - worse.low == pytest.approx(better.high - better.low, rel=0.1)


def test_the_mean_is_over_tokens_not_over_documents() -> None:
    ours = np.array([[1.0, 90.0], [1.0, 90.0]])
    assert difference(ours, np.zeros((2, 2)), np.array([1.0, 9.0])).mean == pytest.approx(91 / 10)


def test_the_interval_scales_with_the_losses() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    once, thrice = difference(ours, theirs, TOKENS_K), difference(3 * ours, 3 * theirs, TOKENS_K)
    assert [thrice.mean, thrice.low, thrice.high] == pytest.approx([3 * once.mean, 3 * once.low, 3 * once.high])


def test_more_confidence_is_a_wider_interval() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    widths = [
        found.high - found.low for found in (difference(ours, theirs, TOKENS_K, level) for level in (0.5, 0.9, 0.99))
    ]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_documents_without_tokens_are_left_out() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    empty_S = np.full((3, 1), 5.0)
    with_empty = difference(np.hstack([ours, empty_S]), np.hstack([theirs, -empty_S]), np.append(TOKENS_K, 0.0))
    assert with_empty == difference(ours, theirs, TOKENS_K)


def test_a_seed_fixes_the_interval() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    assert difference(ours, theirs, TOKENS_K) == difference(ours, theirs, TOKENS_K)
    assert difference(ours, theirs, TOKENS_K, seed=1).low != difference(ours, theirs, TOKENS_K).low


def test_with_seeds_that_agree_it_is_students_interval_over_documents() -> None:
    value_K = np.random.default_rng(3).normal(0.2, 1.0, 40)
    found = difference(np.tile(10 * value_K, (3, 1)), np.zeros((3, 40)), np.full(40, 10.0))
    expected = stats.ttest_1samp(value_K, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(value_K.mean())
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.03)


def test_with_documents_that_agree_it_is_students_interval_over_seeds() -> None:
    value_S = np.array([-0.30, -0.25, -0.20, -0.23])
    found = difference(np.tile(10 * value_S[:, None], (1, 20)), np.zeros((4, 20)), np.full(20, 10.0))
    expected = stats.ttest_1samp(value_S, 0.0).confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], rel=0.05)


@pytest.mark.faults
def test_a_false_verdict_is_as_rare_as_the_confidence_says() -> None:
    generator, tries, seeds, documents = np.random.default_rng(0), 300, 3, 20
    wrong = 0
    for seed in range(tries):
        tokens_K = generator.integers(5, 40, documents).astype(float)
        of_documents, of_seeds = generator.normal(0, 0.1, documents), generator.normal(0, 0.03, (seeds, 1))
        noise = of_documents + of_seeds + generator.normal(0, 0.05, (seeds, documents))
        found = difference(tokens_K * noise, np.zeros((seeds, documents)), tokens_K, seed=seed)
        wrong += found.verdict != Verdict.NO_DIFFERENCE
    assert wrong / tries <= 0.05 + 2 * (0.05 * 0.95 / tries) ** 0.5
    assert wrong
