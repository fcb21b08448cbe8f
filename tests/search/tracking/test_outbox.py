"""What a search that an older version began has left for MLflow."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.tracking.outbox import take_over
from tests.search.tracking.memory import EXPECTED, Client, Search
from trainables.errors import ConfigError

# As the version before events.jsonl held all of it made them.
TABLES = """
CREATE TABLE search (id TEXT NOT NULL);
CREATE TABLE records (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, content TEXT NOT NULL,
    tried INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0);
CREATE TABLE seen (once TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (key TEXT PRIMARY KEY, run_id TEXT NOT NULL) WITHOUT ROWID;
"""
EVENTS = [
    {"event": "search_started", "name": "math", "planned": {"nano": 2}, "resumed": False, "resume_command": "again"},
    {
        "event": "trial_started",
        "model": "nano",
        "study": "nano",
        "stage": "search",
        "trial": 0,
        "arm": "none",
        "parameters": {},
        "planned": 2,
        "full_tokens": 0,
        "tokens": 0,
    },
    {
        "event": "evaluation",
        "model": "nano",
        "study": "nano",
        "stage": "search",
        "trial": 0,
        "full_tokens": 300,
        "tokens": 100.0,
        "epoch": 1.0,
        "loss": 6.0,
        "high_entropy_loss": 7.0,
    },
]


def an_older_search(folder: Path, records: Sequence[tuple[str, Any, int]]) -> None:
    """One whose search and trial MLflow has taken, and whose first two evaluations it was told of.

    Args:
        records: key, content, and whether it was tried.
    """
    lines = [json.dumps({"time": 1.0, **event}) for event in EVENTS]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n" + '{"time": 2.0, "ev')
    database = sqlite3.connect(folder / "mlflow.outbox")
    database.executescript(TABLES)
    database.execute("INSERT INTO search VALUES ('older')")
    database.executemany("INSERT INTO runs VALUES (?, ?)", [("", "run0"), ("nano/0", "run1")])
    database.executemany("INSERT INTO seen VALUES (?)", [("nano/0@100",), ("nano/0@200",), ("nano/0@end best=5.0",)])
    rows = [(key, json.dumps(content), tried) for key, content, tried in records]
    database.executemany("INSERT INTO records (key, content, tried) VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()


def its_runs() -> Client:
    client = Client()
    for key in ("", "nano/0"):
        client.create_run("1", 0, {"search.key": f"older/{key}"}, key)
    client.asked.clear()
    return client


def test_a_search_that_an_older_version_began_goes_on_in_its_runs(tmp_path: Path) -> None:
    client = its_runs()
    waiting = [
        ("nano/0", ["values", {"time_ms": 5, "metrics": {"loss": loss}, "step": step}], 0)
        for step, loss in EXPECTED[:2]
    ]
    found = ("nano/1", ["start", {"name": "nano/1", "time_ms": 6}], 1)
    an_older_search(tmp_path, [*waiting, found])
    client.create_run("1", 0, {"search.key": "older/nano/1"}, "nano/1")
    search = Search(client, tmp_path)
    assert search.left == 3
    assert not (tmp_path / "mlflow.outbox").exists()
    search.started(seed=0)
    search.begun(0)
    # Its driver was killed after MLflow's record of this one, and of the last value, and before the study's.
    search.evaluated(0, 200, loss=5.0)
    search.evaluated(0, 300, loss=4.0)
    search.ended(0, best=5.0, objective=4.0)
    assert search.close(10)
    assert client.history("run1", "loss") == EXPECTED
    assert client.history("run1", "best") == []
    assert client.history("run1", "objective") == [(0, 4.0)]
    # The run of the request whose answer was lost is found.
    assert (len(client.runs), search.run_id("nano/1")) == (3, "run2")
    # Nothing is taken over a second time.
    assert Search(client, tmp_path).left == 0


@pytest.mark.parametrize("after", ["the events", "the cursor"])
def test_a_kill_while_it_is_taken_over_changes_nothing(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_older_search(tmp_path, [("nano/0", ["values", {"time_ms": 5, "metrics": {"loss": 6.0}, "step": 100}], 0)])
    step = "search.tracking.outbox.open_cursor" if after == "the events" else "pathlib.Path.unlink"
    with monkeypatch.context() as patch:
        patch.setattr(step, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            take_over(tmp_path / "events.jsonl")
    client = its_runs()
    search = Search(client, tmp_path)
    assert search.close(10)
    assert client.history("run1", "loss") == [(100, 6.0)]
    assert len(client.runs) == 2


def test_a_damaged_outbox_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.outbox").write_text("no database\n" * 1000)
    with pytest.raises(ConfigError, match="delete it to go on without the records in it, in new MLflow runs"):
        take_over(tmp_path / "events.jsonl")


@pytest.mark.faults
def test_an_outbox_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    an_older_search(tmp_path, [])
    other = sqlite3.connect(tmp_path / "mlflow.outbox", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="database is locked"):
        take_over(tmp_path / "events.jsonl")
    other.close()
