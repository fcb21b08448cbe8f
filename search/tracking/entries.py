"""What is recorded of a run, as the outbox keeps it: passwords are masked already."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

SEARCH = ""  # the key of the parent run


@dataclass(frozen=True)
class Start:
    name: str
    time_ms: int


@dataclass(frozen=True)
class Values:
    time_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """Artifacts.

    Attributes:
        paths: of files that are read when MLflow takes them; relative ones are in the outbox's folder.
        texts: contents by file name.
    """

    paths: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What a run trained on.

    Attributes:
        digest: the first digits of its hash.
        source: where it comes from, as JSON.
    """

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class Model:
    """A model that is registered.

    Attributes:
        folder: that transformers loads it from; a relative one is in the outbox's folder.
        name: under which it is registered.
        tags: of its version.
    """

    folder: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """Attributes: status: FINISHED, FAILED or KILLED."""

    status: str
    time_ms: int


Content = Start | Values | Files | Data | Model | End

_KINDS: dict[str, type[Content]] = {
    "start": Start,
    "values": Values,
    "files": Files,
    "data": Data,
    "model": Model,
    "end": End,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """Attributes:
    key: the caller's own for the run; SEARCH for the parent run.
    once: if given, a later record with the same is dropped, also in a later process.
    """

    key: str
    content: Content
    once: str | None = None


@dataclass(frozen=True)
class PendingEntry:
    """A record in the outbox.

    Attributes:
        tried: it may have had its effect already: the answer was lost, or the process killed.
    """

    id: int
    key: str
    content: Content
    tried: bool


def to_json(content: Content) -> str:
    return json.dumps([_NAMES[type(content)], asdict(content)])


def from_json(text: str) -> Content:
    name, values = json.loads(text)
    return _KINDS[name](**values)


def groups(records: Sequence[PendingEntry]) -> list[list[PendingEntry]]:
    """`records` in order, with the values of a run together as far as that leaves the order within the run."""
    grouped: list[list[PendingEntry]] = []
    values: dict[str, list[PendingEntry]] = {}
    for record in records:
        if isinstance(record.content, Values) and record.key in values:
            values[record.key].append(record)
            continue
        grouped.append([record])
        if isinstance(record.content, Values):
            values[record.key] = grouped[-1]
        else:
            values.pop(record.key, None)
    return grouped
