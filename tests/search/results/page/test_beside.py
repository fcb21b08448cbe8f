"""Searches side by side: what differed, what may be compared."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from search.results.archive import load_search
from search.results.page.beside import Beside, set_beside
from tests.search.fed import ARMS, EPOCHS, space
from tests.search.test_report import search_in


def beside(tmp_path: Path, **searches: dict[str, Any]) -> Beside:
    with ExitStack() as stack:
        loaded = {}
        for name, how in searches.items():
            search_in(tmp_path / name, space(**how.pop("space", {})), **how)
            loaded[name] = stack.enter_context(load_search(tmp_path / name))
        return set_beside(loaded)


def test_what_differed_is_told_by_key(tmp_path: Path) -> None:
    longer = {"space": {"seed": 3, "budget": {"trials": 5, "epochs": EPOCHS}}}
    found = beside(tmp_path, one={}, two={}, three=longer | {"evaluation_hash": "e"})
    assert found.change_columns == ["setting", "one", "two", "three"]
    assert sorted(found.changes) == [["budget.trials", "8", "8", "5"], ["seed", "0", "0", "3"]]


def test_what_differs_within_a_list_is_told_with_its_values(tmp_path: Path) -> None:
    curricula = [[{"shape": "linear"}, {"shape": "sigmoid", "midpoint": midpoint}] for midpoint in (0.2, 0.4)]
    one, two = ({"space": {"schedule": {"curriculum": curriculum}}} for curriculum in curricula)
    assert beside(tmp_path, one=one, two=two).changes == [["schedule.curriculum.sigmoid.midpoint", "0.2", "0.4"]]


def test_what_differs_within_arms_is_told_by_their_names(tmp_path: Path) -> None:
    decay = {"training": {"weight_decay": {"low": 0.01, "high": 3.0, "log": True}}}
    linear = {"name": "random-tokens", "schedule": {"tokens": "random", "curriculum": {"shape": "linear"}}}
    one, two = {"space": {"arms": ARMS}}, {"space": {"arms": [*ARMS[:2], ARMS[2] | decay, linear]}}
    assert beside(tmp_path, one=one, two=two).changes == [
        ["arms.weight-decay.training.weight_decay.high", "1.0", "3.0"],
        ["arms.random-tokens.schedule.curriculum.linear", "not set", "{}"],
    ]


def test_an_arm_that_drops_no_tokens_is_told_from_one_that_changes_none(tmp_path: Path) -> None:
    found = beside(tmp_path, one={"space": {"arms": ARMS}}, two={})
    assert found.changes == [
        ["arms.none.schedule", "null", "not set"],
        ["arms.entrodrop", "{}", "not set"],
        ["arms.weight-decay.schedule", "null", "not set"],
        ["arms.weight-decay.training.weight_decay.low", "0.01", "not set"],
        ["arms.weight-decay.training.weight_decay.high", "1.0", "not set"],
        ["arms.weight-decay.training.weight_decay.log", "true", "not set"],
        ["arms.random-tokens.schedule.tokens", "random", "not set"],
    ]


def test_a_row_for_each_search_with_its_verdict_and_intervals(tmp_path: Path) -> None:
    found = beside(tmp_path, one={"evaluation_hash": "e" * 64}, two={"finished": False})
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [(row["search"], row["verdict"], row["evaluation set"]) for row in rows] == [
        ("one", "confirmed better (entrodrop)", "eeeeeeee"),
        ("two", "not confirmed", "not known"),
    ]
    best = "difference to no dropout, best (nats)"
    assert str(rows[0][best]).startswith("-0.")
    assert " to -" in str(rows[0][best])
    assert rows[1][best] == ""
    assert [plot.title for plot in found.plots] == ["Verdicts side by side"]


@pytest.mark.faults
def test_curves_lie_over_one_another_where_losses_may_be_compared(tmp_path: Path) -> None:
    same = {"evaluation_hash": "e" * 64}
    found = beside(
        tmp_path, one=dict(same), two=dict(same), three={"evaluation_hash": "f" * 64}, four={"finished": False}
    )
    assert found.comparable == [
        "builtin/nano: one and two have the same evaluation set and the same training data: their losses may be "
        "compared.",
        "builtin/nano: one and two; three have different evaluation sets: compare verdicts, not losses.",
        "builtin/nano: of four the evaluation set is not known: a search tells it at its end.",
    ]
    (plot,) = [plot for plot in found.plots if plot.title == "Curves side by side: builtin/nano"]
    lines = {trace.name: (trace.line.color, trace.line.dash) for trace in plot.figure.data}
    by_search = {name: [styles for label, styles in lines.items() if label.startswith(name)] for name in ("one", "two")}
    assert len(lines) == 4
    # An arm has its colour, a search its dashes.
    assert [colour for colour, _ in by_search["one"]] == [colour for colour, _ in by_search["two"]]
    assert [len({dash for _, dash in styles}) for styles in by_search.values()] == [1, 1]
    assert by_search["one"][0][1] != by_search["two"][0][1]
