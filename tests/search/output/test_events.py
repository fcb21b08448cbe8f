"""events.jsonl as it is written, read, and read by other versions."""

import errno
import json
from pathlib import Path

import pytest

from search.output.events import Evaluation, Event, Events, SearchEnded, SlotsChanged, TrialEnded, append_events
from trainables.errors import ConfigError


def read(path: Path) -> list[Event]:
    return list(Events(path).new())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    of = {"study": "m/confirmation", "trial": 3, "model": "m", "stage": "confirmation"}
    written = [
        Evaluation(**of, tokens=100, full_tokens=300, metrics={"high_entropy_loss": 5.0, "a_new_one": 1.0}),  # type: ignore[arg-type]
        TrialEnded(**of, state="failed", reason="out_of_memory", objective=None, detail="on the GPU"),  # type: ignore[arg-type]
        SearchEnded(status="FINISHED", files=["summary.json"]),
    ]
    append_events(path, written[0])
    events = Events(path)
    assert list(events.new()) == written[:1]
    append_events(path, *written[1:])
    assert list(events.new()) == written[1:]
    assert events.offset == path.stat().st_size
    assert json.loads(path.read_text().splitlines()[2])["event"] == "search_ended"


def test_what_another_version_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    of = '"study": "m", "trial": 0, "model": "m", "stage": "search"'
    lines = [
        # An older one.
        f'{{"time": 1, "event": "evaluation", {of}, "full_tokens": 300, "tokens": 100.0, "epoch": 1, "loss": 6.0}}',
        f'{{"time": 2, "event": "trial_ended", {of}, "state": "pruned", "reason": "will not win", "objective": 6.0}}',
        # A newer one.
        '{"time": 3, "event": "moon_rose"}',
        '{"time": 4, "event": "slots_changed", "slots": 2, "moon": "full"}',
    ]
    path.write_text("\n".join(lines) + "\n")
    assert read(path) == [
        Evaluation(
            time=1, study="m", trial=0, model="m", tokens=100, full_tokens=300, metrics={"epoch": 1, "loss": 6.0}
        ),
        TrialEnded(time=2, study="m", trial=0, model="m", state="pruned", reason="will not win", objective=6.0),
        SlotsChanged(time=4, slots=2),
    ]


@pytest.mark.parametrize("line", ["", "1", "[]", "{", '{"event": "slots_changed", "slots": 1}', '{"time": 1}'])
def test_a_damaged_line_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    append_events(path, SlotsChanged(slots=1))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"events\.jsonl:2: this line has no event; put the file back"):
        read(path)


def test_a_line_that_lacks_a_key_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "events.jsonl").write_text('{"time": 1, "event": "slots_changed"}\n')
    with pytest.raises(ConfigError, match=r"events\.jsonl:1: this line has no slots"):
        read(path)


def test_a_full_disk_is_told() -> None:
    with pytest.raises(OSError, match="/dev/full") as raised:
        append_events(Path("/dev/full"), SlotsChanged(slots=1))
    assert raised.value.errno == errno.ENOSPC
