"""The plots of the report, each with a sentence and a table that say the same without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from search.arms import BASELINE, curriculum_name
from search.output.events import Evaluations
from search.results.model_result import ModelResult
from search.results.summary import as_plain_study, common_parameters
from search.space import Space
from search.studies.bootstrap import Verdict
from search.studies.comparison import point_of
from search.studies.study import TrialStudy
from trainables.curriculum import curriculum_from

# Told apart on white and on black.
COLOURS = ("#d1495b", "#0f8fa6", "#c98a1b", "#9b5de5", "#4f9d6e", "#6b7fa3", "#b0708f")
_POINTS = 51
# Fewer points than this say nothing about a setting.
_FEWEST = 3
_VERDICTS = {
    Verdict.BETTER: (COLOURS[1], "circle"),
    Verdict.NO_DIFFERENCE: ("#808080", "diamond"),
    Verdict.WORSE: (COLOURS[0], "x"),
}
_MEASURES = {
    "high_entropy_loss": "high-entropy loss (hard tokens)",
    "low_entropy_loss": "low-entropy loss (easy tokens)",
}


@dataclass(frozen=True)
class Plot:
    """A plot and what stands for it.

    Attributes:
        title: of one line.
        says: one or two sentences on what is to be seen.
        columns, rows: the numbers.
        panels: side by side; a narrow screen scrolls.
    """

    title: str
    says: str
    figure: go.Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[object]] = field(default_factory=list)
    panels: int = 1


def rebound(size: ModelResult, evaluations: Evaluations) -> Plot | None:
    """Held-out losses by epoch of each arm's chosen setting: of its confirmation with all seeds, or of the search."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=list(_MEASURES.values()), horizontal_spacing=0.09)
    rows: list[list[object]] = []
    for colour, (label, ledger, runs) in zip(_colours(), _curves(size), strict=False):
        for column, measure in enumerate(_MEASURES, 1):
            epochs, means, lows, highs = evaluations.band(ledger.name, runs, measure)
            if not epochs:
                continue
            if len(runs) > 1:
                _band(figure, epochs, lows, highs, colour, column)
            figure.add_scatter(
                x=epochs,
                y=means,
                name=label,
                legendgroup=label,
                showlegend=column == 1,
                mode="lines+markers",
                marker={"size": 5},
                line={"color": colour, "width": 2},
                row=1,
                col=column,
            )
            least = means.index(min(means))
            rows.append([label, _MEASURES[measure], len(runs), means[least], epochs[least], means[-1]])
    if not rows:
        return None
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="nats", col=1)
    hard = [row for row in rows if row[1] == _MEASURES["high_entropy_loss"]]
    told = "; ".join(f"{row[0]} {row[3]:.4f} at epoch {row[4]:g}, {row[5]:.4f} at the end" for row in hard)
    says = f"Held-out high-entropy loss in nats, at its least and at the end: {told}. Bands: all seeds."
    columns = ["setting", "measure", "runs", "least (nats)", "at epoch", "at the end (nats)"]
    return Plot("Does it overfit?", says, figure, columns, rows, panels=2)


def verdicts(sizes: Sequence[ModelResult], space: Space) -> Plot | None:
    """Each arm's difference to no dropout on the test split, with its interval."""
    point = point_of(space)
    figure, rows = go.Figure(), []
    found = {
        (size.model, arm): comparison.differences[point]["high_entropy_loss"]
        for size in sizes
        for arm, comparison in size.comparisons.items()
        if arm != BASELINE
    }
    for verdict, (colour, symbol) in _VERDICTS.items():
        own = {key: difference for key, difference in found.items() if difference.verdict == verdict}
        if not own:
            continue
        figure.add_scatter(
            x=[difference.mean for difference in own.values()],
            y=[_text(f"{model}: {arm}") for model, arm in own],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [d.high - d.mean for d in own.values()],
                "arrayminus": [d.mean - d.low for d in own.values()],
            },
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11},
            name=verdict.words,
        )
        rows += [[model, arm, d.mean, d.low, d.high, verdict.words] for (model, arm), d in own.items()]
    if not rows or space.confirmation is None:
        return None
    figure.add_vline(x=0, line_width=1, line_color="#808080")
    figure.update_xaxes(title="high-entropy test loss against no dropout (nats); left of 0 is better")
    figure.update_yaxes(categoryorder="array", categoryarray=[_text(f"{m}: {a}") for m, a in reversed(found)])
    says = (
        f"Differences in high-entropy test loss to no dropout, with {space.confirmation.confidence:.0%} intervals of "
        "each arm by itself, on documents and seeds that had no part in choosing the settings."
    )
    return Plot("Is it better than no dropout?", says, figure, ["model", "arm", "nats", "low", "high", "verdict"], rows)


