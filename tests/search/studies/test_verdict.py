import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.studies.interval import Array, components_of, intervals_of
from search.studies.verdict import Difference, Verdict, components, differences, expect_detectable, sum_by_group

TOKENS_K = np.array([12.0, 7.0, 30.0, 21.0, 9.0, 16.0, 25.0, 11.0])


def losses(shift: float, seeds: int = 3, tokens_K: Array = TOKENS_K, seed: int = 0) -> Array:
    """Summed losses about 2 nats a token, with noise of 0.05 by document and of 0.01 by seed."""
    generator = np.random.default_rng(seed)
    noise_SK = generator.normal(0, 0.05, len(tokens_K)) + generator.normal(0, 0.01, (seeds, 1))
    return np.asarray(tokens_K * (2 + shift + noise_SK))


def difference(ours_SK: Array, theirs_SK: Array, tokens_K: Array = TOKENS_K, **how: Any) -> Difference:
    (found,) = differences([theirs_SK, ours_SK], tokens_K, **how)
    return found


def test_equal_losses_have_no_difference() -> None:
    same = losses(0.0)
    found = difference(same, same)
    assert (found.mean, found.low, found.high) == (0.0, found.here_low, found.here_high)
    assert found.verdict == Verdict.UNDECIDED
    assert difference(same, same, margin=0.1).verdict == Verdict.EQUAL


def test_noise_is_not_decided() -> None:
    found = difference(losses(0.0, seed=1), losses(0.0, seed=2))
    assert found.low < 0 < found.high
    assert found.verdict == Verdict.UNDECIDED


def test_a_lower_loss_is_better_and_a_higher_one_is_worse() -> None:
    ours, theirs = losses(-0.5, seed=1), losses(0.0, seed=2)
    better, worse = difference(ours, theirs), difference(theirs, ours)
    assert better.mean == pytest.approx(-0.5, abs=0.1)
    assert better.low < better.mean < better.high < 0 < worse.low
    assert (better.verdict, worse.verdict) == (Verdict.BETTER, Verdict.WORSE)
    assert worse.mean == -better.mean
    assert worse.high - worse.low == pytest.approx(better.high - better.low, rel=0.1)


def test_equal_is_said_of_what_lies_within_the_margin_alone() -> None:
    ours, theirs = losses(0.0, seed=1), losses(0.0, seed=2)
    reach = max(abs(bound) for bound in (difference(ours, theirs).low, difference(ours, theirs).high))
    assert difference(ours, theirs, margin=1.01 * reach).verdict == Verdict.EQUAL
    assert difference(ours, theirs, margin=0.99 * reach).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        ("no_difference", Verdict.UNDECIDED),
        ("no difference shown", Verdict.UNDECIDED),
        ("confirmed better", Verdict.BETTER),
        ("not decided", Verdict.UNDECIDED),
        ("equal", Verdict.EQUAL),
    ],
)
def test_what_an_older_version_stored_is_read(stored: str, verdict: Verdict) -> None:
    assert Verdict(stored) == verdict


def test_the_mean_is_over_tokens_not_over_documents() -> None:
    ours = np.array([[1.0, 90.0], [1.0, 90.0]])
    assert difference(ours, np.zeros((2, 2)), np.array([1.0, 9.0])).mean == pytest.approx(91 / 10)


def test_the_interval_scales_with_the_losses() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    once, thrice = difference(ours, theirs), difference(3 * ours, 3 * theirs)
    assert [thrice.mean, thrice.low, thrice.high] == pytest.approx([3 * once.mean, 3 * once.low, 3 * once.high])


def test_more_confidence_is_a_wider_interval() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    widths = [found.high - found.low for found in (difference(ours, theirs, level=e) for e in (0.5, 0.1, 0.01))]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_documents_without_tokens_are_left_out() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    empty_S = np.full((3, 1), 5.0)
    with_empty = difference(np.hstack([ours, empty_S]), np.hstack([theirs, -empty_S]), np.append(TOKENS_K, 0.0))
    assert with_empty == difference(ours, theirs)


