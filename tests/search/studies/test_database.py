"""The studies in a database: the same trials as in a journal, of several searches, also after a kill."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Engine, event

from search.interruption import Interruption
from search.results.model_result import ModelResult, open_results
from search.scheduling.trial_loop import TrialLoop
from search.session import _connect_database
from search.space import load, to_store
from search.studies.search_study import SearchStudy
from search.studies.storage import DatabaseError, StudyStorage, connect_database
from tests.search.commands import SMALL
from tests.search.fed import fed, space
from tests.search.scheduling.test_tune_adapter import EVALUATIONS, TOKENS, _Killed, _Slots, table
from tests.studies import MODEL
from tests.studies import space as small
from trainables.errors import ConfigError


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No commit waits for the disk."""

    def asynchronous(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", asynchronous)
    yield
    event.remove(Engine, "connect", asynchronous)


def database(folder: Path, search: str = "fed") -> StudyStorage:
    return connect_database(f"sqlite:///{folder}/studies.db", search)


def trials(size: ModelResult) -> list[Any]:
    found = [trial for study in size.studies for trial in study.trials(*TrialState)]
    return [(t.number, t.state, t.params, t.value, t.intermediate_values, t.user_attrs) for t in found]


@pytest.mark.faults
def test_a_search_is_the_same_as_in_a_journal(tmp_path: Path) -> None:
    asked = space(budget={"trials": 3, "epochs": 8}, confirmation={"best": 1, "seeds": 2})
    in_journal, in_database = fed(tmp_path, asked), fed(database(tmp_path), asked)
    assert len(trials(in_database)) == 7
    assert trials(in_database) == trials(in_journal)
    assert in_database.verdict == in_journal.verdict
    # Opened again, as --resume and a report do.
    assert trials(ModelResult(SearchStudy(database(tmp_path), MODEL, asked), None)) == trials(
        ModelResult(in_journal.searched, None)
    )


def test_searches_share_a_database_under_their_names(tmp_path: Path) -> None:
    assert database(tmp_path).names == []
    SearchStudy(database(tmp_path), MODEL, space()).ask()
    assert database(tmp_path).names == ["fed/builtin/nano"]
    # A name is not the beginning of another.
    assert database(tmp_path, "fe").names == []
    other = SearchStudy(database(tmp_path, "fe"), MODEL, space())
    assert other.trials(*TrialState) == []


def test_a_reader_has_a_copy_and_changes_nothing(tmp_path: Path) -> None:
    asked = space(budget={"trials": 3, "epochs": 8}, confirmation={"best": 1, "seeds": 2})
    searched = SearchStudy(database(tmp_path), MODEL, asked)
    for number in range(2):
        assert searched.ask() is not None
        searched.report(number, {"tokens": 100, "high_entropy_loss": 5.0 + number})
    before = (tmp_path / "studies.db").read_bytes()
    (copy,) = open_results(database(tmp_path).copy_to_memory(), {MODEL: asked})
    assert trials(copy) == trials(ModelResult(searched, None))
    assert (tmp_path / "studies.db").read_bytes() == before


_WRITES = ("create_new_trial", "set_trial_user_attr", "set_trial_intermediate_value", "set_trial_state_values")


@pytest.mark.faults
def test_a_search_that_is_killed_again_and_again_comes_to_the_same_end(tmp_path: Path) -> None:
    def trial_loop(name: str) -> tuple[TrialLoop, SearchStudy]:
        study = SearchStudy(database(tmp_path, name), MODEL, small(budget={"trials": 3, "epochs": 8}))
        return TrialLoop([study], 2, lambda _: EVALUATIONS * TOKENS, mock.Mock(), Interruption()), study

    whole, study = trial_loop("whole")
    _Slots(2).run(whole, random.Random(0))
    draw, kept, killed = random.Random(0), _Slots(2), 0
    while True:
        left = [draw.randint(1, 15)]

        def write(storage: RDBStorage, *values: Any, own: Any, left: list[int] = left, **named: Any) -> Any:
            if not left[0]:
                raise _Killed
            left[0] -= 1
            return own(storage, *values, **named)

        resumed, again = trial_loop("killed")
        try:
            with mock.patch.multiple(RDBStorage, **{name: _patched(name, write) for name in _WRITES}):
                kept.run(resumed, draw)
            break
        except _Killed:
            killed += 1
    assert killed > 2
    assert table(again) == table(study)
    assert len(kept.trained) == len(set(kept.trained))


def _patched(name: str, write: Any) -> Any:
    own = getattr(RDBStorage, name)
    return lambda storage, *values, **named: write(storage, *values, own=own, **named)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////proc/studies.db", "unable to open database file"),
        ("nonsense://me:hunter2@host/optuna", "nonsense"),
        ("postgresql://me:hunter2@127.0.0.1:1/optuna", "."),
        ("postgresql+pg8000://me:hunter2@127.0.0.1:1/optuna", "the package pg8000 is not installed"),
        ("no url", "Could not parse"),
    ],
)
def test_a_database_that_cannot_be_opened_is_told_in_one_line(url: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=expected) as caught:
        connect_database(url, "fed")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    (tmp_path / "space.yaml").write_text(SMALL + f"study:\n  storage: {url}\n")
    with pytest.raises(ConfigError, match=r"space\.yaml:\d+: study\.storage: .* cannot be opened") as told:
        _connect_database(load(tmp_path / "space.yaml"), tmp_path)
    assert "hunter2" not in str(told.value)
    assert "hunter2" not in str(to_store(load(tmp_path / "space.yaml").config))


def test_a_search_does_not_go_on_in_the_studies_of_another_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SMALL + f"name: fed\nstudy: {{storage: 'sqlite:///{tmp_path}/studies.db'}}\n")
    space_file = load(tmp_path / "space.yaml")
    studies = _connect_database(space_file, tmp_path)
    assert studies is not None
    SearchStudy(studies, MODEL, space())
    with pytest.raises(ConfigError, match=r"name: study\.storage holds a search 'fed'; choose another"):
        _connect_database(space_file, tmp_path)
    # With --resume there is the record of a search.
    (tmp_path / "resolved.yaml").write_text("")
    assert _connect_database(space_file, tmp_path) is not None
