"""What is told of a trial to the table, to MLflow and to events.jsonl."""

from pathlib import Path
from unittest import mock

from optuna.trial import TrialState

from search.output.events import Events
from search.recorder import Recorder
from tests.studies import search


def test_no_password_of_a_failure_is_told_or_written(tmp_path: Path) -> None:
    study = search(tmp_path)
    candidate = study.ask()
    assert candidate is not None
    progress, tracker = mock.Mock(), mock.Mock()
    tracker.run_id.return_value = None
    record = Recorder(progress, tracker, tmp_path / "events.jsonl")
    record.trial_ended(
        study, candidate, TrialState.FAIL, "error: no answer from https://me:hunter2@mirror/a?token=hunter2"
    )
    record.close()
    for told in ((tmp_path / "events.jsonl").read_text(), str(progress.mock_calls), str(tracker.mock_calls)):
        assert "no answer from https://me:***@mirror/a?token=***" in told
        assert "hunter2" not in told


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"time": 1.0, "event": "slots_changed", "slots": 1}\n{"time": 2.0, "ev')
    record = Recorder(mock.Mock(), mock.Mock(), events)
    record.event("slots_changed", slots=2)
    record.close()
    assert [event["slots"] for event in Events(events).new()] == [1, 2]
