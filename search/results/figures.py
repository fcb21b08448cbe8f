"""The pictures of a search: what came of it, how sure that is, and how far stopping early can be trusted."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from optuna.trial import FrozenTrial, TrialState

from search.arms import BASELINE
from search.results.model_result import ModelResult
from search.results.stopping_audit import audit_stopping
from search.space import Space
from search.studies.bootstrap import Verdict
from search.studies.comparison import point_of
from search.studies.search_study import SearchStudy
from trainables.storage.files import replace_atomic

COLOURS = ("#d1495b", "#00798c", "#edae49", "#9b5de5", "#66a182", "#2e4057", "#8d6a9f")
# Told apart by colour, and by shape without it.
VERDICTS = {Verdict.BETTER: ("#00798c", "o"), Verdict.NO_DIFFERENCE: ("0.45", "D"), Verdict.WORSE: ("#d1495b", "X")}
_OBJECTIVES = {
    "high_entropy_loss": "high-entropy loss",
    "low_entropy_loss": "low-entropy loss",
    "general_loss": "loss on general documents",
    "loss": "loss",
}
_GREY, _ACCENT = "0.7", "#00798c"
_COLUMNS = 3
# The least distance of two ticks, as a share of the axis.
_APART = 0.15
_LONGEST_TITLE = 40


def write_figures(
    output: Path, space: Space, sizes: Sequence[ModelResult], trend: Mapping[str, Any] | None
) -> list[Path]:
    """Writes the pictures that have something to show. Returns their paths.

    Args:
        trend: see `search.results.size_trend.fit_size_trend`.
    """
    drawn = {
        "rebound.png": draw_rebound(sizes),
        "verdict.png": draw_verdict(sizes, space),
        "trend.png": draw_trend(trend),
        "front.png": draw_front(sizes, space),
        "rungs.png": draw_rungs(sizes, space),
    }
    written = []
    for name, figure in drawn.items():
        if figure is not None:
            replace_atomic(output / name, partial(figure.savefig, dpi=130, format="png"))
            written.append(output / name)
    return written


def draw_rebound(sizes: Sequence[ModelResult]) -> Figure:
    """Held-out high-entropy loss by tokens, one panel for each model: after a confirmation, its runs, with all seeds of
    each arm's chosen setting; otherwise the trials of the search."""
    figure, panels = _panels([size.model for size in sizes])
    for panel, size in zip(panels, sizes, strict=True):
        for number, trial in enumerate(size.searched.trials(TrialState.COMPLETE, TrialState.PRUNED)):
            _draw_curve(panel, trial, "0.85", 0.8, "trials" if number == 0 else None)
        for colour, (label, runs) in zip(cycle(COLOURS), _curves(size).items(), strict=False):
            for number, run in enumerate(runs):
                _draw_curve(panel, run, colour, 1.5, label if number == 0 else None)
        panel.set(xlabel="tokens trained on", ylabel="held-out high-entropy loss (nats)")
        panel.xaxis.set_major_formatter(_count)
        _legend_below(panel, columns=2)
    return figure


def draw_verdict(sizes: Sequence[ModelResult], space: Space) -> Figure | None:
    """The confirmation: each arm's difference to no dropout with its interval; None without any."""
    point = point_of(space)
    compared = {
        size.model: {
            arm: comparison.differences[point]["high_entropy_loss"]
            for arm, comparison in size.comparisons.items()
            if arm != BASELINE
        }
        for size in sizes
    }
    compared = {model: arms for model, arms in compared.items() if arms}
    if not compared or space.confirmation is None:
        return None
    most = max(len(arms) for arms in compared.values())
    figure, panels = _panels(list(compared), height=1.6 + 0.45 * most)
    for panel, arms in zip(panels, compared.values(), strict=True):
        panel.axvline(0, color="0.2", linewidth=0.8)
        for row, found in enumerate(arms.values()):
            colour, marker = VERDICTS[found.verdict]
            panel.plot([found.low, found.high], [row, row], color=colour, linewidth=1.8)
            panel.plot([found.mean], [row], color=colour, marker=marker, markersize=8)
        panel.set_yticks(range(len(arms)), list(arms))
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_xlabel("high-entropy test loss against no dropout (nats)")
        panel.locator_params(axis="x", nbins=5)
    where = "the best evaluation" if point == "best" else "the end"
    figure.suptitle(
        f"at {where}, {space.confirmation.confidence:.0%} intervals; left of 0 is better", fontsize="medium"
    )
    present = {found.verdict for arms in compared.values() for found in arms.values()}
    shapes = [
        Line2D([], [], color=colour, marker=marker, markersize=8, linewidth=1.8, label=verdict.words)
        for verdict, (colour, marker) in VERDICTS.items()
        if verdict in present
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=len(shapes), frameon=False)
    return figure


