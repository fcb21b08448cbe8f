import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from search.arms import BASELINE
from search.studies.arm_spaces import arms_of, dimensions, encode_settings
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import device_s_of
from tests.studies import FULL_TOKENS, MODEL, NOTHING_SEARCHED, ONE_SEARCHED, ask, fail, run, run_all, search, space
from trainables.config.training import REGULARIZERS
from trainables.token_weight import Eaft

RATE = {"low": 1e-4, "high": 1e-2, "log": True}
ARMS: list[dict[str, Any]] = [
    {"name": "none", "schedule": None},
    {"name": "entrodrop"},
    {"name": "nats", "schedule": {"entropy_threshold": {"nats": {"low": 0.5, "high": 2.0}}}},
    {"name": "noise", "schedule": None, "training": {"neftune_alpha": {"low": 1.0, "high": 9.0}, "weight_decay": 0.5}},
    {"name": "eaft", "schedule": None, "training": {"token_weight": {"kind": "eaft", "alpha": [0.5, 1.0]}}},
]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# What arms are.


def test_without_arms_there_are_the_baseline_and_the_schedule() -> None:
    assert [(arm.name, arm.trials) for arm in arms_of(space())] == [("none", 1), ("entrodrop", 7)]
    assert [(arm.name, arm.trials) for arm in arms_of(space(schedule=None))] == [("none", 1), ("regularized", 1)]


def test_each_arm_has_the_budget() -> None:
    trials = {arm.name: arm.trials for arm in arms_of(space(arms=ARMS, training={"learning_rate": RATE}))}
    assert trials == {"none": 8, "entrodrop": 8, "nats": 8, "noise": 8, "eaft": 8}


def test_an_arm_in_which_nothing_is_searched_has_one_trial() -> None:
    trials = {arm.name: arm.trials for arm in arms_of(space(arms=ARMS, schedule=NOTHING_SEARCHED))}
    assert trials == {"none": 1, "entrodrop": 1, "nats": 8, "noise": 8, "eaft": 8}


def test_settings_become_numbers_that_tell_what_is_dropped_whatever_the_shape() -> None:
    shapes = [{"shape": "constant"}, {"shape": "linear", "until": 0.5}, {"shape": "spline", "rises": [1.0, 0.0]}]
    schedule = ONE_SEARCHED | {"curriculum": shapes, "presentation": ["input", "loss"]}
    searched = arms_of(space(schedule=schedule, training={"learning_rate": RATE}))[1].space

    def numbers(shape: str, ratio: float, presentation: str = "loss") -> list[float]:
        params = {"curriculum.shape": shape, "mask_ratio": ratio, "presentation": presentation, "learning_rate": 1e-3}
        return encode_settings(searched, FixedTrial(params))

    common = [math.log(1e-3), 0.0, 1.0]
    assert sorted(numbers("constant", 0.5)) == pytest.approx(sorted([*common, 0.5, 0.5, 0.5, 0.5]))
    assert sorted(numbers("linear", 0.8)) == pytest.approx(sorted([*common, 0.2, 0.6, 0.8, 0.8]))
    # A spline that rises up to half of the budget.
    assert numbers("spline", 0.8) == pytest.approx(numbers("linear", 0.8), abs=0.15)
    assert numbers("linear", 0.8, "input") != numbers("linear", 0.8)


def test_the_baseline_drops_nothing_and_has_no_regularizer() -> None:
    weighted = {"token_weight": {"kind": "mile", "gamma": [1.0, 2.0]}}
    changes = {"training": {"hidden_dropout": [0.0, 0.3], "label_smoothing": 0.1, "weight_decay": 0.2, **weighted}}
    for given in (space(**changes), space(arms=ARMS, **changes)):
        baseline = arms_of(given)[0]
        assert (baseline.name, baseline.space.schedule, dimensions(baseline.space)) == (BASELINE, None, [])
        assert [getattr(baseline.space.training, name) for name in REGULARIZERS] == [0.0] * 4
        assert baseline.space.training.weight_decay == 0.2
        assert baseline.space.training.token_weight is None


def test_settings_belong_to_their_arm(tmp_path: Path) -> None:
    study = search(tmp_path, arms=ARMS, budget={"trials": 2, "epochs": 8})
    first = {candidate.arm: candidate.settings for candidate in run_all(study, lambda candidate: 5.0, 1)}
    none, entrodrop, nats, noise, eaft = (first[arm["name"]] for arm in ARMS)
    assert (none.entrodrop, none.neftune_alpha, none.weight_decay) == (None, 0.0, 0.01)
    assert entrodrop.entrodrop is not None
    assert (entrodrop.entrodrop.quantile, entrodrop.entrodrop.nats, entrodrop.neftune_alpha) == (0.5, None, 0.0)
    assert nats.entrodrop is not None
    assert nats.entrodrop.quantile is None
    assert 0.5 <= (nats.entrodrop.nats or 0.0) <= 2.0
    assert (noise.entrodrop, noise.weight_decay) == (None, 0.5)
    assert noise.neftune_alpha >= 1.0
    assert eaft.token_weight in (Eaft(20, 0.5), Eaft(20, 1.0))
    assert [arm.token_weight for arm in (none, entrodrop, nats, noise)] == [None] * 4


