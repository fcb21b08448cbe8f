"""What MLflow is told of each event."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json import dumps
from typing import Any

from search.arms import curriculum_name, flatten
from search.output.cursor import EntryId
from search.output.events import (
    DataPrepared,
    Evaluation,
    Event,
    ModelRegistered,
    OutboxEntry,
    SearchEnded,
    SearchStarted,
    TrialEnded,
    TrialStarted,
)
from search.results.page.trial import TrialPage
from search.space import HIGH
from trainables.errors import TEMPLATES, mask_secrets

SEARCH = ""  # the key of the parent run
# Characters that MLflow allows.
_LONGEST_VALUE, _LONGEST_DIGEST = 6000, 36
# The tag that MLflow's UI shows as a run's description.
_DESCRIPTION = "mlflow.note.content"
# What MLflow's UI shows as a run's source.
_SOURCE = {"mlflow.source.name": "python -m search.run", "mlflow.source.type": "LOCAL"}


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
        paths: of files that are read when MLflow takes them; relative ones are in the output folder.
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
        folder: that transformers loads it from; a relative one is in the output folder.
        name: under which it is registered.
        tags, description: of its version.
    """

    folder: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True)
class End:
    """Attributes: status: FINISHED, FAILED or KILLED."""

    status: str
    time_ms: int


@dataclass(frozen=True)
class View:
    """What MLflow's page of runs can show: the trials of a model's search, the best on top.

    Attributes: columns: params that differ between them.
    """

    model: str
    columns: Sequence[str]


Content = Start | Values | Files | Data | TrialPage | Model | View | End

# The names that an outbox has for them.
_KINDS: dict[str, type[Content]] = {
    "start": Start,
    "values": Values,
    "files": Files,
    "data": Data,
    "model": Model,
    "end": End,
}


@dataclass(frozen=True)
class Entry:
    """Attributes:
    key: of the run: the trial's, or SEARCH for the parent run.
    once: if given, a later entry with the same is dropped.
    """

    key: str
    content: Content
    once: str | None = None
    id: EntryId = (0, 0)