def draw_trend(trend: Mapping[str, Any] | None) -> Figure | None:
    """The best settings by the size of the model, one panel for each; None with fewer than two sizes, or if no number
    was searched in all of them."""
    if trend is None or not trend["settings"]:
        return None
    beyond = trend["extrapolation"]
    ticks = sorted({*trend["sizes"], *([beyond["size"]] if beyond is not None else [])})
    figure, panels = _panels(list(trend["settings"]), width=3.6, height=3.0)
    for panel, (name, values) in zip(panels, trend["settings"].items(), strict=True):
        panel.plot(trend["sizes"], values, color=_ACCENT, marker="o", linestyle="none")
        shown = list(values)
        if beyond is not None:
            found, size = beyond["settings"][name], beyond["size"]
            interval = f"{beyond['confidence']:.0%}: {found['low']:.2g} to {found['high']:.2g}"
            label = f"extrapolated {found['value']:.2g} ({interval})"
            panel.plot([size, size], [found["low"], found["high"]], color=COLOURS[0], linestyle="--", label=label)
            panel.plot([size], [found["value"]], color=COLOURS[0], marker="o", markerfacecolor="white")
            shown.append(found["value"])
            _legend_below(panel)
        # Of three sizes the interval is many times as wide as all else: it may leave the panel.
        margin = (max(shown) - min(shown)) or abs(shown[0]) or 1.0
        panel.set_ylim(min(shown) - margin, max(shown) + margin)
        panel.set_xscale("log")
        panel.set_xlim(ticks[0] / 1.6, ticks[-1] * 1.6)
        _tick(panel, ticks)
        panel.set_xlabel("parameters")
    return figure


def draw_front(sizes: Sequence[ModelResult], space: Space) -> Figure | None:
    """The first two of several objectives, one panel for each model: all trials, and the Pareto front; None with a
    single objective, or if nothing ran."""
    if len(space.objectives) < 2:
        return None
    shown = [size for size in sizes if size.searched.pareto_front()]
    if not shown:
        return None
    first, second = (_OBJECTIVES[name] for name in space.objectives[:2])
    figure, panels = _panels([size.model for size in shown])
    for panel, size in zip(panels, shown, strict=True):
        study = size.searched
        trials = study.trials(TrialState.COMPLETE, TrialState.PRUNED)
        panel.plot(*_pairs(study, trials), color=_GREY, marker="o", linestyle="none", label="trials")
        front = _pairs(study, study.pareto_front())
        # Of three objectives the front is no line in two of them.
        line = "-" if len(space.objectives) == 2 else "none"
        how: dict[str, Any] = {"marker": "D", "linestyle": line, "drawstyle": "steps-post"}
        panel.plot(*front, color=_ACCENT, label="Pareto front", **how)
        if (baseline := study.baseline()) is not None:
            how = {"marker": "X", "markersize": 9, "linestyle": "none"}
            panel.plot(*_pairs(study, [baseline]), color=COLOURS[0], label="no dropout", **how)
        panel.set(xlabel=f"{first} (nats)", ylabel=f"{second} (nats)")
        _legend_below(panel, columns=3)
    return figure


