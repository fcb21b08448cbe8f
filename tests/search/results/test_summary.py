"""What a search says at its end: summary.json, the best schedule, tables and last words."""

import json
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from search.arms import BASELINE
from search.results.costs import describe_costs
from search.results.files import describe_result, format_best_schedule, tabulate_comparison, write_results
from search.results.model_result import ModelResult
from search.results.summary import summarize
from search.space import Space, load
from search.studies.pruners import LOSING
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate
from search.studies.verdict import Verdict
from tests.search.fed import ARMS, EFFECTS, FULL_TOKENS, Losses, curve, fed, space
from trainables.config.recipe import load_recipe
from trainables.config.to_settings import settings_of

MODEL = "builtin/nano"


def told(asked: Space, *sizes: ModelResult) -> dict[str, Any]:
    parameters = {size.model: 10**6 * (number + 1) for number, size in enumerate(sizes)}
    return summarize(sizes, asked, parameters, {"wall_s": 1.0}, lambda study, number: f"{study}#{number}")


def shallow(better: str) -> Losses:
    """All trials of an arm do best by far, and those of the others alike."""
    return lambda candidate: [loss - 3.0 * (candidate.arm == better) for loss in curve(candidate)]


@pytest.fixture(scope="module")
def asked() -> Space:
    return space(arms=ARMS)


@pytest.fixture(scope="module")
def size(asked: Space, tmp_path_factory: pytest.TempPathFactory) -> ModelResult:
    return fed(tmp_path_factory.mktemp("confirmed"), asked)


def test_the_summary_has_its_keys(asked: Space, size: ModelResult) -> None:
    summary = told(asked, size)
    assert set(summary) == {"models", "timing", "trend"}
    assert summary["trend"] is None
    entry = summary["models"][MODEL]
    best = size.searched.best()
    assert best is not None
    assert entry["best"]["trial"] == best.number
    assert entry["best"]["mlflow_run_id"] == f"{MODEL}#{best.number}"
    assert entry["baseline"]["arm"] == "none"
    confirmation = entry["confirmation"]
    assert confirmation["chosen"] == "entrodrop"
    assert confirmation["verdict"] == Verdict.BETTER
    assert list(confirmation["arms"]) == [arm["name"] for arm in ARMS]
    assert confirmation["arms"]["entrodrop"]["test"]["best"]["high_entropy_loss"] == pytest.approx(4.7, abs=0.1)
    json.loads(json.dumps(summary, allow_nan=False))


def test_each_trial_is_told_with_its_cost(asked: Space, size: ModelResult) -> None:
    entry, study = told(asked, size)["models"][MODEL], size.searched
    table = entry["trials_table"]
    assert [row["number"] for row in table] == list(range(len(study.study.trials)))
    # The baseline, and for each of three arms eight full ones; with what stopping saves, more.
    assert len(table) > 25
    assert {row["state"] for row in table} == {"complete", "pruned"}
    for row, trial in zip(table, study.study.trials, strict=True):
        assert list(row) == ["number", "arm", "state", "reason", "tokens", "device_s", "objective"]
        assert row["tokens"] == max(trial.intermediate_values)
        assert row["device_s"] == trial.user_attrs["decided"]["device_s"] > 0
        lost = row["reason"] == LOSING
        assert row["objective"] == (None if lost else min(trial.intermediate_values.values()))
    assert entry["tokens"]["trained"] == sum(row["tokens"] for row in table)
    assert entry["tokens"]["saved"] == len(table) * FULL_TOKENS - entry["tokens"]["trained"] > 0
    assert entry["device_s"] == sum(row["device_s"] for row in table)
    pruned = [row for row in table if row["state"] == "pruned"]
    speeds = [row["tokens"] / row["device_s"] for row in pruned]
    expected = sum((FULL_TOKENS - row["tokens"]) / speed for row, speed in zip(pruned, speeds, strict=True))
    assert entry["saved_device_s"] == pytest.approx(expected)
    confirmation = entry["confirmation"]
    # The baseline, and the two best settings of three arms, with three seeds each.
    assert confirmation["runs"] == 21
    assert confirmation["tokens"] == 21 * FULL_TOKENS
    assert confirmation["device_s"] > 0


