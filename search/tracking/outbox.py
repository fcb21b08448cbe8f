"""What a search that an older version began has for MLflow in mlflow.outbox, a SQLite file."""

import errno
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from search.output.cursor import Cursor, open_cursor
from search.output.events import OutboxEntry, append_events
from search.output.folder import CURSOR
from trainables.errors import ConfigError
from trainables.storage.files import drop_partial_line

OUTBOX = "mlflow.outbox"


def take_over(events: Path) -> Cursor:
    """The cursor beside events.jsonl. If there was none, what an older version has left beside it is an event each.

    Raises:
        ConfigError: the cursor or the outbox is damaged.
        OSError: one of them cannot be read or written.
    """
    outbox, path = events.with_name(OUTBOX), events.with_name(CURSOR)
    drop_partial_line(events)
    if path.exists() or not outbox.exists():
        return open_cursor(path, events)
    try:
        with closing(sqlite3.connect(outbox)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS copied (copy INTEGER PRIMARY KEY)")
            ((search_id, copied),) = database.execute("SELECT id, (SELECT COUNT(*) FROM copied) FROM search")
            runs = dict(database.execute("SELECT key, run_id FROM runs"))
            seen = [once for (once,) in database.execute("SELECT once FROM seen")]
            records = list(database.execute("SELECT key, content, tried FROM records ORDER BY id"))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise OSError(errno.EIO, str(error), str(outbox)) from error
        raise ConfigError(
            f"{outbox} is damaged; delete it to go on without the records in it, in new MLflow runs"
        ) from None
    read = events.stat().st_size if events.exists() else 0
    append_events(events, *(OutboxEntry(key=key, content=json.loads(content)) for key, content, _ in records))
    tried = [key for key, _, tried in records if tried]
    before = {"search_id": search_id, "offset": read, "runs": runs, "tried": tried, "seen": seen}
    cursor = open_cursor(path, events, **before, copied=bool(copied))
    outbox.unlink()
    return cursor