def test_a_seed_fixes_the_interval() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    assert difference(ours, theirs) == difference(ours, theirs)
    assert difference(ours, theirs, seed=1).low != difference(ours, theirs).low


def test_with_runs_that_agree_and_many_documents_it_is_students_interval_over_documents() -> None:
    value_K = np.random.default_rng(3).normal(0.2, 1.0, 400)
    found = difference(np.tile(10 * value_K, (8, 1)), np.zeros((8, 400)), np.full(400, 10.0))
    expected = stats.ttest_1samp(value_K, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(value_K.mean())
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.01)
    assert found.here_low == found.here_high == found.mean


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_with_documents_that_agree_it_is_students_interval_over_unpaired_runs(seeds: int) -> None:
    generator = np.random.default_rng(10 + seeds)
    ours_S, theirs_S = generator.normal(size=(2, seeds))
    sides = (np.tile(10 * value_S[:, None], (1, 20)) for value_S in (ours_S, theirs_S))
    found = difference(*sides, np.full(20, 10.0))
    expected = stats.ttest_ind(ours_S, theirs_S).confidence_interval(0.95)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], rel=0.1, abs=0.05)
    assert [found.here_low, found.here_high] == pytest.approx([expected.low, expected.high], rel=0.1, abs=0.05)


def test_documents_of_one_group_are_one_draw() -> None:
    ours, theirs = losses(-0.1, seed=1), losses(0.0, seed=2)
    twice = [np.repeat(side, 5, axis=1) for side in (ours, theirs)]
    groups_K = list(np.repeat(np.arange(8), 5))
    apart, together = (difference(*twice, np.repeat(TOKENS_K, 5), groups_K=g) for g in (None, groups_K))
    alone = difference(ours, theirs)
    assert [together.low, together.high] == pytest.approx([alone.low, alone.high])
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)
    assert (together.documents, together.groups, apart.groups) == (40, 8, 40)


def test_groups_are_sums_over_their_documents() -> None:
    loss_SK = np.arange(8.0).reshape(2, 4)
    assert sum_by_group(loss_SK, np.array([7, 3, 7, 3])).tolist() == [[1 + 3, 0 + 2], [5 + 7, 4 + 6]]


def slow_components(losses: list[Array], tokens_G: Array) -> dict[str, float]:
    """Variances of one data set of two settings, by loops."""
    tokens, groups = float(tokens_G.sum()), len(tokens_G)
    scale = groups / (groups - 1) / tokens**2
    variances, noises = [], []
    for loss_SG in losses:
        run = [sum(row) / tokens for row in loss_SG]
        mean = sum(run) / len(run)
        variances.append(sum((value - mean) ** 2 for value in run) / (len(run) - 1))
        rest = 0.0
        for s, row in enumerate(loss_SG):
            for g, loss in enumerate(row):
                rest += (loss - loss_SG[:, g].mean() - (run[s] - mean) * tokens_G[g]) ** 2
        noises.append(rest * scale / (len(run) - 1))
    own_G = losses[1].mean(axis=0) - losses[0].mean(axis=0)
    documents = sum((d - own_G.sum() / tokens * n) ** 2 for d, n in zip(own_G, tokens_G, strict=True)) * scale
    each = sum(1 / len(loss_SG) for loss_SG in losses)
    degrees = [len(loss_SG) - 1 for loss_SG in losses]
    run, noise = (np.average(values, weights=degrees) for values in (variances, noises))
    return {"documents": documents, "here": run * each, "whole": max(0.0, run - noise) * each}


