"""What a person sees while a search runs: a live table on a terminal, dated plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from search.output.events import Evaluation, Event, TrialEnded, TrialStarted
from search.progress import stamped
from search.progress.state import RunningTrial, SearchProgress
from search.progress.table import ProgressTable, duration_text, end_text, loss_text, standing_text
from search.studies.study import describe_reason

# Seconds between two plain lines about one trial.
_LINE_INTERVAL = 5.0


class ProgressConsole:
    """The view of a running search; use it as a context manager.

    Args:
        planned: trials of each study.
        clock: seconds, as the events have them.
    """

    def __init__(self, console: Console, planned: Mapping[str, int], clock: Callable[[], float] = time.time) -> None:
        self._console, self._clock = console, clock
        self.state = SearchProgress(planned, clock)
        self._told: dict[tuple[str, int], float] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=lambda: ProgressTable(self.state),
                console=self._console,
                refresh_per_second=4,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, message: str) -> None:
        """A line about a phase of the search, such as the preparation of the data."""
        # A reason can be another program's words, with line ends and colours.
        message = "".join(c if c.isprintable() else " " for c in message)
        if self._live is not None:
            self._console.print(Text(message), soft_wrap=False, overflow="ellipsis", no_wrap=True)
        else:
            self._console.print(Text(stamped(message)), soft_wrap=True)

    def handle(self, event: Event) -> None:
        trial = self.state.follow(event)
        if trial is None:
            return
        name = f"{trial.study} trial {trial.number} {trial.label}"
        match event:
            case TrialEnded():
                if self._live is None or event.state == "failed":
                    self.note(f"{name}: {self._end(event)}")
            case TrialStarted() | Evaluation() if self._live is None:
                if isinstance(event, TrialStarted) or self._is_due(trial):
                    self._told[trial.study, trial.number] = self._clock()
                    what = "started" if isinstance(event, TrialStarted) else self._evaluation(trial)
                    self.note(f"{name}: {what}")

    def _is_due(self, trial: RunningTrial) -> bool:
        return self._clock() - self._told[trial.study, trial.number] >= _LINE_INTERVAL

    def _evaluation(self, trial: RunningTrial) -> str:
        standing = standing_text(self.state.studies[trial.study])
        return (
            f"{trial.tokens:,}/{trial.full_tokens:,} tokens, "
            f"high-entropy loss {loss_text(trial.losses[-1])} ({standing})"
        )

    def _end(self, event: TrialEnded) -> str:
        study = self.state.studies[event.study]
        why = describe_reason(event.reason) if event.reason else ""
        why = f" ({why}: {event.detail})" if event.detail else f" ({why})" if why else ""
        loss = f"{end_text(study, event.objective)} ({standing_text(study)})"
        return (
            f"{event.state}{why}, {loss}; "
            f"{study.ended} of {study.planned} trials, time left {duration_text(self.state.time_left())}"
        )