def test_names_of_parameters_carry_the_arms_name(tmp_path: Path) -> None:
    study = search(tmp_path, arms=ARMS, budget={"trials": 2, "epochs": 8})
    candidates = run_all(study, lambda candidate: 5.0, 1)
    for trial, candidate in zip(study.study.trials, candidates, strict=True):
        assert all(name.startswith(f"{candidate.arm}.") for name in trial.params)
        assert study.parameters(trial) == candidate.parameters
    names = {name for trial in study.study.trials for name in trial.params}
    assert names == {
        "entrodrop.mask_ratio",
        "nats.mask_ratio",
        "nats.entropy_threshold.nats",
        "noise.neftune_alpha",
        "eaft.token_weight.eaft.alpha",
    }


# Whose turn it is.


def test_the_next_arm_is_the_one_that_has_used_the_least(tmp_path: Path) -> None:
    study = search(
        tmp_path,
        arms=[{"name": "none", "schedule": None}, {"name": "a"}, {"name": "b"}],
        training={"learning_rate": RATE},
        early_stopping={"patience": 1, "audit": 0.0},
    )
    first = [ask(study) for _ in range(3)]
    assert [candidate.arm for candidate in first] == ["none", "a", "b"]
    run(study, first[0], [5.0] * 8)
    fail(study, first[1])
    run(study, first[2], [5.0] * 8)
    # Of a nothing has been used, then a running trial; b stopped after two evaluations of eight.
    assert [ask(study).arm for _ in range(2)] == ["a", "b"]


def test_tokens_are_a_budget_of_each_arm(tmp_path: Path) -> None:
    study = search(
        tmp_path,
        arms=[{"name": "none", "schedule": None}, {"name": "a"}],
        training={"learning_rate": RATE},
        budget={"trials": 8, "epochs": 8, "tokens": 3 * FULL_TOKENS},
    )
    candidates = run_all(study, lambda candidate: 5.0)
    assert [candidate.arm for candidate in candidates] == ["none", "a"] * 3
    assert study.ended


def test_what_is_stopped_early_leaves_tokens_for_more_trials(tmp_path: Path) -> None:
    study = search(
        tmp_path,
        budget={"trials": 20, "epochs": 8, "tokens": 2 * FULL_TOKENS},
        early_stopping={"patience": 1, "audit": 0.0},
    )
    candidates = run_all(study, lambda candidate: 5.0)
    # One trial without dropout, and eight that stop after a quarter.
    assert [candidate.arm for candidate in candidates] == ["none"] + ["entrodrop"] * 8


def test_trials_are_full_ones(tmp_path: Path) -> None:
    study = search(tmp_path, budget={"trials": 3, "epochs": 8}, early_stopping={"patience": 1, "audit": 0.0})
    assert study.planned == 3
    candidates = run_all(study, lambda candidate: 5.0)
    # Two full ones; as long as one more is left, another begins. Each stops after a quarter.
    assert [candidate.arm for candidate in candidates] == ["none"] + ["entrodrop"] * 5
    assert study.planned == 6
    reopened = search(tmp_path, budget={"trials": 4, "epochs": 8}, early_stopping={"patience": 1, "audit": 0.0})
    assert len(run_all(reopened, lambda candidate: 5.0)) == 4


def test_trials_are_not_more_than_full_ones_fit_in(tmp_path: Path) -> None:
    study = search(tmp_path, budget={"trials": 2, "epochs": 8}, early_stopping={"patience": 4, "audit": 0.0})
    # The one that is searched stops after five of eight evaluations: what is left is not enough for another.
    assert len(run_all(study, lambda candidate: 5.0)) == 2


def test_a_trial_that_failed_counts_as_a_full_one(tmp_path: Path) -> None:
    study = search(tmp_path, budget={"trials": 4, "epochs": 8})
    while (candidate := study.ask()) is not None:
        fail(study, candidate)
    assert len(study.study.trials) == 4


def test_hours_end_the_search_of_a_size(tmp_path: Path) -> None:
    clock, limited = Clock(), space(budget={"trials": 8, "epochs": 8, "hours": 1.0})
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, limited, clock=clock)
    study.set_full_tokens(FULL_TOKENS)
    clock.now = 9000.0
    first = ask(study)
    clock.now += 3500
    second = ask(study)
    assert not study.exhausted
    clock.now += 200
    # What runs then runs on.
    assert study.exhausted
    assert study.ask() is None
    run(study, first, [5.0] * 8)
    assert not study.ended
    run(study, second, [5.0] * 8)
    assert study.ended


