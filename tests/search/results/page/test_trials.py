"""The table of trials holds what the study does."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.results.archive import load_search
from search.results.page.rendering import make_environment
from search.results.page.trials import TrialRow, TrialsTable, tabulate
from search.studies.study import losses_of
from tests.search.fed import ARMS, EPOCHS, space
from tests.search.test_report import search_in


def table_of(*folders: Path) -> TrialsTable:
    with ExitStack() as stack:
        return tabulate({folder.name: stack.enter_context(load_search(folder)) for folder in folders})


def test_each_trial_has_its_losses_and_settings(tmp_path: Path) -> None:
    result = search_in(tmp_path / "one", space(arms=ARMS, budget={"trials": 6, "epochs": EPOCHS}))
    table = table_of(tmp_path / "one")
    study = result.searched
    assert [row.number for row in table.rows] == [trial.number for trial in study.trials(*TrialState)]
    for row, trial in zip(table.rows, study.trials(*TrialState), strict=True):
        losses, parameters = losses_of(trial), study.parameters(trial)
        assert (row.best, row.last) == (min(losses), losses[-1])
        assert row.end == (losses[-1] if trial.state == TrialState.COMPLETE else None)
        assert row.curve == losses
        assert row.losses["high-entropy loss at best"] == row.best
        # As search_in makes them up.
        assert row.losses["low-entropy loss at best"] == 9.0 - min(losses)
        assert row.settings.get("mask_ratio") == parameters.get("mask_ratio")
        assert bool(row.strengths) == ("curriculum" in parameters)
    assert {"pruned", "complete"} == {row.state for row in table.rows}
    assert all(bool(row.reason) == (row.state == "pruned") for row in table.rows)
    # What is the same in all trials is no column.
    assert {"mask_ratio", "weight_decay", "shape"} <= set(table.settings)
    assert "presentation" not in table.settings
    assert table.logarithmic == [name for name in table.settings if name in ("weight_decay", "steepness")]
    assert table.floors == [min(row.best for row in table.rows if row.arm == "no dropout" and row.best is not None)]


def test_trials_that_have_not_ended_may_be_left_out(tmp_path: Path) -> None:
    search_in(tmp_path, space(confirmation=None), finished=False)
    journal = tmp_path / "study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    # Optuna's code of the end of a trial.
    ends = [n for n, line in enumerate(lines) if json.loads(line)["op_code"] == 6]
    journal.write_text("".join(lines[: ends[-1]]))
    with load_search(tmp_path) as search:
        both = [[row.state for row in tabulate({"one": search}, running).rows] for running in (True, False)]
    assert [states.count("running") for states in both] == [1, 0]
    assert len(both[0]) == len(both[1]) + 1


def test_losses_may_be_compared_within_one_evaluation_set(tmp_path: Path) -> None:
    for name, evaluation_hash in (("one", "a" * 64), ("two", "b" * 64), ("three", "a" * 64)):
        search_in(tmp_path / name, space(name=name), evaluation_hash=evaluation_hash)
    rows = table_of(*(tmp_path / name for name in ("one", "two", "three"))).rows
    groups = {search: {row.group for row in rows if row.search == search} for search in ("one", "two", "three")}
    assert groups["one"] == groups["three"] != groups["two"]
    # Of a search that has not ended nobody knows.
    search_in(tmp_path / "unfinished", space(name="unfinished"), finished=False)
    search_in(tmp_path / "another", space(name="another"), finished=False)
    rows = table_of(tmp_path / "unfinished", tmp_path / "another").rows
    assert len({row.group for row in rows}) == 2


def test_a_long_search_has_a_small_table() -> None:
    def row(number: int) -> TrialRow:
        losses = [5 + (number + n) / 7 for n in range(8)]
        names = [f"{measure} at {point}" for measure in ("high", "low") for point in ("best", "last")]
        return TrialRow(
            search="long",
            model="builtin/nano",
            number=number,
            arm="entrodrop",
            state="complete",
            reason="",
            group=0,
            settings={"quantile": number / 7, "mask_ratio": number / 900, "shape": "sigmoid", "steepness": number / 9},
            tokens=27_660,
            losses=dict.fromkeys(names, losses[-1]),
            best=losses[0],
            last=losses[-1],
            end=losses[-1],
            epochs=[n / 3 for n in range(8)],
            curve=losses,
            strengths=tuple(round((n / 64) ** (1 + number / 300), 3) for n in range(64)),
            run_id=None,
            link=None,
        )

    rows = [row(number) for number in range(300)]
    table = TrialsTable(rows, list(rows[0].settings), list(rows[0].losses), [], [None], [(0.0, 1.0)])
    parts = make_environment().get_template("parts.html.j2").module
    # The rest of a report is 1.3 MB.
    assert len(parts.trials_section(table)) < 560_000


def test_a_long_curve_is_thinned_between_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.results.page.trials._POINTS", 4)
    result = search_in(tmp_path / "one", space(), finished=False)
    table = table_of(tmp_path / "one")
    for row, trial in zip(table.rows, result.searched.trials(*TrialState), strict=True):
        losses = losses_of(trial)
        assert len(row.curve) == len(row.epochs) == min(4, len(losses))
        assert (row.curve[0], row.curve[-1]) == (losses[0], losses[-1])
        assert (row.epochs[0], row.epochs[-1]) == (1, len(losses))


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("http://mlflow:5000/", "http://mlflow:5000/#/runs/abc"),
        ("https://me:secret@mlflow", "https://me:***@mlflow/#/runs/abc"),
        ("sqlite:///mlflow.db", None),
    ],
)
def test_a_trial_links_to_its_run_where_a_browser_can_go(tmp_path: Path, uri: str, link: str | None) -> None:
    search_in(tmp_path / "one", space(tracking={"uri": uri}))
    (tmp_path / "one" / "mlflow.cursor").write_text(json.dumps({"runs": {"builtin/nano/1": "abc"}}) + "\n")
    table = table_of(tmp_path / "one")
    assert [(row.run_id, row.link) for row in table.rows[:2]] == [(None, None), ("abc", link)]