def curricula(sizes: Sequence[ModelResult]) -> Plot | None:
    """How many of the predictable tokens the best setting of each model drops, by progress."""
    figure, rows = go.Figure(), []
    for colour, size in zip(_colours(), sizes, strict=False):
        if (best := _best_with_curriculum(size)) is None:
            continue
        parameters = size.searched.parameters(best)
        curriculum, ratio = curriculum_from(parameters["curriculum"]), parameters["mask_ratio"]
        progress = [n / (_POINTS - 1) for n in range(_POINTS)]
        shares = [ratio * curriculum(u) for u in progress]
        figure.add_scatter(
            x=progress, y=shares, name=_text(size.model), mode="lines", line={"color": colour, "width": 3}
        )
        threshold = parameters["entropy_threshold"]
        kind, value = next(iter(threshold.items())) if isinstance(threshold, Mapping) else ("", threshold)
        name = curriculum_name(best.user_attrs["arm"], parameters)
        rows.append([size.model, f"trial {best.number}", name, ratio, f"{kind} {value:.3g}".strip()])
    if not rows:
        return None
    figure.update_xaxes(title="progress of the run", range=[0, 1])
    figure.update_yaxes(title="share of predictable tokens that is dropped", range=[0, 1])
    told = "; ".join(f"{row[0]}: {row[2]}, up to {row[3]:.0%} of the tokens below {row[4]}" for row in rows)
    columns = ["model", "trial", "curriculum", "mask ratio", "entropy threshold"]
    return Plot("The best curricula", f"{told}.", figure, columns, rows)


def history(size: ModelResult) -> Plot | None:
    """Every trial's objective, in the order in which they began, and the best so far. Optuna's own plot would number
    anew the trials of an arm, and has no place for those that were stopped."""
    study, figure = size.searched, go.Figure()
    rows: list[tuple[int, str, str, float]] = []
    for colour, arm in zip(_colours(), study.arms, strict=False):
        ranked = sorted(study.ranked(arm), key=lambda trial: trial.number)
        stopped = [t for t in study.trials(TrialState.PRUNED) if t.user_attrs["arm"] == arm and t not in ranked]
        for trials, what, symbol in ((ranked, "", "circle"), (stopped, ", stopped early", "circle-open")):
            if trials:
                label = _text(_arm(arm) + what)
                values = [study.values(trial)[0] for trial in trials]
                marker = {"color": colour, "symbol": symbol, "size": 8}
                numbers = [trial.number for trial in trials]
                figure.add_scatter(x=numbers, y=values, name=label, mode="markers", marker=marker)
                if trials is ranked:
                    line = {"color": colour, "width": 1, "shape": "hv"}
                    figure.add_scatter(
                        x=numbers,
                        y=list(accumulate(values, min)),
                        name=f"{label}, best so far",
                        mode="lines",
                        line=line,
                        showlegend=False,
                    )
                rows += [(t.number, _arm(arm), what[2:] or "known", v) for t, v in zip(trials, values, strict=True)]
    if not rows:
        return None
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="validation objective (nats)")
    says = f"{len(rows)} trials by their objective"
    if (best := study.best()) is not None:
        says += f"; the lowest is {study.values(best)[0]:.4f}, of trial {best.number}"
    rows.sort(key=lambda row: row[0])
    return Plot("The search", f"{says}.", figure, ["trial", "arm", "objective is", "nats"], rows)