def draw_rungs(sizes: Sequence[ModelResult], space: Space) -> Figure | None:
    """How well the order of the trials at each rung foretells their order at the end, one panel for each model; None
    where no correlation is known."""
    stopping = space.early_stopping
    found = {}
    for size in sizes:
        rungs = audit_stopping(size.searched, stopping.first_rung, stopping.reduction_factor)["rungs"]
        if known := [rung for rung in rungs if rung["rank_correlation"] is not None]:
            found[size.model] = known
    if not found:
        return None
    figure, panels = _panels(list(found))
    for panel, rungs in zip(panels, found.values(), strict=True):
        tokens = [rung["tokens"] for rung in rungs]
        counts = sorted({rung["trials"] for rung in rungs})
        label = f"n = {' to '.join(map(str, counts))} trials that ran to the end"
        panel.axhline(0, color="0.2", linewidth=0.8)
        panel.plot(tokens, [rung["rank_correlation"] for rung in rungs], color=_ACCENT, marker="o", label=label)
        panel.set_xscale("log")
        panel.set_xlim(tokens[0] / 1.5, tokens[-1] * 1.5)
        _tick(panel, tokens)
        panel.set(ylim=(-1.05, 1.05), xlabel="tokens at the rung", ylabel="Spearman correlation with the end")
        panel.set_yticks([-1, -0.5, 0, 0.5, 1])
        _legend_below(panel)
    return figure


def _panels(titles: Sequence[str], width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Any]]:
    """A figure with a panel for each title, in rows of at most three."""
    columns = min(len(titles), _COLUMNS)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(titles) :]:
        panel.remove()
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title if len(title) <= _LONGEST_TITLE else f"…{title[1 - _LONGEST_TITLE :]}", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[: len(titles)]


def _legend_below(panel: Any, columns: int = 1) -> None:
    """Where it hides nothing."""
    if panel.get_legend_handles_labels()[0]:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 4.0}
        panel.legend(frameon=False, fontsize="small", ncols=columns, **below)


def _count(number: float, _: object) -> str:
    """12,345,678 as "12.3 M"."""
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def _tick(panel: Any, values: Sequence[int]) -> None:
    """Ticks at these rising values of a logarithmic x axis, without those whose labels would touch the one before."""
    low, high = panel.get_xlim()
    apart = (high / low) ** _APART
    kept = [values[0]]
    for value in values:
        if value >= apart * kept[-1]:
            kept.append(value)
    panel.xaxis.set_major_locator(FixedLocator(kept))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(_count)


def _pairs(study: SearchStudy, trials: Sequence[FrozenTrial]) -> tuple[list[float], list[float]]:
    """The first two objectives of trials, in nats."""
    values = [study.values(trial) for trial in trials]
    return [own[0] for own in values], [own[1] for own in values]


def _curves(size: ModelResult) -> dict[str, list[FrozenTrial]]:
    """What is drawn in colour: the runs of each arm's chosen setting, or of its best trial."""
    study, found = size.searched, {}
    for arm in study.arms:
        trial = next(iter(study.ranked(arm)), None)
        if size.confirmed is not None and arm in size.comparisons:
            contestant = size.comparisons[arm].contestant
            runs = size.confirmed.runs_of(arm)
            trial = next((t for t in study.ranked(arm) if t.number == contestant.trial), None)
        elif trial is not None:
            runs = [trial]
        else:
            continue
        found[_label(study, arm, trial)] = runs
    return found


def _label(study: SearchStudy, arm: str, trial: FrozenTrial | None) -> str:
    if arm == BASELINE:
        return "no dropout"
    curriculum = study.parameters(trial).get("curriculum") if trial is not None else None
    what = "EntroDrop" if arm == "entrodrop" else arm
    number = f", trial {trial.number}" if trial is not None else ""
    return f"{what}{number} ({curriculum['shape']})" if curriculum else f"{what}{number}"


def _draw_curve(panel: Any, trial: FrozenTrial, colour: str, width: float, label: str | None) -> None:
    points = sorted(trial.intermediate_values.items())
    panel.plot([t for t, _ in points], [v for _, v in points], color=colour, linewidth=width, label=label)
