"""A search for the most right answers."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from search.arms import BASELINE
from search.results.costs import tabulate_trials
from search.results.figures import draw_verdict
from search.results.files import describe_result, format_best_schedule, tabulate_comparison
from search.results.model_result import ModelResult, recommend_arm, verdict_of
from search.results.next_steps import next_steps
from search.studies.confirmation import Confirmation
from search.studies.storage import open_journal
from search.studies.study import Candidate
from search.studies.verdict import Difference, Verdict, differences
from tests.studies import ask, run, search, space
from trainables.config.command_line import CommandLine

ASKED: dict[str, Any] = {"objective": "exact_match", "evaluation": {"exact_match": 4}}
QUESTIONS = 60

Right = Callable[[Candidate], float]


def confirmed(
    folder: Path, right: Right, test: Right, loss: Right = lambda candidate: 5.0, **changes: Any
) -> ModelResult:
    """A search whose trials have these shares of right answers, and losses; and its confirmation, with such shares on
    the test split."""
    data = {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": QUESTIONS}
    asked = {**ASKED, "data": data, **changes}
    study = search(folder, **asked)
    confirmation = Confirmation(open_journal(folder / "study.journal"), study, space(**asked))
    for each in (study, confirmation):
        while (candidate := each.ask()) is not None:
            if candidate.test:
                draw = np.random.default_rng(candidate.number).random(QUESTIONS)
                answers = {"sums": (draw < test(candidate)).astype(float).tolist(), "counts": [1.0] * QUESTIONS}
                losses = {"sums": [5.0] * QUESTIONS, "counts": [1.0] * QUESTIONS}
                read = {"test": {"high_entropy_loss": losses, "exact_match": answers}}
                each.conclude(candidate.number, {"best": read, "final": read})
            shares = {"exact_match": [right(candidate)] * 2}
            assert run(each, candidate, [loss(candidate)] * 2, **shares) == "complete"
    return ModelResult(study, confirmation)


def by_ratio(candidate: Candidate) -> float:
    """The larger the mask ratio, the more right answers."""
    ratio: float = candidate.parameters.get("mask_ratio", 0.5)
    return ratio


def test_the_best_has_the_most_right_answers_whatever_its_loss(tmp_path: Path) -> None:
    study = search(tmp_path, **ASKED)
    for share, loss in ((0.5, 1.0), (0.25, 1.0), (0.75, 9.0), (0.5, 2.0)):
        run(study, ask(study), [loss] * 8, exact_match=[share] * 8)
    best = study.best()
    assert best is not None
    assert (best.number, best.value) == (2, 0.25)
    assert [row["objective"] for row in tabulate_trials(study)] == [0.5, 0.25, 0.75, 0.5]


def test_the_sampler_looks_for_right_answers(tmp_path: Path) -> None:
    study = search(tmp_path, **ASKED, budget={"trials": 24, "epochs": 8}, sampler={"startup_trials": 3})
    while (candidate := study.ask()) is not None:
        ratio = candidate.parameters.get("mask_ratio", 0.0)
        run(study, candidate, [ratio] * 8, exact_match=[ratio] * 8)
    late = [trial.params["mask_ratio"] > 0.6 for trial in study.study.trials[6:]]
    assert sum(late) / len(late) > 0.5


def test_no_trial_stops_early(tmp_path: Path) -> None:
    stopping = {"pruner": "comebacks", "patience": 1, "audit": 0.0}
    study = search(tmp_path, **ASKED, early_stopping=stopping, budget={"trials": 12, "epochs": 8})
    while (candidate := study.ask()) is not None:
        losses = [5.0 + candidate.number + epoch for epoch in range(8)]
        assert run(study, candidate, losses, exact_match=[0.5] * 8) == "complete"


@pytest.mark.parametrize(
    ("share", "verdict", "begins"),
    [
        (
            0.95,
            Verdict.BETTER,
            "use trial {} of entrodrop: it is confirmed better (share of right test answers against",
        ),
        (0.02, Verdict.WORSE, "use no dropout: trial {} of entrodrop is worse (share of right test answers against"),
        (
            0.5,
            Verdict.UNDECIDED,
            "use no dropout: it is not decided whether trial {} of entrodrop is better (share of ",
        ),
    ],
)
def test_the_verdict_is_about_right_answers(tmp_path: Path, share: float, verdict: Verdict, begins: str) -> None:
    asked = space(**ASKED)
    result = confirmed(tmp_path, by_ratio, lambda candidate: 0.5 if candidate.arm == BASELINE else share)
    assert verdict_of(result, asked) == verdict
    assert recommend_arm(result, asked) == ("entrodrop" if verdict == Verdict.BETTER else BASELINE)
    words = describe_result(result, asked)
    assert result.chosen is not None
    chosen = result.comparisons[result.chosen]
    assert words.startswith(begins.format(chosen.contestant.trial))
    assert "nats" not in words
    found = result.verdict["final"]
    mine, without = (result.comparisons[arm].losses["final"]["exact_match"] for arm in ("entrodrop", BASELINE))
    assert found.mean == pytest.approx(mine - without)
    assert found.documents == found.groups == QUESTIONS
    figure = draw_verdict([result], asked)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "right of 0 is better"
    assert figure.get_suptitle().startswith("share of right test answers against no dropout\n")
    out = StringIO()
    Console(file=out, width=120).print(tabulate_comparison([result], asked, asked.measure))
    assert f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})" in out.getvalue()
    schedule = format_best_schedule(result, asked) or ""
    mean = 0.5 if verdict != Verdict.BETTER else chosen.validation
    assert f"# Share of right validation answers {mean:.4f}, mean over the seeds" in schedule
    assert "; without dropout 0.5000." in schedule
    steps = next_steps(result, asked, CommandLine("entrodrop run", "a.yaml", (), "out"), "out")
    assert steps[0].why == ("train with this schedule" if verdict == Verdict.BETTER else "train without dropout")
    assert not any("objective=" in step.command for step in steps)


def test_what_is_not_confirmed_is_told_in_right_answers(tmp_path: Path) -> None:
    study = search(tmp_path, **ASKED, confirmation=None)
    while (candidate := study.ask()) is not None:
        run(study, candidate, [5.0] * 2, exact_match=[candidate.number / 10] * 2)
    words = describe_result(ModelResult(study, None), space(**ASKED, confirmation=None))
    assert words == (
        "use trial 7, which looks better and is not confirmed (70.0% right answers at the end; without dropout 0.0% "
        "right answers at the end)"
    )


# The interval.


def told(
    ours: int, theirs: int, both: int, neither: int, groups: list[int] | None = None, seeds: int = 2
) -> Difference:
    """What is said of questions that we, they, both or neither answer, in every run alike."""
    mine = [1.0] * ours + [0.0] * theirs + [1.0] * both + [0.0] * neither
    other = [0.0] * ours + [1.0] * theirs + [1.0] * both + [0.0] * neither
    right = [np.array([each] * seeds) for each in (other, mine)]
    (found,) = differences(right, np.ones(len(mine)), groups, answers=True)
    return found


def test_questions_are_paired() -> None:
    # Where few answers differ, the same difference is surer than where many do.
    few, many = told(10, 0, 50, 40), told(30, 20, 25, 25)
    assert few.mean == many.mean == pytest.approx(0.1)
    assert few.high - few.low < 0.6 * (many.high - many.low)
    assert (few.verdict, many.verdict) == (Verdict.BETTER, Verdict.UNDECIDED)
    assert told(0, 10, 50, 40).verdict == Verdict.WORSE


@pytest.mark.parametrize("ours", [0, 1, 2, 4])
def test_a_few_answers_decide_nothing_and_the_interval_is_one_of_shares(ours: int) -> None:
    # Of so few coins as many may fall on one side (McNemar: 0.125 with four).
    found = told(ours, 0, 20, 20 - ours)
    assert found.verdict == Verdict.UNDECIDED
    assert -1 < found.low < 0 < found.high < 1


def test_questions_of_one_prompt_count_as_one_draw() -> None:
    alone, grouped = told(16, 4, 10, 10), told(16, 4, 10, 10, groups=[k // 4 for k in range(40)])
    assert (alone.groups, grouped.groups) == (40, 10)
    assert grouped.high - grouped.low > alone.high - alone.low


def test_equality_is_within_the_margin() -> None:
    same = np.array([[1.0, 0.0] * 500] * 2)
    (found,) = differences([same, same], np.ones(1000), margin=0.02, answers=True)
    assert found.verdict == Verdict.EQUAL
