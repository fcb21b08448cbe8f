"""What a search advises when it has ended."""

import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from search.results.files import describe_result
from search.results.model_result import ModelResult
from search.results.next_steps import Step, next_steps
from search.space import Space
from search.studies.comparison import settings_to_raise
from search.studies.study import Candidate
from search.studies.verdict import Verdict
from tests.search import fed as made_up
from tests.search.fed import ARMS, Losses, curve, fed, space
from trainables.config.command_line import CommandLine
from trainables.config.data import FilesData, FilesSplit

COMMAND = CommandLine("entrodrop run", "my spaces/a.yaml", ("seed=3", "data.test=20"), "out")


def searched(tmp_path: Path, asked: Space, effect: float, losses: Losses = curve) -> ModelResult:
    """A search whose EntroDrop differs on the test split by `effect` from no dropout."""
    with mock.patch.dict(made_up.EFFECTS, {"entrodrop": effect}):
        return fed(tmp_path, asked, losses=losses)


def steps(tmp_path: Path, asked: Space, effect: float, losses: Losses = curve) -> list[Step]:
    return next_steps(searched(tmp_path, asked, effect, losses), asked, COMMAND, "out")


def better(candidate: Candidate) -> list[float]:
    return [loss - 3.0 * (candidate.arm == "entrodrop") for loss in curve(candidate)]


def worse(candidate: Candidate) -> list[float]:
    return [loss + 3.0 * (candidate.arm == "entrodrop") for loss in curve(candidate)]


def test_a_better_schedule_is_trained_with(tmp_path: Path) -> None:
    first, *others = steps(tmp_path, space(), -0.3, better)
    assert first.why == "train with this schedule"
    assert first.command == "python -m trainables.finetune out/best_schedule.builtin-nano.yaml"
    assert all("budget.trials=16" in step.command and "--resume" in step.command for step in others)


def test_what_is_not_decided_says_what_to_raise_and_keeps_the_other_settings(tmp_path: Path) -> None:
    asked = space()
    result = searched(tmp_path, asked, -0.02, better)
    first, second, *_ = next_steps(result, asked, COMMAND, "out")
    assert first.why == "train without dropout"
    words = shlex.split(second.command)
    assert words[:3] == ["entrodrop", "run", "my spaces/a.yaml"]
    overrides = dict(word.split("=", 1) for word in words if "=" in word)
    assert overrides["seed"] == "3"
    assert overrides["models"] == "[builtin/nano]"
    raised = settings_to_raise(result.verdict["best"])
    assert raised
    assert {setting: int(overrides[setting]) for setting in raised} == raised
    assert words[-2:] == ["--output", "out-builtin-nano-more"]


def test_what_takes_too_many_seeds_is_not_advised(tmp_path: Path) -> None:
    asked = space()
    result = searched(tmp_path, asked, 0.004, better)
    assert result.verdict["best"].verdict == Verdict.UNDECIDED
    assert settings_to_raise(result.verdict["best"]) == {}
    assert "is too small to be looked for" in describe_result(result, asked)


def test_documents_are_not_taken_from_those_that_are_trained_on(tmp_path: Path) -> None:
    asked = space()
    result = searched(tmp_path, asked, -0.02, better)
    own = FilesData(source="files", path="a.jsonl", template="{a}", train="all", validation=0.1, test=0.2)
    own_space = asked.model_copy(update={"data": own})
    with mock.patch("search.results.next_steps.settings_to_raise", lambda _, test: {test: 140}):
        assert not any(step.command.endswith("-more") for step in next_steps(result, own_space, COMMAND, "out"))
        assert any("data.test=140" in step.command for step in next_steps(result, asked, COMMAND, "out"))
    with mock.patch("search.studies.comparison.settings_to_raise", lambda _, test: {test: 140}):
        assert "documents decide: for one of " in (words := describe_result(result, own_space))
    assert words.partition("nats give data.test a source of 140 documents")[1]


def test_nothing_is_tried_where_nothing_is_searched_and_each_limit_is_raised(tmp_path: Path) -> None:
    for name in ("fixed", "limited"):
        (tmp_path / name).mkdir()
    fixed = {"entropy_threshold": {"quantile": 0.5}, "mask_ratio": 0.4, "curriculum": {"shape": "linear"}}
    asked = space(confirmation=None, schedule=fixed, budget={"trials": 2, "epochs": made_up.EPOCHS})
    assert steps(tmp_path / "fixed", asked, 0.0, worse) == []
    limited = space(confirmation=None, budget={"trials": 8, "tokens": 6400, "epochs": made_up.EPOCHS})
    (step,) = steps(tmp_path / "limited", limited, 0.0, worse)
    assert "budget.trials=16" in step.command
    assert "budget.tokens=12800" in step.command


@pytest.mark.parametrize("documents", [40, None])
def test_a_test_split_with_a_source_of_its_own_is_raised_within_it(tmp_path: Path, documents: int | None) -> None:
    asked = space()
    result = searched(tmp_path, asked, 0.004, better)
    own = FilesSplit(path="test.jsonl", documents=documents)
    asked = asked.model_copy(update={"data": asked.data.model_copy(update={"test": own})})
    with mock.patch("search.results.next_steps.settings_to_raise", lambda _, test: {test: 140}):
        commands = [step.command for step in next_steps(result, asked, COMMAND, "out")]
    assert not any("data.test=140" in command for command in commands)
    assert any("data.test.documents=140" in command for command in commands) == (documents is not None)


def test_a_gain_at_the_end_alone_is_found_by_another_objective(tmp_path: Path) -> None:
    def test_losses(candidate: Candidate, loss: float) -> dict[str, Any]:
        gain = -1.0 if loss == 6.0 and candidate.arm == "entrodrop" else 0.0
        sums = [10 * (loss + gain + 0.01 * ((candidate.number + k) % 3)) for k in range(made_up.DOCUMENTS)]
        return {"test": {"high_entropy_loss": {"sums": sums, "counts": [10.0] * made_up.DOCUMENTS}}}

    with mock.patch.object(made_up, "_test", test_losses):
        found = steps(tmp_path, space(), 0.0, better)
    assert any("last checkpoint" in step.why and "objective=final" in step.command for step in found)


def test_a_loss_that_still_falls_wants_more_epochs(tmp_path: Path) -> None:
    asked = space(early_stopping={"patience": None, "pruner": "none"})
    found = steps(tmp_path, asked, 0.3, lambda candidate: [6.0 - 0.1 * epoch for epoch in range(made_up.EPOCHS)])
    assert any("still falls" in step.why and "budget.epochs=16" in step.command for step in found)


def test_without_a_confirmation_one_is_advised(tmp_path: Path) -> None:
    (step,) = steps(tmp_path, space(confirmation=None), 0.0, better)
    assert "confirmation={}" in shlex.split(step.command)


def test_what_is_not_better_than_no_dropout_is_not_worth_a_confirmation(tmp_path: Path) -> None:
    def worse(candidate: Candidate) -> list[float]:
        return [loss + 3.0 * (candidate.arm == "entrodrop") for loss in curve(candidate)]

    (step,) = steps(tmp_path, space(confirmation=None), 0.0, worse)
    assert step.why == "try more settings, as none did better than no dropout"
    assert "budget.trials=16" in step.command
    assert "--resume" in step.command


def test_each_step_of_several_arms_has_an_output_of_its_own(tmp_path: Path) -> None:
    outputs = [step.command.split("--output ")[-1] for step in steps(tmp_path, space(arms=ARMS), 0.004, better)]
    assert len(set(outputs)) == len(outputs)
