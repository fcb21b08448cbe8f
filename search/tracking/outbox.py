"""The records that MLflow has not taken yet, and the names of the runs: a SQLite file in a search's output folder."""

import errno
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from search.tracking.entries import Entry, Model, PendingEntry, from_json, to_json
from trainables.errors import ConfigError

# Seconds to wait for another process that reads the file, such as a backup.
_LOCK_TIMEOUT = 30.0
# What a killed process wrote stays with any mode; this one also outlives a power failure. A commit takes 15 ms.
_SYNCHRONOUS = "NORMAL"
_MOST_AT_ONCE = 1000

# A delivered record is deleted; what may be recorded only once is remembered in `seen`. `copied` holds a row if MLflow
# may have been told more than is here.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS search (id TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL,"
    " content TEXT NOT NULL, tried INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS seen (once TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, run_id TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS copied (copy INTEGER PRIMARY KEY)",
)


def copy_of(path: Path) -> bytes:
    """The outbox in the file `path`, which this process may be writing to, as it is between two transactions."""
    source, target = sqlite3.connect(path, timeout=_LOCK_TIMEOUT), sqlite3.connect(":memory:")
    with closing(source), closing(target):
        source.backup(target)
        return target.serialize()


class Outbox:
    """Opens the outbox in the file `path`, or makes it. Threads may share it.

    What MLflow refused in an earlier part of the search waits again: the reason may be gone.

    Every method raises OSError if the disk is full or the file cannot be read or written, and ConfigError if it is
    damaged.

    Attributes:
        search_id: random, and the same for all parts of a search.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._errors():
            # The rollback journal, SQLite's default: a write-ahead log does not work on a network file system.
            self._database = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
            self._database.execute(f"PRAGMA synchronous = {_SYNCHRONOUS}")
            if self._database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise self._damaged()
        with self._transaction() as database:
            for table in _TABLES:
                database.execute(table)
            new = uuid.uuid4().hex
            database.execute("INSERT INTO search SELECT ? WHERE NOT EXISTS (SELECT * FROM search)", (new,))
            database.execute("UPDATE records SET refused = 0 WHERE refused")
        self.search_id: str = self._one("SELECT id FROM search")
        self._copied: int = self._one("SELECT COUNT(*) FROM copied")

    def put(self, *records: Entry) -> None:
        """Adds records, all or none; those with a `once` that was there before are left out."""
        with self._transaction() as database:
            for record in records:
                if record.once is not None:
                    new = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (record.once,)).rowcount
                    if not new:
                        continue
                row = (record.key, to_json(record.content), self._copied)
                database.execute("INSERT INTO records (key, content, tried) VALUES (?, ?, ?)", row)

    def look_again(self) -> None:
        """From now on, any record may have had its effect: this is a copy of an outbox that went on, and is lost."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO copied VALUES (1)")
            database.execute("UPDATE records SET tried = 1")
        self._copied = 1

    def waiting(self) -> list[PendingEntry]:
        """The oldest records that are neither delivered nor refused, in order; some, if there are many."""
        asked = "SELECT id, key, content, tried FROM records WHERE NOT refused ORDER BY id LIMIT ?"
        with self._lock, self._errors():
            rows = self._database.execute(asked, (_MOST_AT_ONCE,)).fetchall()
        return [PendingEntry(number, key, from_json(content), bool(tried)) for number, key, content, tried in rows]

    def count_waiting(self) -> int:
        """Records that are neither delivered nor refused."""
        count: int = self._one("SELECT COUNT(*) FROM records WHERE NOT refused")
        return count

    def count_undelivered(self) -> int:
        """Records that wait or were refused."""
        count: int = self._one("SELECT COUNT(*) FROM records")
        return count

    def models(self) -> list[Model]:
        """Those that are not delivered."""
        with self._lock, self._errors():
            rows = self._database.execute("SELECT content FROM records ORDER BY id").fetchall()
        return [content for (text,) in rows if isinstance(content := from_json(text), Model)]

    def trying(self, record: PendingEntry) -> None:
        """Remembers, before it is sent, that the record may have its effect from now on."""
        with self._transaction() as database:
            database.execute("UPDATE records SET tried = 1 WHERE id = ?", (record.id,))

    def delivered(self, records: Sequence[PendingEntry], run_id: str | None = None) -> None:
        """Removes records. `run_id`: of the run that they opened."""
        with self._transaction() as database:
            database.executemany("DELETE FROM records WHERE id = ?", [(record.id,) for record in records])
            if run_id is not None:
                database.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (records[0].key, run_id))

    def refused(self, records: Sequence[PendingEntry]) -> None:
        with self._transaction() as database:
            database.executemany("UPDATE records SET refused = 1 WHERE id = ?", [(record.id,) for record in records])

    def run_id(self, key: str) -> str | None:
        """The MLflow run with the key `key`; None if MLflow has not named it yet."""
        found: str | None = self._one("SELECT run_id FROM runs WHERE key = ?", key)
        return found

    def _one(self, asked: str, *values: object) -> Any:
        """The first column of the first row; None if there is none."""
        with self._lock, self._errors():
            row = self._database.execute(asked, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                # SQLite has rolled back by itself if the disk is full.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            # The lowest byte; the others say more about it.
            code = error.sqlite_errorcode & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged() from None
            number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
            raise OSError(number, str(error), str(self.path)) from error

    def _damaged(self) -> ConfigError:
        return ConfigError(f"{self.path} is damaged; delete it to go on without the records in it, in new MLflow runs")