def importances(size: ModelResult, summary: Mapping[str, Any]) -> Plot | None:
    """Which of the searched settings tell better trials from worse ones."""
    found: dict[str, dict[str, float]] = summary["importances"]
    if not found:
        return None
    figure = go.Figure()
    for colour, (arm, shares) in zip(_colours(), found.items(), strict=False):
        names = [_text(_short(name, arm)) for name in shares]
        figure.add_bar(x=list(shares.values()), y=names, orientation="h", name=_text(_arm(arm)), marker_color=colour)
    figure.update_xaxes(title="share of the difference between better and other trials", range=[0, 1])
    rows = [(_arm(arm), _short(name, arm), share) for arm, shares in found.items() for name, share in shares.items()]
    arm, name, share = max(rows, key=lambda row: row[2])
    says = f"{name} matters most ({share:.0%}, {arm}), by PED-ANOVA."
    return Plot("What matters", says, figure, ["arm", "setting", "share"], rows)


def slices(size: ModelResult) -> list[Plot]:
    """The objective by each searched setting, one plot for each arm."""
    study, found = size.searched, []
    for arm in study.arms:
        ranked = study.ranked(arm)
        parameters = common_parameters(ranked)
        if len(ranked) < _FEWEST or not parameters:
            continue
        figure = optuna.visualization.plot_slice(as_plain_study(study, ranked), params=parameters, target_name="nats")
        figure.update_layout(title=None)
        figure.update_traces(marker={"colorscale": "Viridis", "size": 8})
        figure.for_each_xaxis(lambda axis, arm=arm: axis.update(title=_short(axis.title.text, arm)))
        rows = [[t.number, *(t.params[name] for name in parameters), study.values(t)[0]] for t in ranked]
        says = f"The objective of {len(ranked)} trials by each setting that was searched; yellow ones came late."
        names = [_short(name, arm) for name in parameters]
        found.append(
            Plot(f"Settings: {_arm(arm)}", says, figure, ["trial", *names, "objective (nats)"], rows, len(names))
        )
    return found


def rungs(summary: Mapping[str, Any]) -> Plot | None:
    """How well the order of the trials at each rung foretells their order at the end."""
    audit = summary["audit"]
    known = [rung for rung in audit["rungs"] if rung["rank_correlation"] is not None]
    if not known:
        return None
    tokens, correlations = [r["tokens"] for r in known], [r["rank_correlation"] for r in known]
    figure = go.Figure()
    figure.add_scatter(x=tokens, y=correlations, mode="lines+markers", name="rank correlation", line_color=COLOURS[1])
    figure.update_xaxes(title="tokens at the rung")
    figure.update_yaxes(title="rank correlation with the end", range=[-1.05, 1.05])
    says = "Spearman's correlation of the trials' order at a rung with their order at the end: "
    says += f"{correlations[0]:.2f} at the first."
    if audited := audit["audited"]:
        says += f" Of {audited} trials that ran on although they were to be stopped, {audit['wrong']} would have won."
    rows = [[rung["tokens"], rung["trials"], rung["rank_correlation"]] for rung in known]
    return Plot("Can stopping early be trusted?", says, figure, ["tokens", "trials", "rank correlation"], rows)


