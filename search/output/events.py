"""events.jsonl: everything that happens in a search, one line each. The live table, MLflow and the report are told from
it."""

import json
import time as clock
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from trainables.errors import ConfigError
from trainables.storage.files import append_lines

Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Attributes: time: seconds since 1970. Secrets are masked by the one who makes an event."""

    time: float = field(default_factory=lambda: round(clock.time(), 3))


@dataclass(frozen=True, kw_only=True)
class SearchStarted(Event):
    """Attributes:
    planned: trials of each study.
    resumed: whether an earlier part of the search has left its events.
    settings: of the space.
    commit: of the folder that the search was started in.
    files: in the output folder, that MLflow keeps.
    """

    planned: dict[str, int]
    resume_command: str
    name: str = ""
    models: list[str] = field(default_factory=list)
    resumed: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DataPrepared(Event):
    """Attributes:
    source: the space's block data.
    documents: of the training split, as `trainables.preparation.shown_documents` has them without a schedule.
    """

    model: str
    data_hash: str
    source: dict[str, Any]
    documents: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PhaseBegan(Event):
    """Something that comes before the first trial, in words, such as the entropies of a model."""

    words: str


@dataclass(frozen=True, kw_only=True)
class TrialEvent(Event):
    """Attributes: stage: search or confirmation."""

    study: str
    trial: int
    model: str = ""
    stage: str = "search"

    @property
    def key(self) -> str:
        """The trial's name in the search."""
        return f"{self.study}/{self.trial}"


@dataclass(frozen=True, kw_only=True)
class TrialStarted(TrialEvent):
    """Attributes:
    planned: trials of the study.
    full_tokens: of a trial that is not stopped early; 0 if that is not known yet.
    tokens: that the trial has trained on before.
    """

    arm: str
    parameters: dict[str, Any]
    planned: int
    full_tokens: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Evaluation(TrialEvent):
    """Attributes:
    metrics: all that the run has reported and that is finite, but its tokens.
    node: the name of the one that its use is of; empty if an older version has written the event.
    """

    tokens: int
    full_tokens: int
    metrics: dict[str, float]
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class TrialEnded(TrialEvent):
    """Attributes:
    reason: a code, see search.studies.study.
    objective: which is minimised: in nats, or the share of wrong answers; None without an evaluation.
    metrics: of the whole trial.
    accumulation: that it went on with after it was out of memory.
    """

    state: str
    reason: str | None
    objective: float | None
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    accumulation: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelsAllotted(Event):
    """The models that come next share these slots."""

    models: list[str]
    workers: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class SlotsChanged(Event):
    slots: int


@dataclass(frozen=True, kw_only=True)
class ModelRegistered(TrialEvent):
    """Attributes: folder: from the output folder, that transformers loads the model from."""

    name: str
    folder: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchEnded(Event):
    """Attributes:
    status: FINISHED, KILLED (interrupted) or FAILED.
    parameters, metrics, tags: what came of it.
    description: the same in markdown; of one that failed, why.
    files: in the output folder.
    """

    status: str
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class OutboxEntry(Event):
    """What an older version of this program had not yet told MLflow.

    Attributes: content: see search.tracking.entries.from_json.
    """

    key: str
    content: list[Any]