def test_a_failed_trial_and_one_that_runs_are_in_the_table(tmp_path: Path) -> None:
    asked = space(confirmation=None)
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, asked)
    study.set_full_tokens(FULL_TOKENS)
    for _ in range(2):
        candidate = study.ask()
        assert candidate is not None
        study.report(candidate.number, {"tokens": 100, "high_entropy_loss": 5.0})
    study.tell(0, TrialState.FAIL, "nan")
    entry = told(asked, ModelResult(study, None))["models"][MODEL]
    failed, running = entry["trials_table"]
    assert (failed["state"], failed["reason"], failed["tokens"], failed["objective"]) == ("failed", "nan", 100, None)
    assert (running["state"], running["device_s"], running["objective"]) == ("running", None, None)
    assert entry["tokens"]["trained"] == 200
    assert entry["discarded"] == {"tokens": 0, "device_s": 0.0}
    assert describe_costs(entry).startswith("200 tokens in 2 trials")
    assert describe_result(ModelResult(study, None), asked).endswith("failed: the loss is not finite (1)")


def test_the_trend_is_of_what_was_searched(tmp_path: Path) -> None:
    asked = space(models=[MODEL, "builtin/micro"], confirmation=None)
    summary = told(asked, fed(tmp_path, asked), fed(tmp_path, asked, "builtin/micro"))
    trend = summary["trend"]
    assert trend["sizes"] == [10**6, 2 * 10**6]
    assert set(trend["settings"]) == {"mask_ratio", "entropy_threshold.quantile", "curriculum.half_strength"}
    assert trend["extrapolation"] is None
    best = summary["models"][MODEL]["best"]["params"]
    assert trend["settings"]["mask_ratio"][0] == best["mask_ratio"]


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "trials": {"complete": 5, "pruned": 2, "failed": 1},
        "tokens": {"trained": 612_000, "saved": 210_000},
        "device_s": 108.0,
        "saved_device_s": 36.0,
        "audit": {"audited": 2, "wrong": 1},
        "confirmation": {"runs": 9, "tokens": 688_500, "device_s": 20.0},
    } | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "612,000 tokens, 108 device seconds in 8 trials; 688,500 tokens, 20 device seconds in 9 runs to confirm; "
            "stopping early saved 210,000 tokens (26 %), about 36 device seconds, 1 of 2 audited stops was wrong",
        ),
        (
            {"device_s": None, "saved_device_s": None, "confirmation": None, "audit": {"audited": 0, "wrong": 0}},
            "612,000 tokens in 8 trials; stopping early saved 210,000 tokens (26 %)",
        ),
        (
            {
                "trials": {"complete": 1, "pruned": 0, "failed": 0},
                "tokens": {"trained": 800, "saved": 0},
                "audit": {"audited": 1, "wrong": 0},
                "confirmation": {"runs": 1, "tokens": 800, "device_s": None},
            },
            "800 tokens, 108 device seconds in 1 trial; 800 tokens in 1 run to confirm; 0 of 1 audited stop was wrong",
        ),
        (
            {"confirmation": None, "audit": {"audited": 0, "wrong": 0}, "discarded": {"tokens": 9000, "device_s": 2.0}},
            "612,000 tokens, 108 device seconds in 8 trials; stopping early saved 210,000 tokens (26 %), "
            "about 36 device seconds, 9,000 tokens were trained before their trial's stop was decided",
        ),
    ],
)
def test_one_line_says_what_it_cost(changes: dict[str, Any], expected: str) -> None:
    assert describe_costs(entry(**changes)) == expected


def test_the_cost_line_of_a_search(asked: Space, size: ModelResult) -> None:
    line = describe_costs(told(asked, size)["models"][MODEL])
    assert f" in {len(size.searched.study.trials)} trials; " in line
    assert " in 21 runs to confirm; stopping early saved " in line


