"""The table that a person watches while a search runs: what trains, how it is getting on, what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.arms import BASELINE
from search.output.events import TrialEnded
from search.progress.state import RunningTrial, SearchProgress, StudyProgress
from search.studies.study import describe_reason

# Characters of a curve.
_WIDTH, _LOSS_WIDTH = 8, 12
# Trials whose ends are shown.
_ENDED = 5
# A terminal of 80 columns has no room for the bars' full length; one of 160 has some for longer curves.
_NARROW, _WIDE = 100, 160


@dataclass(frozen=True)
class ProgressTable:
    """A search at this moment."""

    state: SearchProgress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        state = self.state
        parts: list[RenderableType] = [_tally(name, study) for name, study in state.studies.items()]
        if state.ended_trials:
            ended = [*state.ended_trials][-_ENDED:]
            parts = [*(self._end(trial, event) for trial, event in ended), Text(""), *parts]
        if state.running:
            parts = [self._table(options.max_width, options.ascii_only), Text(""), *parts]
        if state.phase or state.running or state.time_left():
            parts.append(Text(self._summary(), overflow="ellipsis", no_wrap=True))
        yield Group(*parts)

    def _end(self, trial: RunningTrial, event: TrialEnded) -> RenderableType:
        why = f" ({describe_reason(event.reason)})" if event.reason else ""
        study = self.state.studies[trial.study]
        end = objective_text(study, event.objective)
        settings = "".join(f"; {n.rpartition('.')[2]} {brief(v)}" for n, v in study.searched(trial.number).items())
        text = f"{trial.study} {trial.number} {trial.label}: {end}, {event.state}{why}{settings}"
        return Text(text, overflow="ellipsis", no_wrap=True, style="dim")

    def _table(self, width: int, ascii_only: bool) -> RenderableType:
        narrow, times = width < _NARROW, 2 if width >= _WIDE else 1
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
        longest = max(len(trial.study) for trial in self.state.running)
        if narrow:
            table.add_column("model", no_wrap=True, ratio=4)
        else:
            table.add_column("model", no_wrap=True, width=min(longest, width // 4))
        table.add_column("trial", justify="right", no_wrap=True, min_width=5)
        table.add_column("curriculum", no_wrap=True, ratio=5)
        table.add_column("", no_wrap=True, min_width=times * _WIDTH, style="cyan")
        # Beside the bar there is no room for a word.
        table.add_column("" if narrow else "tokens", no_wrap=True, ratio=2 if narrow else 4, min_width=6)
        table.add_column("", justify="right", no_wrap=True, min_width=4)
        table.add_column("high-entropy", no_wrap=True, min_width=times * _LOSS_WIDTH, style="yellow")
        table.add_column("", justify="right", no_wrap=True, min_width=7)
        for trial in self.state.running:
            total, losses = trial.full_tokens or 1, trial.losses
            table.add_row(
                trial.study,
                str(trial.number),
                trial.label,
                sparkline(trial.strengths, times * _WIDTH, 0.0, 1.0, ascii_only),
                ProgressBar(total=total, completed=trial.tokens),
                f"{min(1.0, trial.tokens / total):.0%}",
                sparkline(losses, times * _LOSS_WIDTH, min(losses, default=0), max(losses, default=0), ascii_only),
                loss_text(losses[-1] if losses else None),
            )
        return table

    def _summary(self) -> str:
        state = self.state
        left = state.phase or f"time left {duration_text(state.time_left())}"
        parts = [left, f"running for {duration_text(state.elapsed)}"]
        if speeds := [trial.tokens_per_s for trial in self.state.running if trial.tokens_per_s is not None]:
            parts.append(f"{sum(speeds):,.0f} tokens/s")
        if (busy := self.state.busy()) is not None:
            parts.append(f"slots busy {busy:.0%}")
        return ", ".join(parts)


def _tally(name: str, study: StudyProgress) -> Text:
    states = ", ".join(f"{count} {state}" for state, count in study.states.items() if count) or "none yet"
    text = f"{name}: {study.ended} of {study.planned} trials ({states}), {standing_text(study)}"
    return Text(text, overflow="fold")


def standing_text(study: StudyProgress) -> str:
    """What leads, as the search itself ranks its trials, beside no dropout; in a confirmation the best of each arm."""
    if study.confirms:
        means = [
            f"{'no dropout' if arm == BASELINE else arm} {objective_text(study, mean)}"
            + (f" (best of {settings} settings)" if settings > 1 else "")
            for arm, (mean, settings) in study.means.items()
        ]
        return f"means: {', '.join(means) or '-'}"
    best = "best -"
    if study.best is not None:
        value, number, arm = study.best
        of = f", {arm}" if len(study.objectives.keys() - {BASELINE}) > 1 else ""
        best = f"best {objective_text(study, value)} (trial {number}{of})"
    baseline = study.objectives.get(BASELINE)
    return f"{best}, no dropout {objective_text(study, min(baseline.values()))}" if baseline else best


def end_text(study: StudyProgress, objective: float | None) -> str:
    """What a trial came to."""
    return f"{'answers' if study.answers else 'high-entropy loss'} {objective_text(study, objective)}"


def objective_text(study: StudyProgress, value: float | None) -> str:
    return f"{1 - value:.1%} right" if study.answers and value is not None else loss_text(value)


def loss_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration_text(seconds: float | None) -> str:
    if seconds is None:
        return "not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_LEVELS = "▁▂▃▄▅▆▇█"
# For terminals that have no other characters.
_ASCII_LEVELS = "_.-~+=*#"


def sparkline(values: Sequence[float], width: int, low: float, high: float, ascii_only: bool = False) -> str:
    """A curve of at most `width` characters, each the mean of its share of the values.

    Args:
        low, high: values that the lowest and the highest character stand for.
    """
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    count = min(width, len(values))
    characters = []
    for n in range(count):
        share = values[n * len(values) // count : (n + 1) * len(values) // count]
        height = (sum(share) / len(share) - low) / (high - low) if high > low else 0.0
        characters.append(levels[min(len(levels) - 1, max(0, int(height * len(levels))))])
    return "".join(characters)
