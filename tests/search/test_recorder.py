"""What is told of a search to the table and to events.jsonl, from which MLflow is told."""

from pathlib import Path
from unittest import mock

import pytest
from optuna.trial import TrialState

from search.output.events import Events, ModelsAllotted, SearchStarted, SlotsChanged
from search.recorder import Recorder
from search.scheduling.allocation import Allocation
from search.tracking.entries import EntryMaker, Values
from tests.search.tracking.memory import Client, Search
from tests.studies import search, space


def test_no_password_of_a_failure_or_a_setting_is_told_or_written(tmp_path: Path) -> None:
    study = search(tmp_path)
    candidate = study.ask()
    assert candidate is not None
    progress, events = mock.Mock(), tmp_path / "events.jsonl"
    record = Recorder(progress, mock.Mock(), events)
    data = {
        "source": "files",
        "path": "https://me:hunter2@mirror/a.jsonl",
        "template": "{a}",
        "train": 4,
        "validation": 4,
        "test": 6,
    }
    asked = space(data=data, tracking={"uri": "http://me:hunter2@host"})
    record.search_started(asked, {}, "search.run --set tracking.uri=http://me:***@host")
    record.prepared(study.model, "0" * 64, [])
    detail = "no answer from https://me:hunter2@mirror/a?token=hunter2"
    record.trial_ended(study, candidate, TrialState.FAIL, "error", detail)
    for told in (events.read_text(), str(progress.mock_calls)):
        assert "no answer from https://me:***@mirror/a?token=***" in told
        assert told.count("http://me:***@host") == 2
        assert told.count("https://me:***@mirror/a.jsonl") == 2
        assert "hunter2" not in told


def test_a_template_that_looks_like_a_password_is_kept(tmp_path: Path) -> None:
    template = "token=yes, says mailto:bob@x.org: {a}"
    data = {"source": "files", "path": "a.jsonl", "template": template, "train": 4, "validation": 4, "test": 6}
    Recorder(mock.Mock(), mock.Mock(), tmp_path / "events.jsonl").search_started(space(data=data), {}, "again")
    (event,) = Events(tmp_path / "events.jsonl").new()
    assert isinstance(event, SearchStarted)
    values = [entry.content for entry in EntryMaker([]).make(event, 0) if isinstance(entry.content, Values)]
    assert values[0].params["data.template"] == template


@pytest.mark.parametrize("chosen", [True, False])
def test_the_slots_are_known_also_where_the_space_says_how_many(tmp_path: Path, chosen: bool) -> None:
    progress = mock.Mock()
    Recorder(progress, mock.Mock(), tmp_path / "events.jsonl").allotted(["m"], Allocation(1, 2), chosen)
    assert [event.slots for event in Events(tmp_path / "events.jsonl").new() if isinstance(event, ModelsAllotted)] == [
        2
    ]
    assert progress.note.called == chosen


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"time": 1.0, "event": "slots_changed", "slots": 1}\n{"time": 2.0, "ev')
    delivery = mock.Mock(wraps=Search(Client(), tmp_path))
    record = Recorder(mock.Mock(), delivery, events)
    record.slots_changed(2)
    assert [event.slots for event in Events(events).new() if isinstance(event, SlotsChanged)] == [1, 2]
    delivery.wake.assert_called_once()
    record.search_started(space(), {"m": 1}, "again")
    *_, event = Events(events).new()
    assert isinstance(event, SearchStarted)
    assert (event.resumed, event.planned, event.resume_command) == (True, {"m": 1}, "again")
    delivery.close(0)
