"""What every evaluation of a search measured, from its events; the study keeps the objectives alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from search.events import Events

Key = tuple[str, int]


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
