import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy import stats

from search.arms import BASELINE
from search.results.files import describe_result
from search.results.model_result import ModelResult, recommend_arm, recommend_trial, verdict_of
from search.studies.comparison import describe_limits, sentence
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate
from search.studies.verdict import Difference, Verdict
from tests.studies import ask, fail, run, run_all, search, space
from trainables.config.to_settings import fix_values
from trainables.settings import Settings

ARMS: list[dict[str, Any]] = [
    {"name": "none", "schedule": None, "training": {"weight_decay": [0.0, 0.1, 0.2]}},
    {"name": "entrodrop"},
    {"name": "random", "schedule": {"tokens": "random"}},
]
# How hard each document of the test split is, in nats.
HARD = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3)

Loss = Callable[[Candidate], float]


def validation(candidate: Candidate) -> float:
    """The search's losses: without dropout the worst, then the better the larger the number."""
    return 5.0 if candidate.arm == BASELINE else 4.0 - candidate.number / 100


def searched(folder: Path, **changes: Any) -> tuple[SearchStudy, Confirmation]:
    """A search that has ended, and what confirms it."""
    study = search(folder, **changes)
    run_all(study, validation, 2)
    return study, Confirmation(open_journal(folder / "study.journal"), study, space(**changes))


def measured(loss: float, seed: int, documents: int = 6) -> dict[str, Any]:
    """Sums over ten tokens of each document, which differ a little from seed to seed."""
    sums = [10 * (loss + hard + seed / 1000) for hard in HARD[:documents]]
    return {"sums": sums, "counts": [10.0] * documents}


def read(best: float, final: float, seed: int) -> dict[str, Any]:
    """As `trainables.training.run.Run.test` gives it."""
    return {
        point: {"test": {"high_entropy_loss": measured(loss, seed), "loss": measured(loss / 2, seed)}}
        for point, loss in (("best", best), ("final", final))
    }


def confirm(
    confirmation: Confirmation,
    test: Loss = lambda candidate: 5.0 if candidate.arm == BASELINE else 4.0,
    loss: Loss = lambda candidate: 5.0 if candidate.arm == BASELINE else 4.0,
    fails: Callable[[Candidate], bool] = lambda candidate: False,
    runs: int = 100,
) -> list[Candidate]:
    """Runs the confirmation as far as `runs`, with these losses on the two splits."""
    done: list[Candidate] = []
    while len(done) < runs and (candidate := confirmation.ask()) is not None:
        done.append(candidate)
        if fails(candidate):
            fail(confirmation, candidate)
            continue
        on_test = test(candidate)
        confirmation.conclude(candidate.number, read(on_test, on_test + 1, candidate.settings.seed))
        assert run(confirmation, candidate, [loss(candidate)] * 2) == "complete"
    return done


def setting(candidate: Candidate) -> Any:
    return candidate.parameters.get("mask_ratio")


def test_one_model_of_each_setting_is_kept_where_the_space_asks(tmp_path: Path) -> None:
    study, confirmation = searched(tmp_path, tracking={"register_as": "m"})
    done = confirm(confirmation)
    assert {c.keeps for c in done if c.settings.seed == 1} == {"best"}
    assert {c.keeps for c in done if c.settings.seed != 1} == {None}
    chosen = confirmation.chosen()
    assert chosen is not None
    kept = confirmation.run_with_model(chosen)
    assert kept is not None
    assert (kept.user_attrs["seed"], kept.user_attrs["arm"]) == (1, chosen)
    at_the_end = Confirmation(
        open_journal(tmp_path / "other.journal"), study, space(tracking={"register_as": "m"}, objective="final")
    )
    assert ask(at_the_end).keeps == "final"
    unasked = Confirmation(open_journal(tmp_path / "third.journal"), study, space())
    assert ask(unasked).keeps is None


# Who is trained again.


def test_the_best_settings_and_the_baseline_are_trained_again(tmp_path: Path) -> None:
    study, confirmation = searched(tmp_path)
    assert [(c.arm, c.trial) for c in confirmation.contestants] == [("none", 0), ("entrodrop", 7), ("entrodrop", 6)]
    assert confirmation.planned == 3 * 3
    for contestant in confirmation.contestants:
        assert contestant.trial is not None
        assert contestant.parameters == study.parameters(study.study.trials[contestant.trial])