class EntryMaker:
    """Makes entries of a search's events, which it must be given from the first one on.

    Args:
        seen: what an older version has recorded of what may be recorded once only.
    """

    def __init__(self, seen: Iterable[str]) -> None:
        self._seen = set(seen)
        self._data: dict[str, DataPrepared] = {}
        # Of each model's search the values that each param has had.
        self._values: dict[str, dict[str, set[str]]] = {}
        # Of each trial that has not ended: its start, and its evaluations by tokens.
        self._running: dict[str, tuple[TrialStarted, dict[int, Evaluation]]] = {}

    def make(self, event: Event, begins: int) -> Iterator[Entry]:
        """Args: begins: where the event's line does in events.jsonl, in bytes."""
        for number, entry in enumerate(self._translate(event)):
            if entry.once is None or entry.once not in self._seen:
                yield replace(entry, id=(begins, number))
            if entry.once is not None:
                self._seen.add(entry.once)

    def _translate(self, event: Event) -> Iterator[Entry]:
        now = round(1000 * event.time)
        match event:
            case SearchStarted():
                tags = {"kind": "search", "models": " ".join(event.models), **_SOURCE}
                if event.commit is not None:
                    tags["git.commit"] = event.commit
                yield Entry(SEARCH, Start(mask_secrets(event.name), now))
                yield Entry(SEARCH, Values(now, params=_texts(flatten(event.settings)), tags=_texts(tags)))
                yield Entry(SEARCH, Files(event.files))
            case DataPrepared():
                self._data[event.model] = event
                yield self._describe_data(event.model, SEARCH)
            case TrialStarted():
                self._running[event.key] = event, self._running.get(event.key, (event, {}))[1]
                name = curriculum_name(event.arm, event.parameters)
                tags = {"model": event.model, "arm": event.arm, "stage": event.stage, "trial": str(event.trial)}
                tags |= {"state": "running", **_SOURCE}
                if "curriculum" in event.parameters:
                    tags["curriculum.shape"] = event.parameters["curriculum"]["shape"]
                params = _texts({"model": event.model, "arm": event.arm, **flatten(event.parameters)})
                if event.stage == "search":
                    values = self._values.setdefault(event.model, {})
                    for param, value in params.items():
                        values.setdefault(param, set()).add(value)
                yield Entry(event.key, Start(mask_secrets(f"{event.key} {name}"), now))
                yield Entry(event.key, Values(now, params=params, tags=_texts(tags)))
            case Evaluation():
                if event.key in self._running and HIGH in event.metrics:
                    self._running[event.key][1].setdefault(event.tokens, event)
                yield Entry(event.key, Values(now, event.metrics, event.tokens), once=f"{event.key}@{event.tokens}")
            case TrialEnded():
                if event.model in self._data:
                    yield self._describe_data(event.model, event.key)
                if (page := self._page(event)) is not None:
                    yield Entry(event.key, page)
                tags = {"state": event.state, "reason": event.reason or "", "detail": event.detail}
                if event.accumulation is not None:
                    tags["retried_with_accumulation"] = str(event.accumulation)
                status = "FAILED" if event.state == "failed" else "FINISHED"
                yield from _end(event.key, now, status, event.metrics, Values(now, tags=_texts(tags)))
            case ModelRegistered(folder=str(folder)):
                model = Model(folder, mask_secrets(event.name), _texts(event.tags), event.description)
                yield Entry(event.key, model, once=f"{event.key}@model {event.name}")
            case SearchEnded():
                tags = {"state": event.status.lower(), **event.tags, _DESCRIPTION: event.description}
                ending = Values(now, params=_texts(event.parameters), tags=_texts(tags))
                *before, end = _end(SEARCH, now, event.status, event.metrics, ending)
                yield from (*before, Entry(SEARCH, Files(event.files)))
                for searched, by_param in self._values.items():
                    columns = [param for param, different in by_param.items() if len(different) > 1]
                    yield Entry(SEARCH, View(searched, columns))
                yield end
            case OutboxEntry():
                name, content = event.content
                yield Entry(event.key, _KINDS[name](**content))

    def _page(self, event: TrialEnded) -> TrialPage | None:
        """Of a trial that was evaluated."""
        started, evaluations = self._running.pop(event.key, (None, {}))
        if started is None or not evaluations:
            return None
        first = next(iter(evaluations.values()))
        prepared = self._data.get(event.model)
        return TrialPage(
            mask_secrets(f"{event.key} {curriculum_name(started.arm, started.parameters)}"),
            {tokens: one.metrics[HIGH] for tokens, one in sorted(evaluations.items())},
            first.full_tokens,
            started.parameters.get("curriculum"),
            prepared.documents if prepared is not None else [],
            first.metrics,
        )

    def _describe_data(self, model: str, key: str) -> Entry:
        """What a run trained on. What the data is called tells the model, whose own the tokens are."""
        source, digest = self._data[model].source, self._data[model].data_hash[:_LONGEST_DIGEST]
        name = f"{source.get('task') or source['source']}, {model}"
        return Entry(key, Data(name, digest, dumps(source)), once=f"{key}@data {name} {digest}")


def _end(key: str, now: int, status: str, metrics: Mapping[str, float], values: Values) -> list[Entry]:
    """A run's end. A run that ends a second time, as after a kill, has each metric but once."""
    once = [Entry(key, Values(now, {name: one}), once=f"{key}@end {name}={one!r}") for name, one in metrics.items()]
    return [*once, Entry(key, values), Entry(key, End(status, now))]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(name, str(value))[:_LONGEST_VALUE] for name, value in values.items()}


def _text(name: str, value: str) -> str:
    return value if name.rpartition(".")[2] in TEMPLATES else mask_secrets(value)


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """`entries` in order, with the values of a run together as far as that leaves the order within the run."""
    grouped: list[list[Entry]] = []
    values: dict[str, list[Entry]] = {}
    for entry in entries:
        if isinstance(entry.content, Values) and entry.key in values:
            values[entry.key].append(entry)
            continue
        grouped.append([entry])
        if isinstance(entry.content, Values):
            values[entry.key] = grouped[-1]
        else:
            values.pop(entry.key, None)
    return grouped