def test_the_time_between_an_interruption_and_its_end_does_not_count(tmp_path: Path) -> None:
    limited = space(budget={"trials": 8, "epochs": 8, "hours": 1.0})
    clock = Clock()
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, limited, clock=clock)
    study.set_full_tokens(FULL_TOKENS)
    first = ask(study)
    clock.now = 3000.0
    run(study, first, [5.0] * 8)
    clock.now = 50_000.0
    resumed = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, limited, clock=clock)
    assert resumed.elapsed_s == 3000.0
    ask(resumed)
    clock.now += 500
    assert not resumed.exhausted
    clock.now += 100
    assert resumed.exhausted


@pytest.mark.parametrize(("resources", "devices"), [({"workers": 2, "cpus_per_worker": 1}, 2), ({}, 1)])
def test_device_hours_count_what_each_trial_holds(tmp_path: Path, resources: dict[str, int], devices: int) -> None:
    study = search(tmp_path, budget={"trials": 8, "epochs": 8, "device_hours": 1.0}, resources=resources)

    def run_for(seconds: float) -> None:
        run(study, ask(study), [5.0] * 8, seconds=[seconds / 8] * 8)

    run_for(1790 / devices)
    run_for(1790 / devices)
    run_for(30 / devices)
    assert study.ask() is None
    assert [device_s_of(trial) for trial in study.study.trials] == pytest.approx([1790, 1790, 30])


# From one size to the next.


def test_the_first_trials_of_a_size_are_the_best_of_the_smaller_one(tmp_path: Path) -> None:
    arms = [{"name": "none", "schedule": None}, {"name": "a"}, {"name": "b"}]
    changes: dict[str, Any] = {"arms": arms, "transfer": 2, "budget": {"trials": 4, "epochs": 8}}
    smaller = search(tmp_path, **changes)
    run_all(smaller, lambda candidate: 5.0 - candidate.number % 5 / 10, 1)
    larger = search(tmp_path, "builtin/micro", smaller, **changes)
    candidates = [candidate for candidate in (larger.ask() for _ in range(5)) if candidate is not None]
    for arm in ("a", "b"):
        best = [trial.params for trial in smaller.ranked(arm)[:2]]
        own = [larger.study.trials[candidate.number].params for candidate in candidates if candidate.arm == arm]
        assert own == best
    assert [trial.number for trial in smaller.ranked("a")] != sorted(trial.number for trial in smaller.ranked("a"))


def test_nothing_is_handed_on_where_the_space_says_so(tmp_path: Path) -> None:
    smaller = search(tmp_path, transfer=0)
    run_all(smaller, lambda candidate: 5.0 - candidate.number / 100, 1)
    larger = search(tmp_path, "builtin/micro", smaller, transfer=0)
    assert [ask(larger).parameters for _ in range(2)][1]["mask_ratio"] == 0.5


def test_a_size_of_which_nothing_is_known_hands_on_nothing(tmp_path: Path) -> None:
    smaller = search(tmp_path)
    while (candidate := smaller.ask()) is not None:
        fail(smaller, candidate)
    larger = search(tmp_path, "builtin/micro", smaller)
    assert [ask(larger).parameters for _ in range(2)][1]["mask_ratio"] == 0.5


def test_the_same_setting_is_not_handed_on_twice(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"schedule": NOTHING_SEARCHED | {"mask_ratio": [0.2, 0.5]}}
    smaller = search(tmp_path, **changes)
    run_all(smaller, lambda candidate: 5.0 - candidate.parameters.get("mask_ratio", 0.0), 1)
    assert [t.params["mask_ratio"] for t in smaller.ranked("entrodrop")[:2]] == [0.5, 0.5]
    assert [t.params["mask_ratio"] for t in smaller.best_settings("entrodrop", 2)] == [0.5, 0.2]
    larger = search(tmp_path, "builtin/micro", smaller, **changes)
    assert [ask(larger).parameters.get("mask_ratio") for _ in range(3)] == [None, 0.5, 0.2]


def test_what_a_larger_budget_found_is_handed_on_as_well(tmp_path: Path) -> None:
    def searched(trials: int) -> SearchStudy:
        study = search(tmp_path, budget={"trials": trials, "epochs": 8})
        run_all(study, lambda candidate: 5.0 - candidate.number / 100, 1)
        return study

    larger = search(tmp_path, "builtin/micro", searched(4))
    for _ in range(2):
        run(larger, ask(larger), [5.0])
    smaller = searched(8)
    resumed = search(tmp_path, "builtin/micro", smaller)
    number = ask(resumed).number
    assert resumed.study.trials[number].params == smaller.ranked("entrodrop")[0].params


def test_tokens_are_kept_to_before_a_trials_are_known(tmp_path: Path) -> None:
    limited = space(budget={"trials": 8, "epochs": 8, "tokens": FULL_TOKENS})
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, limited)
    begun = [ask(study), ask(study)]
    assert [candidate.arm for candidate in begun] == ["none", "entrodrop"]
    assert study.ask() is None
    # What failed before it reported anything leaves its place to another one.
    fail(study, begun[1])
    assert ask(study).arm == "entrodrop"