def test_of_each_arm_the_best_settings_and_the_baseline_once(tmp_path: Path) -> None:
    _, confirmation = searched(
        tmp_path, arms=ARMS, budget={"trials": 3, "epochs": 8}, confirmation={"best": 2, "seeds": 4}
    )
    assert [c.arm for c in confirmation.contestants] == ["none", *["entrodrop"] * 2, *["random"] * 2]
    assert confirmation.planned == 5 * 4


def test_a_searched_learning_rate_is_given_to_the_baseline_as_well(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"training": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}
    study = search(tmp_path, **changes)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space(**changes))
    planned = confirmation.planned
    run_all(study, validation, 2)
    own, best, second, *tuned = confirmation.contestants
    assert [c.arm for c in (own, best, second, *tuned)] == [BASELINE, "entrodrop", "entrodrop", BASELINE, BASELINE]
    rates = [contestant.settings["learning_rate"] for contestant in (own, best, second)]
    assert [contestant.settings["learning_rate"] for contestant in tuned] == rates[1:]
    assert len(set(rates)) == 3
    assert {(contestant.trial, contestant.settings["entrodrop"]) for contestant in tuned} == {(None, None)}
    assert confirmation.planned == planned == 5 * 3


def test_searched_adapters_are_given_to_the_baseline_as_well(tmp_path: Path) -> None:
    lora = {"rank": [2, 4, 8, 16], "alpha": 16.0, "target_modules": ["all-linear", ["q_proj", "v_proj"]]}
    changes: dict[str, Any] = {"training": {"lora": lora}}
    study = search(tmp_path, **changes)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space(**changes))
    run_all(study, validation, 2)
    own, best, _, tuned, *_ = confirmation.contestants
    assert (own.arm, best.arm, tuned.arm, tuned.trial) == (BASELINE, "entrodrop", BASELINE, None)
    assert tuned.settings["lora"] == best.settings["lora"]
    assert tuned.parameters["lora"] == best.parameters["lora"]
    assert fix_values(study.arms[BASELINE].space, tuned.parameters).training.lora.rank == best.settings["lora"]["rank"]


def test_nothing_is_confirmed_before_the_search_has_ended(tmp_path: Path) -> None:
    study = search(tmp_path)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space())
    assert confirmation.contestants == []
    assert not confirmation.exhausted
    run_all(study, validation, 2)
    assert len(confirmation.contestants) == 3


@pytest.mark.parametrize("failed", [range(8), range(1), range(1, 8)])
def test_without_a_setting_or_a_baseline_there_is_nothing_to_confirm(tmp_path: Path, failed: range) -> None:
    study = search(tmp_path)
    while (candidate := study.ask()) is not None:
        if candidate.number in failed:
            fail(study, candidate)
        else:
            run(study, candidate, [5.0] * 2)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space())
    assert (confirmation.contestants, confirmation.planned, confirmation.ended) == ([], 0, True)
    assert confirmation.ask() is None
    assert (confirmation.comparisons(), confirmation.chosen()) == ({}, None)


# How they are trained.


def test_seeds_are_fresh_and_nothing_else_differs(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, seed=7)
    runs = confirm(confirmation)
    assert [(candidate.settings.seed, candidate.arm) for candidate in runs] == [
        (seed, arm) for seed in (8, 9, 10) for arm in ("none", "entrodrop", "entrodrop")
    ]
    for candidate in runs:
        contestant = confirmation.contestants[candidate.number % 3]
        given = Settings.from_json(contestant.settings)
        assert given.seed == 7
        assert candidate.settings.to_json() == given.to_json() | {"seed": candidate.settings.seed}
    assert all(candidate.test for candidate in runs)
    assert confirmation.ended


@pytest.mark.faults
def test_an_interrupted_confirmation_goes_on_under_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    _, uninterrupted = searched(tmp_path / "whole")
    whole = confirm(uninterrupted)

    study, confirmation = searched(tmp_path)
    begun = confirm(confirmation, runs=4)
    left = ask(confirmation)
    confirmation.report(left.number, {"tokens": 100, "high_entropy_loss": 4.0})
    reopened = Confirmation(open_journal(tmp_path / "study.journal"), search(tmp_path), space())
    assert reopened.contestants == confirmation.contestants
    assert not reopened.ended
    rest = confirm(reopened)
    assert rest[0] == left
    assert [*begun, *rest] == whole
    assert reopened.comparisons() == uninterrupted.comparisons()
    assert study.study.trials == search(tmp_path).study.trials


