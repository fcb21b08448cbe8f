import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import BaseTrial

from search.studies import samplers
from search.studies.candidates import Define, round_to_matter
from search.studies.samplers import ArmSampler
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from tests.studies import FULL_TOKENS, MODEL, ask, fail, run, space

SAMPLERS = ["gp", "tpe", "random", "qmc"]
# Those that learn, and trials in which it shows.
LEARNING = [("gp", 12), ("tpe", 60)]
SHAPES = [{"shape": "linear"}, {"shape": "step"}]


def one(trial: BaseTrial) -> list[float]:
    return [trial.suggest_float("x", 0.0, 1.0)]


def nested(trial: BaseTrial) -> list[float]:
    """A setting of its own for one of two shapes."""
    x = trial.suggest_float("x", 1e-4, 1.0, log=True)
    step = trial.suggest_categorical("shape", ["linear", "step"]) == "step"
    return [math.log(x), step, trial.suggest_float("at", 0.2, 0.8) if step else 0.5]


def sampling(name: str, define: Define = one, startup: int = 3, objectives: int = 1, seed: int = 1) -> ArmSampler:
    return ArmSampler(name, startup, seed, define, SHAPES if define is nested else ({},), objectives)


def suggestions(
    sampled: ArmSampler, count: int, values: Callable[[dict[str, Any]], Sequence[float]]
) -> list[dict[str, Any]]:
    """What is suggested, each trial ending before the next one begins."""
    found = []
    for number in range(count):
        found.append(sampled.suggest(number).params)
        sampled.learn(number, values(found[-1]))
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_suggestions_are_valid_and_depend_on_the_seed_alone(name: str) -> None:
    def drawn(seed: int) -> list[dict[str, Any]]:
        return suggestions(sampling(name, nested, startup=5, seed=seed), 6, lambda params: [params["x"]])

    found = drawn(1)
    for params in found:
        assert 1e-4 <= params["x"] <= 1.0
        assert set(params) == ({"x", "shape", "at"} if params["shape"] == "step" else {"x", "shape"})
        assert 0.2 <= params.get("at", 0.5) <= 0.8
        # People read and copy them.
        assert params["x"] == float(f"{params['x']:.4g}")
        assert params.get("at", 0.5) == round(params.get("at", 0.5), 4)
    assert {params["shape"] for params in found} == {"linear", "step"}
    assert len({params["x"] for params in found}) == 6
    assert drawn(1) == found
    assert drawn(2) != found


@pytest.mark.parametrize(
    ("value", "low", "high", "log", "expected"),
    [
        (0.53463995759, 0.1, 0.9, False, 0.5346),
        (12.3456789, 4.0, 20.0, False, 12.35),
        (0.99512345, 0.995, 0.999, False, 0.995123),
        (0.000316227766, 1e-4, 1e-3, True, 0.0003162),
        (123456.789, 1e3, 1e7, True, 123500.0),
        (0.123456, 0.123456, 0.123456, False, 0.123456),
        # Never out of its range.
        (0.12345678, 0.1234567, 0.9, False, 0.1235),
        (0.1234567, 0.1234567, 0.9, False, 0.1235),
        (0.90004, 0.1, 0.90004, False, 0.9),
        (0.90006, 0.1, 0.90006, False, 0.90006),
    ],
)
def test_a_setting_has_the_digits_that_matter(
    value: float, low: float, high: float, log: bool, expected: float
) -> None:
    assert round_to_matter(value, FloatDistribution(low, high, log)) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_guess_is_taken(name: str) -> None:
    sampled = sampling(name, nested)
    # With all its digits: a search of before is gone on with as it was.
    guess = {"shape": "step", "at": 0.3123456789, "x": 0.0123456789}
    assert sampled.suggest(0, guess).params == guess
    # What it leaves open is suggested.
    partly = sampled.suggest(1, {"shape": "step"}).params
    assert partly["shape"] == "step"
    assert 0.2 <= partly["at"] <= 0.8