_KINDS: dict[str, type[Event]] = {
    "search_started": SearchStarted,
    "data_prepared": DataPrepared,
    "phase_began": PhaseBegan,
    "trial_started": TrialStarted,
    "evaluation": Evaluation,
    "trial_ended": TrialEnded,
    "models_allotted": ModelsAllotted,
    "slots_changed": SlotsChanged,
    "model_registered": ModelRegistered,
    "search_ended": SearchEnded,
    "outbox_entry": OutboxEntry,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def append_events(path: Path, *events: Event) -> None:
    """Writes events to the end of events.jsonl, all or none, so that they outlive a power failure.

    Raises:
        OSError: the disk is full.
    """
    lines = [{"time": event.time, "event": _NAMES[type(event)], **vars(event)} for event in events]
    append_lines(path, "".join(json.dumps(line) + "\n" for line in lines))


def _parse_line(line: bytes) -> Event | None:
    """None for a kind of event that only a newer version knows.

    Raises:
        _MissingError: what no search has written.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        kind = _KINDS.get(values["event"])
        values["time"] = float(values["time"])
    except (ValueError, KeyError, TypeError):
        raise _MissingError("event") from None
    if kind is None:
        return None
    known = {field.name: field for field in fields(kind)}
    if kind is Evaluation and "metrics" not in values:
        # As older versions wrote it.
        values["metrics"] = {name: value for name, value in values.items() if name not in (*known, "event")}
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise _MissingError(name)
    return kind(**{name: values[name] for name in known if name in values})


class _MissingError(Exception):
    """Args: the key that a line lacks."""


class Events:
    """Reads the events that a search has written, also while it writes more.

    Args:
        path: of events.jsonl.

    Attributes:
        offset: bytes that have been read.
        begins: where the line of the last event does, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = self.begins = self._lines = 0

    def new(self, end: int | None = None) -> Iterator[Event]:
        """What has been written since the last call; nothing before the search has written its first event. A line that
        is not whole is still being written, or was when the search was killed.

        Args:
            end: bytes of the file to read up to.

        Raises:
            ConfigError: a line that no search has written.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self.offset)
            while (end is None or self.offset < end) and (line := file.readline()).endswith(b"\n"):
                try:
                    event = _parse_line(line)
                except _MissingError as error:
                    raise self._wrong(f"this line has no {error}", self._lines + 1) from None
                self.begins, self.offset = self.offset, self.offset + len(line)
                self._lines += 1
                if event is not None:
                    yield event

    def hand_to(self, follow: Callable[[Event], object], end: int | None = None) -> None:
        """Gives each event that has been written since the last call to `follow`.

        Raises:
            ConfigError: a line that no search has written, or that does not follow from the lines before.
        """
        for event in self.new(end):
            try:
                follow(event)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise self._wrong("this line does not follow from those before", self._lines) from None

    def _wrong(self, problem: str, line: int) -> ConfigError:
        return ConfigError(f"DIR: {self._path}:{line}: {problem}; put the file back as the search wrote it")


class Evaluations:
    """Args: events: of the search.

    Attributes:
        names: of its studies, in the order in which they run.
        began: seconds since 1970; None if it has not.
        data_hashes: of each model whose data is known.
    """

    def __init__(self, events: Events) -> None:
        metrics_by_trial: dict[Key, dict[int, Mapping[str, float]]] = defaultdict(dict)
        self.names: list[str] = []
        self.began: float | None = None
        self.data_hashes: dict[str, str] = {}
        for event in events.new():
            if isinstance(event, SearchStarted):
                self.names = list(event.planned)
                self.began = self.began or event.time
            elif isinstance(event, DataPrepared):
                self.data_hashes[event.model] = event.data_hash
            elif isinstance(event, Evaluation):
                metrics_by_trial[event.study, event.trial][event.tokens] = event.metrics
        self._found = dict(metrics_by_trial)

    def curve(self, study: str, trial: FrozenTrial, measure: str) -> tuple[list[float], list[float]]:
        """A trial's epochs and a measure at each of them, in nats; empty if it was not measured."""
        metrics = [metrics for _, metrics in sorted(self._found.get((study, trial.number), {}).items())]
        points = [(one["epoch"], one[measure]) for one in metrics if measure in one]
        return [epoch for epoch, _ in points], [value for _, value in points]

    def band(
        self, study: str, trials: Sequence[FrozenTrial], measure: str
    ) -> tuple[list[float], list[float], list[float], list[float]]:
        """Of several trials with the same evaluations: epochs, and the mean, least and greatest value at each."""
        curves = [self.curve(study, trial, measure) for trial in trials]
        shortest = min((len(epochs) for epochs, _ in curves), default=0)
        at = [[values[n] for _, values in curves] for n in range(shortest)]
        epochs = curves[0][0][:shortest] if curves else []
        return epochs, [sum(v) / len(v) for v in at], [min(v) for v in at], [max(v) for v in at]