def test_what_a_larger_budget_finds_is_confirmed_as_well(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation)
    before = confirmation.study.trials
    _, larger = searched(tmp_path, budget={"trials": 10, "epochs": 8})
    # The two better ones; the baseline was trained with the same seeds.
    assert [(candidate.settings.seed, candidate.arm) for candidate in confirm(larger)] == [
        (seed, "entrodrop") for seed in (1, 2, 3) for _ in range(2)
    ]
    assert larger.study.trials[: len(before)] == before
    assert larger.ended


# What comes of it.


def test_the_choice_is_made_on_the_validation_split_alone(tmp_path: Path) -> None:
    # On the test split the order is the opposite, and the baseline is the best of all.
    _, confirmation = searched(tmp_path, arms=ARMS, budget={"trials": 3, "epochs": 8})
    losses = dict(zip(range(5), (5.0, 4.2, 4.1, 4.4, 4.3), strict=True))
    confirm(
        confirmation,
        test=lambda candidate: 9.0 - losses[candidate.number % 5],
        loss=lambda candidate: losses[candidate.number % 5],
    )
    comparisons = confirmation.comparisons()
    assert [comparisons[arm].contestant for arm in ("entrodrop", "random")] == [
        confirmation.contestants[2],
        confirmation.contestants[4],
    ]
    assert [comparisons[arm].validation for arm in ("entrodrop", "random")] == pytest.approx([4.1, 4.3])
    assert confirmation.chosen() == "entrodrop"
    assert comparisons["entrodrop"].differences["best"]["high_entropy_loss"].verdict == Verdict.WORSE


@pytest.mark.parametrize(("objective", "chosen"), [("best", 1), ("final", 2)])
def test_the_choice_goes_by_the_objective(tmp_path: Path, objective: str, chosen: int) -> None:
    _, confirmation = searched(tmp_path, objective=objective)
    while (candidate := confirmation.ask()) is not None:
        losses = ([5.0] * 2, [3.0, 5.0], [4.0] * 2)[candidate.number % 3]
        confirmation.conclude(candidate.number, read(4.0, 5.0, candidate.settings.seed))
        run(confirmation, candidate, losses)
    assert confirmation.comparisons()["entrodrop"].contestant == confirmation.contestants[chosen]


def test_losses_and_differences_are_of_the_test_split(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation)
    comparisons = confirmation.comparisons()
    assert list(comparisons) == ["none", "entrodrop"]
    assert comparisons["none"].differences == {}
    found = comparisons["entrodrop"]
    # The documents add 0.05 in the mean, the seeds 1, 2 and 3 add 0.002.
    assert found.losses["best"]["high_entropy_loss"] == pytest.approx(4.052)
    assert found.losses["final"]["high_entropy_loss"] == pytest.approx(5.052)
    assert found.losses["best"]["loss"] == pytest.approx(2.052)
    assert comparisons["none"].losses["best"]["high_entropy_loss"] == pytest.approx(5.052)
    assert found.differences["best"]["high_entropy_loss"].mean == pytest.approx(-1.0)
    assert found.differences["best"]["high_entropy_loss"].verdict == Verdict.BETTER
    assert found.seeds == 3
    assert [run.user_attrs["seed"] for run in confirmation.runs_of("entrodrop")] == [1, 2, 3]


def test_a_failed_run_is_missing_on_its_own_side(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation, fails=lambda candidate: candidate.number == 3)
    # Run 3 is the baseline with the second seed.
    assert [trial.user_attrs["seed"] for trial in confirmation.trials(TrialState.FAIL)] == [2]
    assert {arm: found.seeds for arm, found in confirmation.comparisons().items()} == {"none": 2, "entrodrop": 3}