def test_the_best_schedule_is_what_the_confirmation_chose(asked: Space, size: ModelResult, tmp_path: Path) -> None:
    text = format_best_schedule(size, asked)
    assert text is not None
    path = tmp_path / "best.yaml"
    path.write_text(text)
    number = size.comparisons["entrodrop"].contestant.trial
    trial = next(t for t in size.searched.ranked("entrodrop") if t.number == number)
    assert settings_of(load_recipe(path).config) == settings_of(size.searched.space_of(trial))
    assert load(path).config.budget.trials == 2
    assert text.startswith(f"# Trial {number} of {MODEL} in the search fed.\n# Best validation high-entropy loss ")
    assert f"Use trial {number} of entrodrop: it is confirmed better" in text
    assert f"use trial {number} of entrodrop: it is confirmed better" in describe_result(size, asked)


def test_a_schedule_to_hand_on_has_no_password(tmp_path: Path) -> None:
    for uri, kept in (("http://me:hunter2@host", None), ("http://host:5000", "http://host:5000")):
        asked = space(confirmation=None, tracking={"uri": uri})
        (tmp_path / str(kept is None)).mkdir()
        text = format_best_schedule(fed(tmp_path / str(kept is None), asked), asked)
        assert text is not None
        assert "hunter2" not in text
        (tmp_path / "best.yaml").write_text(text)
        assert load(tmp_path / "best.yaml").config.tracking.uri == kept


def test_a_setting_that_turns_out_worse_is_not_recommended(tmp_path: Path) -> None:
    # On the validation split random tokens do best, on the test split they are worse than no dropout.
    asked = space(arms=[arm for arm in ARMS if arm["name"] != "entrodrop"])
    size = fed(tmp_path, asked, losses=shallow("random-tokens"))
    assert size.chosen == "random-tokens"
    assert told(asked, size)["models"][MODEL]["confirmation"]["verdict"] == Verdict.WORSE
    text = format_best_schedule(size, asked)
    assert text is not None
    (tmp_path / "best.yaml").write_text(text)
    assert settings_of(load_recipe(tmp_path / "best.yaml").config).entrodrop is None
    assert describe_result(size, asked).startswith("use no dropout: ")


def test_the_schedules_of_two_sizes_have_names_of_their_own(tmp_path: Path) -> None:
    for name, expected in (("math", "math-best-builtin-nano"), ("m" * 100, f"{'m' * 82}-best-builtin-nano")):
        asked = space(confirmation=None, name=name)
        (tmp_path / name).mkdir()
        text = format_best_schedule(fed(tmp_path / name, asked), asked)
        assert yaml.safe_load(text or "")["name"] == expected


def test_without_a_confirmation_nothing_is_called_confirmed(tmp_path: Path) -> None:
    asked = space(confirmation=None)
    size = fed(tmp_path, asked)
    assert "confirmation" not in told(asked, size)["models"][MODEL]
    assert "# It has not been confirmed." in (format_best_schedule(size, asked) or "")
    words = describe_result(size, asked)
    assert words.startswith("use trial 5, which looks better and is not confirmed (")
    # It was stopped: what it had then is no end.
    assert words.count("when it was stopped; without dropout") == words.count(" at the end") == 1
    # The baseline does best: it is what is exported.
    (tmp_path / "worse").mkdir()
    worse = fed(tmp_path / "worse", asked, losses=lambda c: [x + 9.0 * (c.arm != BASELINE) for x in curve(c)])
    assert describe_result(worse, asked).startswith("use no dropout: no setting did better (trial ")
    assert "schedule: null" in (format_best_schedule(worse, asked) or "")