@pytest.mark.parametrize("seeds", [(2, 2), (3, 5), (8, 4)])
def test_the_components_are_those_of_an_obvious_reference(seeds: tuple[int, int]) -> None:
    generator = np.random.default_rng(sum(seeds))
    sides = [
        TOKENS_K * (generator.normal(size=8) + generator.normal(size=(n, 1)) + 0.5 * generator.normal(size=(n, 8)))
        for n in seeds
    ]
    found, expected = components(sides, TOKENS_K), slow_components(sides, TOKENS_K)
    assert float(found.documents_TD[0, 0]) == pytest.approx(expected["documents"])
    assert float(found.here_TD[0, 0]) == pytest.approx(expected["here"])
    assert float(found.whole_TD[0, 0]) == pytest.approx(expected["whole"])


def test_a_setting_that_is_much_wilder_has_its_own_variance() -> None:
    generator = np.random.default_rng(0)
    widths = (0.01, 0.01, 0.01, 1.0)
    sides = [TOKENS_K * (2 + width * generator.normal(size=(5, 1))) for width in widths]
    parts = components(sides, TOKENS_K)
    assert parts.wild_TC[0].tolist() == [False, False, False, True]
    assert parts.run_TC[0, 0] == parts.run_TC[0, 1] < 0.001 < parts.run_TC[0, 3]
    tame, _, wild = differences(sides, TOKENS_K)
    assert wild.high - wild.low > 10 * (tame.high - tame.low)


def test_the_intervals_of_several_settings_hold_together() -> None:
    sides = [losses(0.0, seed=seed) for seed in range(5)]
    together, alone = differences(sides, TOKENS_K)[0], difference(sides[1], sides[0])
    assert together.mean == alone.mean
    union = differences([sides[0], sides[1]], TOKENS_K, level=0.05 / 4)[0]
    assert alone.high < together.high
    assert together.high < 1.1 * union.high


def test_data_sets_that_are_handed_over_together_do_not_touch_each_other() -> None:
    sides = [np.stack([losses(shift, seed=s) for s in (3, 4)]) for shift in (0.0, 0.1)]
    both = intervals_of(components_of(sides, np.tile(TOKENS_K, (2, 1))), 0.05, 200)
    for t in range(2):
        one = intervals_of(components_of([side[t : t + 1] for side in sides], TOKENS_K[None]), 0.05, 200)
        assert both.half_TD[t] == pytest.approx(one.half_TD[0])


def test_what_would_tell_more_is_what_limits() -> None:
    generator = np.random.default_rng(0)
    effect_K, tokens_K = generator.normal(0, 0.5, 40), np.full(40, 20.0)
    quiet = [tokens_K * (2 + c * effect_K + 0.01 * generator.normal(size=(3, 1))) for c in range(2)]
    found = difference(quiet[1], quiet[0], tokens_K)
    assert found.documents_decide
    documents = found.documents_for(0.05)
    assert documents is not None
    assert documents == pytest.approx((2.8 * 0.5 / 0.05) ** 2, rel=0.4)
    assert found.seeds_for(0.05) is None
    wild = [tokens_K * (2 + 0.01 * c * effect_K + 0.2 * generator.normal(size=(3, 1))) for c in range(2)]
    found = difference(wild[1], wild[0], tokens_K)
    assert not found.documents_decide
    assert found.documents_for(0.1) is None
    seeds = found.seeds_for(0.1)
    assert seeds is not None
    assert seeds > 10


def test_the_detectable_difference_is_found_four_times_of_five() -> None:
    generator, tries, tokens_1K = np.random.default_rng(0), 400, np.full((1, 60), 10.0)
    tokens_TK = np.repeat(tokens_1K, tries, axis=0)
    effect_T1K = generator.normal(0, 0.2, (tries, 1, 60))
    sides = [
        10
        * (c * effect_T1K + 0.02 * generator.normal(size=(tries, 5, 1)) + 0.1 * generator.normal(size=(tries, 5, 60)))
        for c in range(2)
    ]
    parts = components_of(sides, tokens_TK)
    half_T = intervals_of(parts, 0.05, 500).half_TD[:, 0]
    detectable = float(np.mean(half_T + stats.norm.ppf(0.8) * np.sqrt(parts.variance_TD[:, 0])))
    found = float((parts.mean_TD[:, 0] - detectable + half_T < 0).mean())
    assert found == pytest.approx(0.8, abs=0.06)