def test_a_setting_with_one_run_left_is_not_chosen(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    # Contestant 2 would win, but two of its runs fail.
    confirm(
        confirmation,
        loss=lambda candidate: (5.0, 4.0, 3.0)[candidate.number % 3],
        fails=lambda candidate: candidate.number in (5, 8),
    )
    found = confirmation.comparisons()["entrodrop"]
    assert (found.contestant, found.seeds) == (confirmation.contestants[1], 3)


def test_without_two_runs_of_the_baseline_there_is_no_comparison(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation, fails=lambda candidate: candidate.number in (0, 3))
    assert (confirmation.comparisons(), confirmation.chosen()) == ({}, None)


def test_the_baseline_that_does_better_is_the_one_to_beat(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, training={"weight_decay": [0.0, 0.1, 0.2]})
    confirm(
        confirmation, loss=lambda candidate: (5.0, 4.0, 4.1, 4.5, 5.0)[candidate.number % len(confirmation.contestants)]
    )
    assert confirmation.comparisons()["none"].contestant == confirmation.contestants[3]


def test_a_setting_that_is_confirmed_better_comes_before_one_that_is_not(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, arms=ARMS, budget={"trials": 3, "epochs": 8})
    # By the validation split the fourth is the best, by the test split the third alone is better than no dropout.
    on_test, loss = (5.0, 5.0, 4.0, 5.0, 5.0), (5.0, 4.3, 4.2, 4.1, 4.4)
    confirm(confirmation, test=lambda c: on_test[c.number % 5], loss=lambda c: loss[c.number % 5])
    assert confirmation.chosen() == "entrodrop"
    assert confirmation.comparisons()["entrodrop"].contestant == confirmation.contestants[2]
    assert [run.user_attrs["contestant"] for run in confirmation.runs_of("entrodrop")] == [2, 2, 2]


@pytest.mark.parametrize("diverged", [1, 2])
def test_a_setting_whose_runs_diverge_comes_last_and_is_not_recommended(tmp_path: Path, diverged: int) -> None:
    asked = {"confirmation": {"best": 1, "seeds": 4}}
    study, confirmation = searched(tmp_path, **asked)
    confirm(confirmation, fails=lambda c: c.arm != BASELINE and c.settings.seed <= diverged)
    result = ModelResult(study, confirmation)
    assert result.comparisons["entrodrop"].diverged == diverged
    assert result.verdict["best"].verdict == Verdict.BETTER
    assert verdict_of(result, space(**asked)) == Verdict.UNSTABLE
    assert recommend_arm(result, space(**asked)) == BASELINE
    words = describe_result(result, space(**asked))
    told = f"is confirmed better where it came to its end, but {diverged} of its 4 runs diverged"
    assert words.startswith("use no dropout: trial 7 of entrodrop ")
    assert told in words
    # Another one that did not diverge is chosen, though it looks worse.
    (tmp_path / "two").mkdir()
    _, two = searched(tmp_path / "two")
    confirm(two, loss=lambda c: (5.0, 3.0, 4.0)[c.number % 3], fails=lambda c: c.number == 1)
    assert two.comparisons()["entrodrop"].contestant == two.contestants[2]


def test_where_all_runs_fail_no_dropout_is_used(tmp_path: Path) -> None:
    study, confirmation = searched(tmp_path)
    confirm(confirmation, fails=lambda candidate: candidate.arm != BASELINE)
    result = ModelResult(study, confirmation)
    assert recommend_trial(result) == study.baseline()
    assert describe_result(result, space()).startswith("use no dropout: nothing came out of the confirmation; failed: ")


def test_one_general_document_is_no_measure(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    while (candidate := confirmation.ask()) is not None:
        seed = candidate.settings.seed
        values = read(4.0, 5.0, seed)
        for point in values.values():
            point["general"] = {"loss": measured(3.0, seed, documents=1 if point is values["best"] else 2)}
        confirmation.conclude(candidate.number, values)
        run(confirmation, candidate, [4.0] * 2)
    found = confirmation.comparisons()["entrodrop"]
    assert list(found.differences["best"]) == ["high_entropy_loss", "loss"]
    assert list(found.differences["final"]) == ["high_entropy_loss", "loss", "general_loss"]
    assert found.losses["final"]["general_loss"] == pytest.approx(2.852)


def test_the_verdict_allows_for_the_choice_among_all_settings(tmp_path: Path) -> None:
    arms = [{"name": "none", "schedule": None}, *({"name": name} for name in "abcd")]
    _, confirmation = searched(tmp_path, arms=arms, confirmation={"best": 1, "seeds": 3})
    confirm(confirmation, test=lambda candidate: 5.0 + candidate.settings.seed % 2 / 10 * (candidate.arm != BASELINE))
    together = confirmation.comparisons()["a"].differences["best"]["high_entropy_loss"]
    assert confirmation.among == 4
    # Of one difference by itself, with the variance that the runs of all five settings share.
    alone = float(stats.t.isf(0.025, 5 * 2)) * together.error
    assert together.high - together.mean > 1.1 * alone


def test_documents_of_one_group_count_once(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation, test=lambda candidate: 5.0 + 0.01 * candidate.number)
    own = confirmation.comparisons()["entrodrop"].differences["best"]["high_entropy_loss"]
    assert own.groups == own.documents == 6
    confirmation.know_groups([0, 0, 1, 1, 2, 2], [])
    grouped = confirmation.comparisons()["entrodrop"].differences["best"]["high_entropy_loss"]
    assert (grouped.groups, grouped.documents) == (3, 6)
    assert confirmation.study.user_attrs["groups"] == {"test": [0, 0, 1, 1, 2, 2], "general": []}


# In rounds.

ROUNDS: dict[str, Any] = {"confirmation": {"best": 1, "seeds": "auto", "max_seeds": 5}}


def noisy(shift: float, own: float, by_document: float = 0.0) -> Callable[[Candidate], dict[str, Any]]:
    """What a run reads: losses that hang on its seed, and on the document with dropout."""

    def made(candidate: Candidate) -> dict[str, Any]:
        with_dropout = candidate.arm != BASELINE
        generator = np.random.default_rng([candidate.settings.seed, with_dropout])
        effect = by_document * np.array([-1.5, -1.0, -0.2, 0.2, 1.0, 1.5]) + shift
        loss = 5.0 + own * generator.standard_normal() + with_dropout * effect + 0.001 * generator.standard_normal(6)
        values = {"high_entropy_loss": {"sums": (10 * loss).tolist(), "counts": [10.0] * 6}}
        return {point: {"test": values} for point in ("best", "final")}

    return made


def in_rounds(confirmation: Confirmation, reads: Callable[[Candidate], dict[str, Any]], runs: int = 100) -> list[int]:
    """Runs a confirmation in rounds. Returns the seeds of its runs."""
    done: list[int] = []
    while len(done) < runs and (candidate := confirmation.ask()) is not None:
        assert not confirmation.ended
        confirmation.conclude(candidate.number, reads(candidate))
        run(confirmation, candidate, [5.0 if candidate.arm == BASELINE else 4.0] * 2)
        done.append(candidate.settings.seed)
    return done


def test_a_clear_difference_takes_two_seeds(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, **ROUNDS)
    assert confirmation.planned == 2 * 5
    assert in_rounds(confirmation, noisy(-1.0, 0.001)) == [1, 1, 2, 2]
    assert confirmation.ended
    assert confirmation.planned == 4
    found = confirmation.comparisons()["entrodrop"]
    assert (found.seeds, found.differences["best"]["high_entropy_loss"].verdict) == (2, Verdict.BETTER)


def test_where_documents_decide_two_seeds_are_all(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, **ROUNDS)
    assert in_rounds(confirmation, noisy(-0.1, 0.001, by_document=1.0)) == [1, 1, 2, 2]
    found = confirmation.comparisons()["entrodrop"].differences["best"]["high_entropy_loss"]
    assert found.verdict == Verdict.UNDECIDED
    assert "documents decide: for one of 0.1 nats set data.test: " in words(confirmation, 0.95)
    # Here, runs alone are sure of it.
    assert found.verdict_here == Verdict.BETTER


def test_seeds_are_added_while_they_can_decide(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, **ROUNDS)
    seeds = in_rounds(confirmation, noisy(-0.2, 0.2))
    assert 2 < max(seeds) <= 5
    assert sorted(seeds) == sorted([*range(1, max(seeds) + 1)] * 2)


def test_a_round_waits_for_all_its_runs(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, **ROUNDS)
    reads = noisy(-0.2, 0.2)
    in_rounds(confirmation, reads, runs=3)
    last = ask(confirmation)
    assert confirmation.ask() is None
    assert confirmation.waits
    assert not confirmation.exhausted
    confirmation.conclude(last.number, reads(last))
    run(confirmation, last, [4.0] * 2)
    assert not confirmation.waits
    assert ask(confirmation).settings.seed == 3


@pytest.mark.faults
@pytest.mark.parametrize("runs", [1, 4, 5])
def test_rounds_go_on_after_an_interruption_as_if_there_had_been_none(tmp_path: Path, runs: int) -> None:
    (tmp_path / "whole").mkdir()
    reads = noisy(-0.2, 0.2)
    _, uninterrupted = searched(tmp_path / "whole", **ROUNDS)
    whole = in_rounds(uninterrupted, reads)
    _, confirmation = searched(tmp_path, **ROUNDS)
    begun = in_rounds(confirmation, reads, runs)
    ask(confirmation)
    reopened = Confirmation(open_journal(tmp_path / "study.journal"), search(tmp_path, **ROUNDS), space(**ROUNDS))
    assert begun + in_rounds(reopened, reads) == whole
    assert reopened.comparisons() == uninterrupted.comparisons()


def test_a_round_whose_runs_fail_is_followed_by_another(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path, **ROUNDS)
    fail(confirmation, ask(confirmation))
    seeds = in_rounds(confirmation, noisy(-1.0, 0.001))
    assert seeds == [1, 2, 2, 3, 3]
    assert confirmation.ended


# In words.


def words(confirmation: Confirmation, confidence: float) -> str:
    return sentence(
        "entrodrop",
        confirmation.comparisons()["entrodrop"],
        "best",
        "high_entropy_loss",
        confirmation.among,
        confidence,
    )


@pytest.mark.parametrize(
    ("loss", "begins", "interval"),
    [
        (4.0, "use trial 7 of entrodrop: it is confirmed better (high-entropy", "-1.0000 nats, 95% interval -1.0"),
        (6.0, "use no dropout: trial 7 of entrodrop is worse (high-entropy", "+1.0000 nats, 95% interval +0.9"),
        (5.0, "use no dropout: it is not decided whether trial 7 of entrodrop is better (", "+0.0000 nats, 95%"),
    ],
)
def test_the_verdict_is_one_sentence(tmp_path: Path, loss: float, begins: str, interval: str) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation, test=lambda candidate: 5.0 if candidate.arm == BASELINE else loss)
    told = words(confirmation, 0.95)
    assert told.startswith(begins)
    assert interval in told
    assert ", 3 seeds, best of 2 settings)" in told
    assert told.endswith(")") == (loss != 5.0)


def test_the_confidence_is_not_rounded(tmp_path: Path) -> None:
    _, confirmation = searched(tmp_path)
    confirm(confirmation)
    assert "99.9% interval" in words(confirmation, 0.999)


def test_the_same_setting_is_not_confirmed_twice(tmp_path: Path) -> None:
    schedule = {"entropy_threshold": {"quantile": 0.5}, "mask_ratio": [0.2, 0.5], "curriculum": {"shape": "linear"}}
    study = search(tmp_path, schedule=schedule)
    run_all(study, lambda candidate: 5.0 - candidate.parameters.get("mask_ratio", 0.0), 1)
    confirmation = Confirmation(open_journal(tmp_path / "study.journal"), study, space(schedule=schedule))
    assert [c.parameters.get("mask_ratio") for c in confirmation.contestants] == [None, 0.5, 0.2]


@pytest.mark.parametrize(
    ("mean", "documents_error", "lasting_error", "ends"),
    [
        (0.05, 0.019, 0.018, "documents decide: for one of 0.05 nats set data.test: 52"),
        (0.05, 0.001, 0.001, "seeds decide: for one of 0.05 nats set confirmation.seeds: 4"),
        (0.03, 0.015, 0.013, "both decide: for one of 0.03 nats set data.test: 140 and confirmation.seeds: 11"),
        (0.001, 0.015, 0.013, "what was seen, +0.001 nats, is too small to be looked for"),
    ],
)
def test_what_to_raise_is_a_number(mean: float, documents_error: float, lasting_error: float, ends: str) -> None:
    found = Difference(
        mean,
        -0.06,
        0.06,
        -0.06,
        0.06,
        0.075,
        0.02,
        documents_error,
        lasting_error,
        2.8,
        documents=40,
        groups=40,
        seeds=3,
    )
    text = describe_limits(found)
    assert text.startswith("A difference of 0.075 nats would have been seen in 80% of such confirmations; ")
    assert text.endswith(ends)
    limited = ends.replace("data.test:", "data.test.documents:")
    assert describe_limits(found, "data.test.documents").endswith(limited)
    whole = re.sub(r"set data.test: (\d+)( and )?", r"give data.test a source of \1 documents\2set ", ends)
    assert describe_limits(found, None).endswith(whole.removesuffix("set "))
