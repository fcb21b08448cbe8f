"""What a person sees while a search runs: a live table on a terminal, dated plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from search.progress.state import RunningTrial, SearchProgress
from search.progress.table import ProgressTable, duration_text, loss_text
from search.studies.study import describe_reason

# Seconds between two plain lines about one trial.
_LINE_INTERVAL = 5.0


class ProgressConsole:
    """The view of a running search; use it as a context manager.

    Args:
        planned: trials of each study.
        clock: seconds, for measuring how long trials take.
    """

    def __init__(
        self, console: Console, planned: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
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
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._console.print(Text(f"{stamp} {message}"), soft_wrap=True)

    def happened(self, kind: str, values: Mapping[str, Any]) -> None:
        """An event of a trial, see `SearchProgress.happened`."""
        trial = self.state.happened(kind, values)
        name = f"{trial.study} trial {trial.number} {trial.curriculum}"
        if kind == "trial_ended":
            if self._live is None or values["state"] == "failed":
                self.note(f"{name}: {self._end(trial, values)}")
        elif self._live is None and (kind == "trial_started" or self._is_due(trial)):
            self._told[trial.study, trial.number] = self._clock()
            self.note(f"{name}: {'started' if kind == 'trial_started' else self._evaluation(trial)}")

    def _is_due(self, trial: RunningTrial) -> bool:
        return self._clock() - self._told[trial.study, trial.number] >= _LINE_INTERVAL

    def _evaluation(self, trial: RunningTrial) -> str:
        best = self.state.studies[trial.study].best
        return (
            f"{trial.tokens:,}/{trial.full_tokens:,} tokens, "
            f"high-entropy loss {loss_text(trial.losses[-1])} (best {loss_text(best)})"
        )

    def _end(self, trial: RunningTrial, values: Mapping[str, Any]) -> str:
        study = self.state.studies[trial.study]
        why = f" ({describe_reason(values['reason'])})" if values["reason"] else ""
        loss = f"high-entropy loss {loss_text(values['objective'])} (best {loss_text(study.best)})"
        return (
            f"{values['state']}{why}, {loss}; "
            f"{study.ended} of {study.planned} trials, time left {duration_text(self.state.time_left())}"
        )
