"""events.jsonl, in which a search tells everything that happens, one line each, and what it measured."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from trainables.errors import ConfigError

Key = tuple[str, int]
TRIAL_EVENTS = ("trial_started", "evaluation", "trial_ended")
# What readers take from each kind of event.
_TRIAL = ("study", "trial")
_KEYS = {
    "search_started": ("planned", "resume_command"),
    "trial_started": (*_TRIAL, "arm", "parameters", "planned", "full_tokens", "tokens"),
    "evaluation": (*_TRIAL, "tokens", "full_tokens", "high_entropy_loss", "epoch"),
    "trial_ended": (*_TRIAL, "state", "reason", "objective"),
    "models_allotted": ("models", "workers", "slots"),
    "slots_changed": ("slots",),
    "model_registered": (*_TRIAL, "name"),
    "search_ended": ("status",),
}


class Events:
    """Reads the events that a search has written, also while it writes more.

    Args:
        path: of events.jsonl.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = self._lines = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """What has been written since the last call. A line that is not whole is still being written, or was when the
        search was killed.

        Raises:
            ConfigError: a line that no search has written.
        """
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                self._lines += 1
                yield self._checked(line)

    def hand_to(self, follow: Callable[[dict[str, Any]], None]) -> None:
        """Gives each event that has been written since the last call to `follow`.

        Raises:
            ConfigError: a line that no search has written, or that does not follow from the lines before.
        """
        for event in self.new():
            try:
                follow(event)
            except (KeyError, TypeError, ValueError):
                raise self._wrong("this line does not follow from those before") from None

    def _checked(self, line: bytes) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line)
            float(event["time"])
            missing = [key for key in _KEYS[event["event"]] if key not in event]
        except (ValueError, KeyError, TypeError):
            missing = ["event"]
        if missing:
            raise self._wrong(f"this line has no {missing[0]}")
        return event

    def _wrong(self, problem: str) -> ConfigError:
        """The error of the line that was read last."""
        return ConfigError(f"DIR: {self._path}:{self._lines}: {problem}; put the file back as the search wrote it")


class Evaluations:
    """Args: events: of the search.

    Attributes:
        names: of its studies, in the order in which they run.
    """

    def __init__(self, events: Events) -> None:
        found: dict[Key, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.names: list[str] = []
        for event in events.new():
            if event["event"] == "search_started":
                self.names = list(event["planned"])
            elif event["event"] == "evaluation":
                found[event["study"], event["trial"]][int(event["tokens"])] = event
        self._found: Mapping[Key, dict[int, dict[str, Any]]] = dict(found)

    def curve(self, study: str, trial: FrozenTrial, measure: str) -> tuple[list[float], list[float]]:
        """A trial's epochs and a measure at each of them, in nats; empty if it was not measured."""
        events = [event for _, event in sorted(self._found.get((study, trial.number), {}).items())]
        points = [(event["epoch"], event[measure]) for event in events if measure in event]
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