def test_the_table_has_each_arm_with_its_interval(asked: Space, size: ModelResult) -> None:
    out = StringIO()
    Console(file=out, width=120).print(tabulate_comparison([size], asked))
    rows = {line.split()[1]: line for line in out.getvalue().splitlines() if line.startswith("│")}
    assert list(rows) == list(EFFECTS)
    assert "(" not in rows["none"]
    found = size.comparisons["entrodrop"].differences["best"]["high_entropy_loss"]
    assert f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})" in rows["entrodrop"]
    # Too few general documents are no measure.
    out = StringIO()
    Console(file=out, width=120).print(tabulate_comparison([size], asked, "general_loss"))
    assert [line.split()[3] for line in out.getvalue().splitlines() if line.startswith("│")] == ["-"] * len(EFFECTS)
    general = ModelResult(size.searched, size.confirmed)
    for comparison in general.comparisons.values():
        for values in (*comparison.losses.values(), *comparison.differences.values()):
            values |= {"general_loss": values["high_entropy_loss"]}
    out = StringIO()
    Console(file=out, width=120).print(tabulate_comparison([general], asked, "general_loss"))
    assert f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})" in out.getvalue()


def test_all_result_files_are_written(asked: Space, size: ModelResult, tmp_path: Path) -> None:
    summary = told(asked, size)
    written = write_results(tmp_path, asked, [size], summary)
    names = ["summary.json", "best_schedule.builtin-nano.yaml", "rebound.png", "verdict.png"]
    assert [path.name for path in written][:4] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_no_dropout_is_exported_as_it_beat_the_schedule(tmp_path: Path) -> None:
    asked = space(arms=None, training={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})

    def losses(candidate: Candidate) -> list[float]:
        # On the validation split the schedule does best, then the baseline with its learning rate.
        better = 3.0 * (candidate.settings.learning_rate != 0.001) * (candidate.test or candidate.arm != "none")
        return [loss - better for loss in curve(candidate)]

    with mock.patch.dict(EFFECTS, entrodrop=0.4):
        size = fed(tmp_path, asked, losses=losses)
    beaten = size.comparisons["none"].contestant
    assert beaten.trial is None
    text = format_best_schedule(size, asked)
    assert text is not None
    assert text.startswith("# No dropout, with the best trial's learning rate, of builtin/nano in the search fed.\n")
    (tmp_path / "best.yaml").write_text(text)
    assert settings_of(load_recipe(tmp_path / "best.yaml").config).to_json() == beaten.settings


def test_a_sentence_keeps_the_names_of_arms(tmp_path: Path) -> None:
    asked = space(arms=[{"name": "none", "schedule": None}, {"name": "EntroDrop"}])
    with mock.patch.dict(EFFECTS, EntroDrop=-0.3):
        text = format_best_schedule(fed(tmp_path, asked), asked)
    assert text is not None
    assert " of EntroDrop: it is confirmed better" in text


def test_why_nothing_was_confirmed_is_told(tmp_path: Path) -> None:
    asked = space()
    size = fed(tmp_path, asked, confirm=False)
    assert size.confirmed is not None
    while (candidate := size.confirmed.ask()) is not None:
        size.confirmed.tell(candidate.number, TrialState.FAIL, "out_of_memory")
    words = "use no dropout: nothing came out of the confirmation; failed: out of memory (9) (trial "
    assert describe_result(size, asked).startswith(words)
    confirmation = told(asked, size)["models"][MODEL]["confirmation"]
    assert confirmation["failures"] == {str(number): "out_of_memory" for number in range(9)}


def test_a_size_of_which_every_trial_failed_tells_why(tmp_path: Path) -> None:
    asked = space(confirmation=None)
    study = SearchStudy(open_journal(tmp_path / "study.journal"), MODEL, asked)
    while (candidate := study.ask()) is not None:
        study.tell(candidate.number, TrialState.FAIL, "nan")
    words = describe_result(ModelResult(study, None), asked)
    assert words == "no trial ran to its end; failed: the loss is not finite (8)"


def test_the_other_checkpoint_has_its_own_sentence(asked: Space, size: ModelResult) -> None:
    best = size.comparisons["entrodrop"]
    last = best.differences["final"]["high_entropy_loss"]
    words = describe_result(size, asked)
    assert f"If you keep the last checkpoint, not the best one: confirmed better ({last.mean:+.4f} nats, " in words
    losses = (best.losses[point]["high_entropy_loss"] for point in ("final", "best"))
    assert words.endswith("its test loss is {:.4f}, that of the best one {:.4f}".format(*losses))