@pytest.mark.parametrize(("name", "count"), LEARNING)
def test_learning_finds_the_better_region(name: str, count: int) -> None:
    found = suggestions(sampling(name), count, lambda params: [(params["x"] - 0.3) ** 2])
    late = [abs(params["x"] - 0.3) for params in found[count // 2 :]]
    at_random = [abs(params["x"] - 0.3) for params in suggestions(sampling("random"), 60, lambda params: [1.0])]
    assert statistics.median(late) < 0.5 * statistics.median(at_random)


def share_above(name: str, threshold: float, end: Callable[[ArmSampler, int, float], None], count: int) -> float:
    """The share of the later suggestions above `threshold`, where `end` ends a trial; below it all are equal."""
    sampled = sampling(name)
    found: list[float] = []
    for number in range(count):
        found.append(sampled.suggest(number).params["x"])
        if found[-1] > threshold:
            end(sampled, number, found[-1])
        else:
            # The best neighbours the region that is to be avoided.
            sampled.learn(number, [1.0 - 0.1 * found[-1]])
    return sum(x > threshold for x in found[3:]) / (count - 3)


@pytest.mark.parametrize(("name", "count"), LEARNING)
def test_a_region_that_fails_is_avoided(name: str, count: int) -> None:
    def end(sampled: ArmSampler, number: int, x: float) -> None:
        sampled.learn_failure(number)

    assert share_above(name, 0.3, end, count) < 0.75 * share_above("random", 0.3, end, 200)


@pytest.mark.parametrize(("name", "count"), LEARNING)
def test_a_region_in_which_trials_are_stopped_is_avoided(name: str, count: int) -> None:
    def end(sampled: ArmSampler, number: int, x: float) -> None:
        sampled.learn(number, [2.0], {100: 2.0})

    assert share_above(name, 0.3, end, count) < 0.75 * share_above("random", 0.3, end, 200)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_goes_on_when_all_have_failed(name: str) -> None:
    sampled, found = sampling(name, startup=2), set()
    for number in range(4):
        found.add(sampled.suggest(number).params["x"])
        sampled.learn_failure(number)
    assert len(found) == 4


def test_the_first_trials_at_once_are_far_from_each_other() -> None:
    sampled = sampling("gp")
    first = [sampled.suggest(number).params["x"] for number in range(4)]
    assert sorted(int(4 * x) for x in first) == [0, 1, 2, 3]


def test_with_many_trials_tpe_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "_MANY", 9)

    def next_after(count: int) -> list[dict[str, Any]]:
        found = []
        for name in ("gp", "tpe"):
            sampled = sampling(name, nested)
            for number in range(count):
                x = 0.1 + 0.05 * number
                sampled.suggest(number, {"x": x, "shape": "linear"})
                sampled.learn(number, [(x - 0.3) ** 2])
            found.append(sampled.suggest(count).params)
        return found

    gp, tpe = next_after(9)
    assert gp != tpe
    gp, tpe = next_after(10)
    assert gp == tpe


def test_one_diverged_trial_does_not_hide_what_the_others_say() -> None:
    def suggested(worst: float) -> dict[str, Any]:
        sampled = sampling("gp")
        for number, x in enumerate([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]):
            sampled.suggest(number, {"x": x})
            sampled.learn(number, [(x - 0.3) ** 2 if x < 1 else worst])
        return sampled.suggest(6).params

    assert suggested(1e9) == suggested(1e3)
    assert 0.1 < suggested(1e9)["x"] < 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_several_objectives_with_a_failed_trial(name: str) -> None:
    sampled = sampling(name, objectives=2, startup=3)
    for number in range(5):
        x = sampled.suggest(number).params["x"]
        assert 0.0 <= x <= 1.0
        if number == 2:
            sampled.learn_failure(number)
        else:
            # A stopped trial has both values as well.
            sampled.learn(number, [x, 1 - x], {100: x} if number == 3 else None)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_order_in_which_trials_end_does_not_matter(name: str) -> None:
    def next_after(order: Sequence[int]) -> dict[str, Any]:
        sampled = sampling(name, nested, startup=2)
        found = [sampled.suggest(number).params for number in range(5)]
        for number in order:
            if number in (0, 3):
                sampled.learn_failure(number)
            else:
                sampled.learn(number, [found[number]["x"]], {100: 1.0} if number == 2 else None)
        return sampled.suggest(5).params

    assert next_after([0, 1, 2, 3, 4]) == next_after([4, 3, 1, 0, 2]) == next_after([3, 0, 2, 1, 4])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_search_goes_on_as_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    schedule = {
        "entropy_threshold": {"quantile": 0.5},
        "mask_ratio": {"low": 0.1, "high": 0.9},
        "curriculum": [{"shape": "linear"}, {"shape": "step"}],
    }
    asked = space(
        sampler={"name": name, "startup_trials": 4},
        schedule=schedule,
        budget={"trials": 8, "epochs": 8},
        early_stopping={"patience": 3, "audit": 0.0},
    )

    def opened(folder: str) -> SearchStudy:
        (tmp_path / folder).mkdir(exist_ok=True)
        study = SearchStudy(open_journal(tmp_path / folder / "study.journal"), MODEL, asked)
        study.set_full_tokens(FULL_TOKENS)
        return study

    def table(study: SearchStudy) -> list[Any]:
        return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in study.study.trials]

    def go_on(study: SearchStudy, until: int) -> None:
        """Two trials at a time, of which the one that began later ends first; the fifth fails."""
        while (first := study.ask()) is not None:
            second = study.ask()
            for candidate in filter(None, (second, first)):
                if candidate.number == 4:
                    fail(study, candidate)
                else:
                    depth = 5 + math.sin(candidate.number)
                    run(study, candidate, [depth + 0.1 * epoch * (candidate.number % 2) for epoch in range(8)])
            if first.number >= until:
                return

    whole, parts = opened("whole"), opened("parts")
    go_on(whole, until=100)
    go_on(parts, until=4)
    parts = opened("parts")
    go_on(parts, until=100)
    assert table(parts) == table(whole)
    # Eight full ones and more, as some stop early.
    assert len(table(parts)) > 8


def test_an_interrupted_trial_comes_first_with_its_settings(tmp_path: Path) -> None:
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, space())
    ask(study)
    left = ask(study)
    again = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, space())
    assert [ask(again).number, ask(again)] == [0, left]
