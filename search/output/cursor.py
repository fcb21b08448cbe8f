"""How far MLflow has taken the events of a search, and the names of its runs: mlflow.cursor, beside events.jsonl."""

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainables.errors import ConfigError
from trainables.storage.files import append_lines, drop_partial_line, write_atomic

# Of an entry: where the line of its event begins in events.jsonl, in bytes, and which of the event's entries it is.
EntryId = tuple[int, int]


class Cursor:
    """Reads the cursor in the file `path`, if there is one. Each line of the file adds to those before it.

    Attributes:
        search_id: random, and the same for all parts of a search.
        offset: bytes of events.jsonl up to which MLflow has taken or refused all.
        runs: MLflow's name for the run with each key.
        refused: what MLflow has refused.
        seen: what an older version has recorded that may be recorded once only.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.search_id, self.offset = "", 0
        self.runs: dict[str, str] = {}
        self.refused: set[EntryId] = set()
        self.seen: list[str] = []
        self._tried: set[str] = set()
        self._copied = False
        try:
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                self._merge(**json.loads(line))
        except (ValueError, TypeError):
            allowed = "delete it to record all events again, in new MLflow runs"
            raise ConfigError(f"{path} is damaged; {allowed}") from None

    def _merge(
        self,
        search_id: str | None = None,
        offset: int | None = None,
        runs: Mapping[str, str] | None = None,
        tried: Iterable[str] = (),
        refused: Iterable[EntryId] = (),
        taken: Iterable[EntryId] = (),
        seen: Iterable[str] = (),
        copied: bool = False,
    ) -> None:
        self.search_id = search_id or self.search_id
        self.offset = self.offset if offset is None else offset
        self._tried = (self._tried - set(runs or ())) | set(tried)
        self.runs |= runs or {}
        self.refused = (self.refused | {(begins, n) for begins, n in refused}) - {(begins, n) for begins, n in taken}
        self.seen += seen
        self._copied |= copied

    def _add(self, **changes: object) -> None:
        line = json.dumps(changes)
        append_lines(self.path, line + "\n")
        self._merge(**json.loads(line))

    def to_json(self) -> dict[str, object]:
        """The one line that stands for all."""
        return {
            "search_id": self.search_id,
            "offset": self.offset,
            "runs": self.runs,
            "tried": sorted(self._tried),
            "refused": sorted(self.refused),
            "seen": self.seen,
            "copied": self._copied,
        }

    def waits(self, entry: EntryId) -> bool:
        """Whether MLflow has not taken it."""
        return entry[0] >= self.offset or entry in self.refused

    def may_exist(self, key: str) -> bool:
        """Whether a run with this key may have been made without this file's knowing of it."""
        return self._copied or key in self._tried

    def mark_tried(self, key: str) -> None:
        """A request is about to make the run."""
        if key not in self._tried:
            self._add(tried=[key])

    def keep_run(self, key: str, run_id: str) -> None:
        self._add(runs={key: run_id})

    def refuse(self, entries: Iterable[EntryId]) -> None:
        self._add(refused=list(entries))

    def take(self, entries: Iterable[EntryId]) -> None:
        """What was refused before is delivered."""
        if retried := self.refused & set(entries):
            self._add(taken=list(retried))

    def advance(self, offset: int) -> None:
        if offset > self.offset:
            self._add(offset=offset)

    def look_again(self) -> None:
        """From now on any run may exist: this is a copy of a cursor that went on, and is lost."""
        self._add(copied=True)


def open_cursor(path: Path, events: Path, **before: object) -> Cursor:
    """The cursor in the file `path`, made if there is none, and written anew in one line.

    Args:
        before: what a new one begins with.
    """
    drop_partial_line(path)
    if not path.exists():
        write_atomic(path, json.dumps({"search_id": uuid.uuid4().hex, **before}) + "\n")
    cursor = Cursor(path)
    write_atomic(path, json.dumps(cursor.to_json()) + "\n")
    # Other events than those that were read: what MLflow has of them it takes a second time without a change.
    if cursor.offset > (events.stat().st_size if events.exists() else 0):
        cursor.offset = 0
    return cursor