def trend(found: Mapping[str, Any] | None) -> Plot | None:
    """How the best settings move with the size of the model."""
    if found is None or not found["settings"]:
        return None
    names, beyond = list(found["settings"]), found["extrapolation"]
    columns = min(3, len(names))
    figure = make_subplots(rows=-(-len(names) // columns), cols=columns, subplot_titles=[_text(n) for n in names])
    rows: list[list[object]] = []
    for index, (name, values) in enumerate(found["settings"].items()):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        marker = {"color": COLOURS[1], "size": 9}
        figure.add_scatter(
            x=found["sizes"], y=values, mode="markers", marker=marker, name="searched", showlegend=index == 0, **place
        )
        rows += [[name, f"{size:,}", value, "searched"] for size, value in zip(found["sizes"], values, strict=True)]
        if beyond is not None:
            there = beyond["settings"][name]
            figure.add_scatter(
                x=[beyond["size"]],
                y=[there["value"]],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [there["high"] - there["value"]],
                    "arrayminus": [there["value"] - there["low"]],
                },
                mode="markers",
                marker={"color": COLOURS[0], "symbol": "circle-open", "size": 9},
                name="extrapolated",
                showlegend=index == 0,
                **place,
            )
            interval = f"extrapolated, {beyond['confidence']:.0%}: {there['low']:.3g} to {there['high']:.3g}"
            rows.append([name, f"{beyond['size']:,}", there["value"], interval])
    figure.update_xaxes(type="log", title="parameters")
    says = f"The best settings of models of {' and '.join(f'{size:,}' for size in found['sizes'])} parameters"
    says += ", and what a straight line says of a larger one: an extrapolation." if beyond is not None else "."
    return Plot(
        "How the best settings move with size", says, figure, ["setting", "parameters", "value", "from"], rows, columns
    )


def front(size: ModelResult, space: Space) -> Plot | None:
    """Two objectives of all trials, and those that no other one beats in both."""
    study = size.searched
    best = study.pareto_front() if len(space.objectives) > 1 else []
    if not best:
        return None
    figure, trials = go.Figure(), study.trials(TrialState.COMPLETE, TrialState.PRUNED)
    for shown, name, colour, symbol in (
        (trials, "trials", "#808080", "circle"),
        (best, "front", COLOURS[1], "diamond"),
    ):
        x, y = ([study.values(trial)[axis] for trial in shown] for axis in (0, 1))
        marker = {"color": colour, "symbol": symbol, "size": 9}
        figure.add_scatter(x=x, y=y, mode="markers", name=name, marker=marker)
    figure.update_xaxes(title=f"{space.objectives[0]} (nats)")
    figure.update_yaxes(title=f"{space.objectives[1]} (nats)")
    rows = [[t.number, _arm(t.user_attrs["arm"]), *study.values(t)] for t in best]
    says = f"{len(best)} of {len(trials)} trials are beaten by none in all objectives."
    return Plot("What one objective costs in the other", says, figure, ["trial", "arm", *space.objectives], rows)


def _curves(size: ModelResult) -> list[tuple[str, TrialStudy, list[FrozenTrial]]]:
    """What is compared: for each arm a name, and its runs with the study that they are in."""
    found: list[tuple[str, TrialStudy, list[FrozenTrial]]] = []
    for arm in size.searched.arms:
        runs = size.confirmed.runs_of(arm) if size.confirmed is not None else []
        if runs and size.confirmed is not None:
            found.append((_text(_arm(arm)), size.confirmed, runs))
        elif ranked := size.searched.ranked(arm):
            found.append((_text(f"{_arm(arm)}, trial {ranked[0].number}"), size.searched, [ranked[0]]))
    return found


def _best_with_curriculum(size: ModelResult) -> FrozenTrial | None:
    """Of the settings with a curriculum the one that did best in the confirmation, or in the search."""
    study = size.searched
    ranked = [trial for arm in study.arms for trial in study.ranked(arm) if "curriculum" in study.parameters(trial)]
    validation = {c.contestant.trial: c.validation for c in size.comparisons.values()}
    confirmed = [trial for trial in ranked if trial.number in validation]
    if confirmed:
        return min(confirmed, key=lambda trial: validation[trial.number])
    return min(ranked, key=lambda trial: study.values(trial)[0], default=None)


def _band(
    figure: go.Figure, x: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str, column: int
) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[*highs, *reversed(lows)],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.18)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=column,
    )


def _colours() -> Sequence[str]:
    """No dropout is red, as in the pictures."""
    return COLOURS * 5


def _short(name: str, arm: str) -> str:
    """A setting's name in the study without what all names of the arm have in common."""
    return name.removeprefix(f"{arm}.").removeprefix("curriculum.")


def _arm(arm: str) -> str:
    return "no dropout" if arm == BASELINE else arm


def _text(text: str) -> str:
    """Plotly reads some tags in what it shows."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
