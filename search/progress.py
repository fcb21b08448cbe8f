"""What a person sees while a search runs: a live table on a terminal, dated plain lines elsewhere."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# Seconds between two plain lines about one trial.
_LINE_INTERVAL = 5.0


@dataclass
class _Trial:
    model: str
    number: int
    curriculum: str
    tokens_total: int
    tokens: int
    told: float
    loss: float | None = None
    # Time and tokens at the first report: what came before includes the start of a slot.
    first: tuple[float, int] | None = None


@dataclass
class _Model:
    planned: int
    # Tokens that each ended trial trained, and all reports' seconds and tokens: how fast it goes.
    tokens: list[int] = field(default_factory=list)
    seconds_measured: float = 0.0
    tokens_measured: int = 0
    states: dict[str, int] = field(default_factory=lambda: {"complete": 0, "pruned": 0, "failed": 0})
    best: float | None = None

    @property
    def ended(self) -> int:
        return sum(self.states.values())

    @property
    def trial_seconds(self) -> float | None:
        """What an ended trial took, on average; None if that is not known."""
        if not self.tokens or not self.tokens_measured:
            return None
        return statistics.fmean(self.tokens) * self.seconds_measured / self.tokens_measured


class Progress:
    """The view of a running search; use it as a context manager.

    Args:
        totals: trials planned for each model.
        clock: seconds, for measuring how long trials take.
    """

    def __init__(
        self, console: Console, totals: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._models = {model: _Model(planned) for model, planned in totals.items()}
        self._running: dict[tuple[str, int], _Trial] = {}
        self._most_running = 1
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._view,
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
        self._line(message)

    def trials_planned(self, model: str, trials: int) -> None:
        """What is known better now than at the start: how many trials a study will have."""
        self._models[model].planned = trials

    def trial_started(
        self,
        model: str,
        trial: int,
        curriculum: str,
        tokens_total: int,
        tokens: int = 0,
    ) -> None:
        """Args: tokens_total: of the full budget, 0 if it is not known yet; tokens: trained already."""
        now = self._clock()
        self._running[model, trial] = _Trial(model, trial, curriculum, tokens_total, tokens, now)
        self._most_running = max(self._most_running, len(self._running))
        if self._live is None:
            self._line(f"{model} trial {trial} {curriculum}: started")

    def trial_report(
        self, model: str, trial: int, tokens: int, high_entropy_loss: float, tokens_total: int | None = None
    ) -> None:
        """Args: tokens: trained so far; high_entropy_loss: held-out, in nats."""
        running, now = self._running[model, trial], self._clock()
        running.tokens, running.loss = tokens, high_entropy_loss
        running.first = running.first or (now, tokens)
        running.tokens_total = tokens_total or running.tokens_total
        if self._live is None and now - running.told >= _LINE_INTERVAL:
            running.told = now
            self._line(
                f"{model} trial {trial} {running.curriculum}: {tokens:,}/{running.tokens_total:,} tokens, "
                f"high-entropy loss {high_entropy_loss:.4f} (best {_loss(self._models[model].best)})"
            )

    def trial_ended(
        self, model: str, trial: int, state: str, reason: str | None, high_entropy_loss: float | None
    ) -> None:
        """Args: state: complete, pruned or failed; high_entropy_loss: the trial's objective, in nats."""
        running, size = self._running.pop((model, trial)), self._models[model]
        size.states[state] += 1
        if running.first is not None:
            size.tokens.append(running.tokens)
            size.seconds_measured += self._clock() - running.first[0]
            size.tokens_measured += running.tokens - running.first[1]
        if state == "complete" and high_entropy_loss is not None:
            size.best = min(high_entropy_loss, size.best if size.best is not None else high_entropy_loss)
        if self._live is None or state == "failed":
            why = f" ({reason})" if reason else ""
            left = self.time_left()
            self._line(
                f"{model} trial {trial} {running.curriculum}: {state}{why}, "
                f"high-entropy loss {_loss(high_entropy_loss)} (best {_loss(size.best)}); "
                f"{size.ended} of {size.planned} trials, time left {_duration(left)}"
            )

    def time_left(self) -> float | None:
        """Seconds that the trials still to run will take, going by the ended ones; None before the first."""
        known = [seconds for size in self._models.values() if (seconds := size.trial_seconds) is not None]
        if not known:
            return None
        # A copy: the live table's own thread asks as well.
        running = list(self._running.values())
        work, trials = 0.0, 0
        for model, size in self._models.items():
            each = size.trial_seconds or statistics.fmean(known)
            shares = [t.tokens / t.tokens_total for t in running if t.model == model and t.tokens_total]
            work += each * max(0.0, size.planned - size.ended - sum(shares))
            trials += max(0, size.planned - size.ended)
        return work / max(1, min(self._most_running, trials))

    def _line(self, message: str) -> None:
        # A reason can be another program's words, with line ends and colours.
        message = "".join(c if c.isprintable() else " " for c in message)
        if self._live is not None:
            self._console.print(Text(message), soft_wrap=False, overflow="ellipsis", no_wrap=True)
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._console.print(Text(f"{stamp} {message}"), soft_wrap=True)

    def _view(self) -> RenderableType:
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("model", no_wrap=True, ratio=4)
        table.add_column("trial", justify="right", no_wrap=True, min_width=5)
        table.add_column("curriculum", no_wrap=True, ratio=5)
        table.add_column("tokens", no_wrap=True, ratio=4)
        table.add_column("", justify="right", no_wrap=True, min_width=4)
        table.add_column("high-entropy", justify="right", no_wrap=True, min_width=12)
        table.add_column("best", justify="right", no_wrap=True, min_width=7)
        for trial in list(self._running.values()):
            total = trial.tokens_total or 1
            table.add_row(
                trial.model,
                str(trial.number),
                trial.curriculum,
                ProgressBar(total=total, completed=trial.tokens),
                f"{min(1.0, trial.tokens / total):.0%}",
                _loss(trial.loss),
                _loss(self._models[trial.model].best),
            )
        lines = [Text(""), *(self._tally(model, size) for model, size in self._models.items())]
        lines.append(Text(f"time left {_duration(self.time_left())}"))
        return Group(table, *lines)

    @staticmethod
    def _tally(model: str, size: _Model) -> Text:
        states = ", ".join(f"{count} {state}" for state, count in size.states.items() if count) or "none yet"
        text = f"{model}: {size.ended} of {size.planned} trials ({states})"
        return Text(text, overflow="ellipsis", no_wrap=True)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
