"""What a space's constraint does to the sampler, to the choice, and to the verdict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.arms import BASELINE
from search.results.files import describe_result, format_best_schedule
from search.results.model_result import ModelResult, recommend_arm, verdict_of
from search.results.next_steps import next_steps
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate
from search.studies.verdict import Verdict
from tests.studies import ask, run, search, space
from trainables.config.command_line import CommandLine
from trainables.config.recipe import load_recipe

GENERAL = {"source": "builtin", "task": "letter_counting", "documents": 8}
CONSTRAINED: dict[str, Any] = {"general": GENERAL, "constraints": {"general_loss": 0.05}}

# Of a trial the loss, and the general loss.
Losses = Callable[[Candidate], tuple[float, float]]


def ended(study: SearchStudy, losses: Losses) -> SearchStudy:
    while (candidate := study.ask()) is not None:
        loss, general = losses(candidate)
        run(study, candidate, [loss] * 8, general_loss=[general] * 8)
    return study


def forgets(candidate: Candidate) -> tuple[float, float]:
    """The larger the mask ratio the better; above a half what is general is forgotten."""
    ratio = candidate.parameters.get("mask_ratio", 0.0)
    return 5.0 - ratio, 3.0 + max(0.0, ratio - 0.5)


def test_the_best_is_the_best_of_those_that_keep_the_constraint(tmp_path: Path) -> None:
    made = [(5.0, 3.0), (4.0, 3.2), (4.5, 3.05), (4.6, 3.0), (3.0, 3.06), (9.0, 3.0), (9.0, 3.0), (9.0, 3.0)]
    study = ended(search(tmp_path, **CONSTRAINED), lambda candidate: made[candidate.number])
    best = study.best()
    assert best is not None
    assert best.number == 2
    # What breaks it comes last, by how much.
    assert [trial.number for trial in study.ranked("entrodrop")] == [2, 3, 5, 6, 7, 4, 1]
    assert [trial.number for trial in study.best_settings("entrodrop", 3)] == [2, 3, 5]
    (tmp_path / "free").mkdir()
    free = ended(search(tmp_path / "free", general=GENERAL), lambda candidate: made[candidate.number])
    assert [trial.number for trial in free.best_settings("entrodrop", 3)] == [4, 1, 2]


def test_the_front_has_none_that_breaks_the_constraint(tmp_path: Path) -> None:
    made = [(5.0, 3.0), (4.0, 3.2), (4.5, 3.05), *[(9.0, 9.0)] * 5]
    both = {**CONSTRAINED, "objectives": ["high_entropy_loss", "general_loss"]}
    study = ended(search(tmp_path, **both), lambda candidate: made[candidate.number])
    assert [trial.number for trial in study.pareto_front()] == [2, 0]


@pytest.mark.parametrize("objective", ["best", "final", "mean"])
def test_the_constraint_is_on_the_evaluation_that_counts(tmp_path: Path, objective: str) -> None:
    study = search(tmp_path, **CONSTRAINED, objective=objective)
    run(study, ask(study), [5.0, 4.0, 6.0], general_loss=[1.0, 2.0, 6.0])
    assert study.limit == pytest.approx({"best": 2.0, "final": 6.0, "mean": 3.0}[objective] + 0.05)


def test_a_trial_behind_one_that_breaks_the_constraint_is_not_stopped(tmp_path: Path) -> None:
    stopping = {"pruner": "rungs", "patience": None, "audit": 0.0}
    study = ended(search(tmp_path, **CONSTRAINED, objective="final", early_stopping=stopping), forgets)
    assert {trial.state.name for trial in study.study.trials} == {"COMPLETE"}


@pytest.mark.parametrize("name", ["tpe", pytest.param("gp", marks=pytest.mark.faults)])
def test_the_sampler_avoids_what_breaks_the_constraint(tmp_path: Path, name: str) -> None:
    def share_above(folder: str, **changes: Any) -> float:
        (tmp_path / folder).mkdir()
        asked = {"sampler": {"name": name, "startup_trials": 3}, "budget": {"trials": 24, "epochs": 8}, **changes}
        study = ended(search(tmp_path / folder, general=GENERAL, **asked), forgets)
        late = [trial.params["mask_ratio"] > 0.65 for trial in study.study.trials[6:]]
        return sum(late) / len(late)

    assert share_above("constrained", constraints={"general_loss": 0.05}) < 0.5 < share_above("free")


@pytest.mark.parametrize("name", ["tpe", pytest.param("gp", marks=pytest.mark.faults), "random", "qmc"])
def test_a_resumed_search_knows_the_constraint_as_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    # Of the baseline's trials the best one changes, and with it what breaks the constraint.
    arms = [
        {"name": "none", "schedule": None, "training": {"weight_decay": [0.0, 0.1, 0.2, 0.3]}},
        {"name": "entrodrop"},
    ]
    asked = {**CONSTRAINED, "sampler": {"name": name, "startup_trials": 2}, "arms": arms}

    def losses(candidate: Candidate) -> tuple[float, float]:
        loss, general = forgets(candidate)
        return loss - candidate.number / 50, general + candidate.number / 50 * (candidate.arm == BASELINE)

    def go_on(study: SearchStudy, until: int) -> None:
        """Two trials at a time, of which the one that began later ends first."""
        while (first := study.ask()) is not None:
            for candidate in filter(None, (study.ask(), first)):
                loss, general = losses(candidate)
                run(study, candidate, [loss] * 8, general_loss=[general] * 8)
            if first.number >= until:
                return

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = search(tmp_path / "whole", **asked)
    go_on(whole, until=100)
    go_on(search(tmp_path / "parts", **asked), until=6)
    parts = search(tmp_path / "parts", **asked)
    go_on(parts, until=100)
    assert [trial.params for trial in parts.study.trials] == [trial.params for trial in whole.study.trials]
    assert len(whole.study.trials) == 16


# The verdict.


def confirmed(folder: Path, general: Callable[[Candidate], float], own: float = 0.001, **changes: Any) -> ModelResult:
    """A confirmation in which all with dropout is a nat better; `general` is the general loss of a run's setting, and
    `own` what runs have of their own of it."""
    folder.mkdir(exist_ok=True)
    asked = {**CONSTRAINED, **changes}
    study = ended(search(folder, **asked), lambda candidate: (forgets(candidate)[0], 3.0))
    confirmation = Confirmation(open_journal(folder / "study.journal"), study, space(**asked))
    while (candidate := confirmation.ask()) is not None:
        generator = np.random.default_rng([candidate.settings.seed, candidate.number])
        test = 5.0 - (candidate.arm != BASELINE) + 0.01 * generator.standard_normal(6)
        forgotten = general(candidate) + own * generator.standard_normal() + 0.001 * generator.standard_normal(8)
        read = {
            name: {measure: {"sums": (10 * values).tolist(), "counts": [10.0] * len(values)}}
            for name, measure, values in (("test", "high_entropy_loss", test), ("general", "loss", forgotten))
        }
        confirmation.conclude(candidate.number, {"best": read, "final": read})
        run(confirmation, candidate, [forgets(candidate)[0]] * 2)
    return ModelResult(study, confirmation)


@pytest.mark.parametrize(
    ("more", "own", "verdict", "told"),
    [
        (0.02, 0.001, Verdict.BETTER, "it is confirmed better (high-entropy test loss"),
        (0.08, 0.001, Verdict.COSTLY, "is confirmed better, but breaks the constraint (high-entropy test loss"),
        (
            0.0,
            0.015,
            Verdict.COSTLY,
            "is confirmed better, but is not shown to keep the constraint (high-entropy test loss",
        ),
    ],
)
def test_a_winner_that_is_not_shown_to_keep_the_constraint_is_not_recommended(
    tmp_path: Path, more: float, own: float, verdict: Verdict, told: str
) -> None:
    asked = space(**CONSTRAINED)
    result = confirmed(tmp_path, lambda candidate: 3.0 + more * (candidate.arm != BASELINE), own)
    assert verdict_of(result, asked) == verdict
    assert recommend_arm(result, asked) == ("entrodrop" if verdict == Verdict.BETTER else BASELINE)
    words = describe_result(result, asked)
    assert words.startswith("use trial " if verdict == Verdict.BETTER else "use no dropout: trial ")
    assert told in words
    assert "; general loss " in words
    assert ", at most +0.05 allowed)" in words
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text(format_best_schedule(result, asked) or "")
    assert (load_recipe(schedule).config.schedule is None) == (verdict == Verdict.COSTLY)
    steps = next_steps(result, asked, CommandLine("entrodrop run", "a.yaml", (), "out"), "out")
    assert steps[0].why == ("train with this schedule" if verdict == Verdict.BETTER else "train without dropout")
    if verdict == Verdict.COSTLY:
        assert ("budget.trials=16" in steps[1].command) == (more > 0.05)
        assert ("confirmation.seeds=" in steps[1].command or "general.documents=" in steps[1].command) == (more < 0.05)


def test_of_two_settings_that_are_confirmed_the_one_that_keeps_the_constraint_is_chosen(tmp_path: Path) -> None:
    def general(candidate: Candidate) -> float:
        return 3.0 + 0.2 * (candidate.parameters.get("mask_ratio") == best)

    free = confirmed(tmp_path / "free", lambda candidate: 3.0)
    assert free.chosen is not None
    best = free.comparisons[free.chosen].contestant.parameters["mask_ratio"]
    result = confirmed(tmp_path / "constrained", general)
    assert result.chosen is not None
    assert result.comparisons[result.chosen].contestant.parameters["mask_ratio"] != best
    assert verdict_of(result, space(**CONSTRAINED)) == Verdict.BETTER


def test_seeds_are_added_while_they_can_tell_that_the_constraint_is_kept(tmp_path: Path) -> None:
    rounds = {"confirmation": {"best": 1, "seeds": "auto", "max_seeds": 6}}
    near = confirmed(tmp_path / "near", lambda candidate: 3.0, own=0.02, **rounds)
    clear = confirmed(tmp_path / "clear", lambda candidate: 3.0, own=0.0001, **rounds)
    assert clear.comparisons["entrodrop"].seeds == 2
    assert 2 < near.comparisons["entrodrop"].seeds <= 6


def test_what_is_not_confirmed_and_breaks_the_constraint_is_told(tmp_path: Path) -> None:
    asked = {**CONSTRAINED, "confirmation": None}
    study = ended(search(tmp_path, **asked), lambda candidate: (4.0, 3.0 + 0.1 * (candidate.arm != BASELINE)))
    result = ModelResult(study, None)
    assert "general loss 3.1000, above the 3.0500 allowed" in describe_result(result, space(**asked))
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text(format_best_schedule(result, space(**asked)) or "")
    assert load_recipe(schedule).config.schedule is None
    (step,) = next_steps(result, space(**asked), CommandLine("entrodrop run", "a.yaml", (), "out"), "out")
    assert step.why == "try more settings, as none kept the constraint"
