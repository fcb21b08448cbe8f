import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from search.tracking.entries import SEARCH, End, Entry, Files, Start, Values
from search.tracking.mlflow_runs import MlflowRuns
from search.tracking.outbox import Outbox
from tests.search.tracking.memory import Client, tracker
from trainables.errors import ConfigError

RECORDS = [
    Entry(SEARCH, Start("math", 1)),
    Entry(SEARCH, Values(2, {"loss": 1.5}, 3, {"seed": "0"}, {"kind": "search"})),
    Entry(SEARCH, Files(["summary.json"], {"space.yaml": "models: []"})),
    Entry("nano/0", End("KILLED", 4)),
]


def contents(outbox: Outbox) -> list[object]:
    return [record.content for record in outbox.waiting()]


def test_records_are_kept_in_order_until_they_are_delivered(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow.outbox")
    outbox.put(*RECORDS[:2])
    outbox.put(*RECORDS[2:])
    assert [record.key for record in outbox.waiting()] == [record.key for record in RECORDS]
    outbox.delivered(outbox.waiting()[:1], "run0")
    again = Outbox(tmp_path / "mlflow.outbox")
    assert contents(again) == [record.content for record in RECORDS[1:]]
    assert (again.count_waiting(), again.count_undelivered()) == (3, 3)
    assert (again.run_id(SEARCH), again.run_id("nano/0")) == ("run0", None)
    assert again.search_id == outbox.search_id


def test_what_was_refused_waits_again_in_the_next_part_of_the_search(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow.outbox")
    outbox.put(*RECORDS)
    outbox.refused(outbox.waiting()[1:3])
    assert contents(outbox) == [RECORDS[0].content, RECORDS[3].content]
    assert (outbox.count_waiting(), outbox.count_undelivered()) == (2, 4)
    assert contents(Outbox(tmp_path / "mlflow.outbox")) == [record.content for record in RECORDS]


def test_what_may_be_recorded_once_is_recorded_once(tmp_path: Path) -> None:
    first = Entry("nano/0", Values(1, {"loss": 1.0}, 100), once="nano/0@100")
    other = Entry("nano/1", Values(1, {"loss": 1.0}, 100), once="nano/1@100")
    outbox = Outbox(tmp_path / "mlflow.outbox")
    outbox.put(first, other)
    outbox.delivered(outbox.waiting())
    again = Outbox(tmp_path / "mlflow.outbox")
    again.put(Entry("nano/0", Values(2, {"loss": 1.0}, 100), once="nano/0@100"), RECORDS[0])
    assert contents(again) == [RECORDS[0].content]


def test_a_run_that_was_made_before_the_process_was_killed_is_found_again(tmp_path: Path) -> None:
    client = Client()
    outbox = Outbox(tmp_path / "mlflow.outbox")
    outbox.put(RECORDS[0])
    waiting = outbox.waiting()[0]
    # Killed before the outbox hears of the run.
    MlflowRuns("http://host", "e", outbox, lambda uri: client).open(waiting, Start("math", 1))
    assert (list(client.runs), outbox.run_id(SEARCH)) == (["run0"], None)
    assert outbox.waiting()[0].tried
    again = tracker(client, tmp_path)
    again.start_trial("nano/0", "nano 0", {}, {})
    assert again.close(10)
    assert (again.run_id(), again.run_id("nano/0")) == ("run0", "run1")
    assert client.tags("run1") == {"mlflow.parentRunId": "run0"}


WRITER = """
import sys
from pathlib import Path
from search.tracking.outbox import Outbox
from search.tracking.entries import End, Entry, Start

outbox = Outbox(Path(sys.argv[1]))
for number in range(10**6):
    outbox.put(Entry(str(number), Start("", 0)), Entry(str(number), End("FINISHED", 0)))
    print(number, flush=True)
"""


def test_a_killed_process_leaves_all_that_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.outbox"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        written = 5 + len(process.stdout.readlines())
    keys = [record.key for record in Outbox(path).waiting()]
    # The last ones may be there without having been told.
    assert len(keys) in (2 * written, 2 * written + 2)
    assert keys == [str(number) for number in range(len(keys) // 2) for _ in range(2)]


@pytest.mark.parametrize("how", ["no database", "cut off", "overwritten"])
def test_a_damaged_file_is_told(tmp_path: Path, how: str) -> None:
    path = tmp_path / "mlflow.outbox"
    Outbox(path).put(*RECORDS * 100)
    content = path.read_bytes()
    damaged = {
        "no database": b"models: []\n" * 1000,
        "cut off": content[: len(content) // 2],
        "overwritten": content[:4096] + b"\xff" * (len(content) - 4096),
    }
    path.write_bytes(damaged[how])
    with pytest.raises(ConfigError) as raised:
        tracker(Client(), tmp_path)
    assert str(raised.value) == (f"{path} is damaged; delete it to go on without the records in it, in new MLflow runs")


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "mlflow.outbox")
    outbox.put(*RECORDS)
    outbox._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match=r"disk is full: '.*/mlflow.outbox'") as raised:
        outbox.put(*RECORDS * 100)
    assert raised.value.errno == errno.ENOSPC
    assert contents(outbox) == [record.content for record in RECORDS]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"unable to open database file: '.*/mlflow.outbox'"):
        Outbox(tmp_path / "missing" / "mlflow.outbox")


def test_a_file_that_another_process_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking.outbox._LOCK_TIMEOUT", 0.05)
    outbox = Outbox(tmp_path / "mlflow.outbox")
    other = sqlite3.connect(outbox.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="database is locked"):
        outbox.put(*RECORDS)
    other.execute("ROLLBACK")
    outbox.put(*RECORDS)
    assert outbox.count_waiting() == 4