@pytest.mark.faults
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_false_verdict_is_as_rare_as_the_confidence_says(seeds: int) -> None:
    generator, tries, documents = np.random.default_rng(0), 1000, 40
    tokens_TK = generator.integers(5, 40, (tries, documents)).astype(float)
    of_documents = generator.normal(0, 0.1, (tries, 1, documents))
    sides = [
        tokens_TK[:, None]
        * (
            c * of_documents
            + generator.normal(0, 0.03, (tries, seeds, 1))
            + generator.normal(0, 0.05, (tries, seeds, documents))
        )
        for c in range(2)
    ]
    parts = components_of(sides, tokens_TK)
    wrong = float((np.abs(parts.mean_TD) > intervals_of(parts, 0.05, 500).half_TD).mean())
    assert 0.01 < wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)


def test_equal_settings_are_seldom_called_better_although_the_luckiest_is_chosen() -> None:
    # A seed moves the losses on both splits alike, so that the best of six on one is ahead on the other.
    generator, among, tries = np.random.default_rng(0), 6, 400
    luck_CTS = generator.normal(scale=0.1, size=(1 + among, tries, 3))
    sides = [5.0 + luck_TS[:, :, None] + generator.normal(scale=0.05, size=(tries, 3, 20)) for luck_TS in luck_CTS]
    parts = components_of(sides, np.ones((tries, 20)))
    chosen_T = luck_CTS[1:].mean(axis=2).argmin(axis=0)
    high_TD = parts.mean_TD + intervals_of(parts, 0.05, 500).half_TD
    assert (high_TD[np.arange(tries), chosen_T] < 0).mean() <= 0.05


@pytest.mark.parametrize(
    ("documents", "seeds", "contestants"), [(40, 3, 1), (200, 3, 1), (200, 6, 1), (200, 3, 6), (10, 6, 1)]
)
@pytest.mark.faults
def test_the_difference_of_a_plan_is_seen_four_times_of_five(documents: int, seeds: int, contestants: int) -> None:
    tries, documents_sd, runs_sd = 400, 0.15, 0.05
    generator = np.random.default_rng(0)
    effect = expect_detectable("final", documents, seeds, 0.95, contestants=contestants)
    losses = []
    for contestant in range(contestants + 1):
        own_TSG = generator.normal(0, runs_sd, (tries, seeds, 1)) - (effect if contestant == 1 else 0.0)
        theirs_TSG = generator.normal(0, documents_sd if contestant else 0.0, (tries, 1, documents))
        losses.append(5.0 + own_TSG + theirs_TSG)
    parts = components_of(losses, np.ones((tries, documents)))
    half_T = intervals_of(parts, 0.05, 800).half_TD[:, 0]
    power = float((parts.mean_TD[:, 0] + half_T < 0).mean())
    assert 0.72 < power < 0.9


@pytest.mark.parametrize(("documents", "seeds"), [(40, 3), (200, 3), (200, 6)])
@pytest.mark.faults
def test_what_can_be_seen_is_known_before(documents: int, seeds: int) -> None:
    documents_sd, runs_sd = 0.15, 0.05
    tokens_K = np.full(documents, 10.0)
    seen = []
    for number in range(20):
        generator = np.random.default_rng(number)
        runs = [5 + generator.normal(0, runs_sd, (seeds, 1)) + np.zeros(documents) for _ in range(2)]
        runs[1] += generator.normal(0, documents_sd, documents)
        seen.append(difference(tokens_K * runs[1], tokens_K * runs[0], tokens_K).detectable)
    expected = expect_detectable("final", documents, seeds, 0.95)
    assert expected == pytest.approx(float(np.median(seen)), rel=0.2)
    assert expect_detectable("best", documents, seeds, 0.95) < expected
