"""The plots of the report, each with a caption and a table that say the same without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from search.arms import BASELINE, curriculum_name
from search.output.events import Evaluations
from search.results.archive import LoadedSearch
from search.results.figures import VERDICT_STYLES
from search.results.model_result import ModelResult, better_side, collect_differences, label_arm, select_curves
from search.results.page.styles import DASHES, MEASURES, STYLES, SYMBOLS
from search.results.summary import as_plain_study, list_common_parameters
from search.space import EXACT, Space
from search.studies.comparison import LABELS, point_of
from search.studies.search_study import SearchStudy
from search.studies.verdict import Difference
from trainables.curriculum import curriculum_from
from trainables.figures import COLOURS, GREY, shorten

_POINTS = 51
# Characters beside an axis, which leave room for the plot on a phone.
_LONGEST_LABEL = 24
# Fewer points than this say nothing about a setting; fewer trials have no better tenth to compare with the rest.
_FEWEST, _FEWEST_FOR_IMPORTANCES = 3, 20


@dataclass(frozen=True)
class Plot:
    """A plot and what stands for it.

    Attributes:
        title: of one line.
        caption: one or two sentences on what is to be seen.
        columns, rows: the numbers.
        panels: side by side; a narrow screen scrolls.
    """

    title: str
    caption: str
    figure: go.Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[object]] = field(default_factory=list)
    panels: int = 1


def plot_rebound(result: ModelResult, evaluations: Evaluations) -> Plot | None:
    """Held-out losses by epoch of each arm's chosen setting: of its confirmation with all seeds, or of the search."""
    measures = ("high_entropy_loss", "low_entropy_loss")
    titles = [MEASURES[measure] for measure in measures]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.09)
    rows: list[list[object]] = []
    lowest_points: list[str] = []
    for (colour, dash, symbol), curve in zip(cycle(STYLES), select_curves(result), strict=False):
        for column, measure in enumerate(measures, 1):
            epochs, means, lows, highs = evaluations.band(curve.study, curve.runs, measure)
            if not epochs:
                continue
            if len(curve.runs) > 1:
                _draw_band(figure, epochs, lows, highs, colour, column)
            figure.add_scatter(
                x=epochs,
                y=means,
                name=_escape(curve.label),
                legendgroup=curve.label,
                showlegend=column == 1,
                mode="lines+markers",
                marker={"size": 6, "symbol": symbol},
                line={"color": colour, "width": 2, "dash": dash},
                row=1,
                col=column,
            )
            lowest, end = min(means), means[-1]
            epoch = epochs[means.index(lowest)]
            rows.append([curve.label, MEASURES[measure], len(curve.runs), lowest, epoch, end])
            if column == 1:
                lowest_points.append(
                    f"{curve.label} {lowest:.4f} at epoch {epoch:g}, {end:.4f} at epoch {epochs[-1]:g}"
                )
    if not rows:
        return None
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="nats", col=1)
    caption = f"Held-out high-entropy loss in nats, at its lowest and at its last: {'; '.join(lowest_points)}. "
    caption += "Bands: all seeds."
    columns = ["setting", "measure", "runs", "lowest (nats)", "at epoch", "last (nats)"]
    return Plot("Does it overfit?", caption, figure, columns, rows, panels=2)


def plot_verdicts(results: Sequence[ModelResult], space: Space) -> Plot | None:
    """Each arm's difference to no dropout on the test split, with its interval."""
    differences = [
        (model, arm, difference)
        for model, by_arm in collect_differences(results, space).items()
        for arm, difference in by_arm.items()
    ]
    if not differences or space.confirmation is None:
        return None
    one = len({model for model, _, _ in differences}) == 1
    figure = _draw_differences(
        [((arm,) if one else (model, arm), d) for model, arm, d in differences], better_side(space)
    )
    caption = (
        f"Differences in {LABELS[space.measure]} to no dropout, with {space.confirmation.confidence:.0%} intervals "
        "that hold for all arms together, on documents and seeds that had no part in choosing the settings. They are "
        "of documents like these; the numbers have those of these documents alone, too."
    )
    rows = [
        [model, arm, d.mean, d.low, d.high, d.verdict.words, d.here_low, d.here_high, d.detectable]
        for model, arm, d in differences
    ]
    columns = [
        "model",
        "arm",
        "difference" if space.measure == EXACT else "nats",
        "low",
        "high",
        "verdict",
        "low, here",
        "high, here",
        "detectable",
    ]
    return Plot("Is it better than no dropout?", caption, figure, columns, rows)


def plot_verdicts_together(searches: Mapping[str, LoadedSearch]) -> Plot | None:
    """The difference that each search's verdict is about, of each model, one above the other.

    Args:
        searches: by their labels.
    """
    found = [
        (label, result.model, result.chosen, point_of(search.space), result.verdict[point_of(search.space)])
        for label, search in searches.items()
        for result in search.results
        if result.verdict
    ]
    if not found:
        return None
    dates = {label: search.date for label, search in searches.items()}
    found.sort(key=lambda entry: (entry[1], dates[entry[0]]))
    sides = dict.fromkeys(better_side(search.space) for search in searches.values())
    side = sides.popitem()[0] if len(sides) == 1 else "better is left of 0 for losses, right of 0 for right answers"
    labelled = [((model, label, dates[label]), difference) for label, model, _, _, difference in found]
    figure = _draw_differences(labelled, side)
    rows = [[label, model, arm, point, d.mean, d.low, d.high, d.verdict.words] for label, model, arm, point, d in found]
    columns = ["search", "model", "arm", "evaluation", "difference", "low", "high", "verdict"]
    caption = (
        "What each search says of its chosen setting, at the evaluation that its objective counts; the searches of a "
        "model in the order in which they began. Differences to no dropout may be set side by side, also where losses "
        "may not."
    )
    return Plot("Verdicts side by side", caption, figure, columns, rows)


def plot_curves_together(model: str, searches: Mapping[str, LoadedSearch]) -> Plot | None:
    """The curves of searches that share a model and its evaluation set: an arm has one colour in all of them.

    Args:
        searches: by their labels.
    """
    figure, rows = go.Figure(), []
    arms: dict[str, str] = {}
    for (dash, symbol), (label, search) in zip(
        cycle(zip(DASHES, SYMBOLS, strict=True)), searches.items(), strict=False
    ):
        result = next(result for result in search.results if result.model == model)
        for curve in select_curves(result):
            epochs, means, _, _ = search.evaluations.band(curve.study, curve.runs, "high_entropy_loss")
            if not epochs:
                continue
            arm = curve.runs[0].user_attrs["arm"]
            colour = arms.setdefault(arm, COLOURS[len(arms) % len(COLOURS)])
            figure.add_scatter(
                x=epochs,
                y=means,
                name=_escape(f"{label}: {curve.label}"),
                mode="lines+markers",
                marker={"size": 6, "symbol": symbol},
                line={"color": colour, "width": 2, "dash": dash},
            )
            rows.append([label, curve.label, len(curve.runs), min(means), epochs[means.index(min(means))], means[-1]])
    if not rows:
        return None
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="nats")
    columns = ["search", "setting", "runs", "lowest (nats)", "at epoch", "last (nats)"]
    caption = (
        "Held-out high-entropy loss of each arm's chosen setting; colours are arms, dashes and points are searches."
    )
    return Plot(f"Curves side by side: {model}", caption, figure, columns, rows)


def plot_curricula(results: Sequence[ModelResult]) -> Plot | None:
    """How many tokens the best setting of each model drops, by progress; an arm has its colour."""
    figure, rows, best_curricula = go.Figure(), [], []
    for model_dash, result in zip(cycle(DASHES), results, strict=False):
        if (best := _find_best_with_curriculum(result)) is None:
            continue
        parameters = result.searched.parameters(best)
        curriculum, ratio = curriculum_from(parameters["curriculum"]), parameters["mask_ratio"]
        styles = dict(zip(result.searched.arms, cycle(STYLES), strict=False))
        colour, arm_dash, _ = styles[best.user_attrs["arm"]]
        dash = model_dash if len(results) > 1 else arm_dash
        is_step = parameters["curriculum"]["shape"] == "step"
        progress = sorted({n / (_POINTS - 1) for n in range(_POINTS)} | {parameters["curriculum"].get("at", 0.0)})
        shares = [ratio * curriculum(u) for u in progress]
        line = {"color": colour, "width": 3, "dash": dash, "shape": "hv" if is_step else "linear"}
        label = f"{result.model}: {label_arm(best.user_attrs['arm'])}"
        figure.add_scatter(x=progress, y=shares, name=_escape(label), mode="lines", line=line)
        threshold = parameters["entropy_threshold"]
        kind, value = next(iter(threshold.items())) if isinstance(threshold, Mapping) else ("", threshold)
        threshold_text = f"{kind} {value:.3g}".strip()
        name = curriculum_name(best.user_attrs["arm"], parameters)
        schedule = result.searched.space_of(best).schedule
        assert schedule is not None
        tokens = str(schedule.tokens)
        rows.append([result.model, f"trial {best.number}", name, ratio, threshold_text, tokens])
        below = f"the tokens below {threshold_text}"
        dropped = {
            "low_entropy": f"up to {ratio:.0%} of {below}",
            "high_entropy": f"up to {ratio:.0%} of those of the highest entropies, as many as {below}",
            "random": f"up to as many tokens of any entropy as are {ratio:.0%} of {below}",
        }
        best_curricula.append(f"{label}, {name}, {dropped[tokens]}")
    if not rows:
        return None
    figure.update_xaxes(title="progress of the run", range=[0, 1])
    figure.update_yaxes(title="dropped tokens per predictable token", range=[0, 1])
    columns = ["model", "trial", "curriculum", "mask ratio", "entropy threshold", "tokens"]
    return Plot("The best curricula", f"{'; '.join(best_curricula)}.", figure, columns, rows)


def plot_trend(trend: Mapping[str, Any] | None) -> Plot | None:
    """How the best settings move with the size of the model.

    Args:
        trend: see `search.results.size_trend.fit_size_trend`.
    """
    if trend is None or not trend["settings"]:
        return None
    sizes, names, extrapolation = trend["sizes"], list(trend["settings"]), trend["extrapolation"]
    columns = min(3, len(names))
    figure = make_subplots(rows=-(-len(names) // columns), cols=columns, subplot_titles=[_escape(n) for n in names])
    rows: list[list[object]] = []
    for index, (name, values) in enumerate(trend["settings"].items()):
        panel = {"row": index // columns + 1, "col": index % columns + 1}
        marker = {"color": COLOURS[1], "size": 9}
        figure.add_scatter(
            x=sizes, y=values, mode="markers", marker=marker, name="searched", showlegend=index == 0, **panel
        )
        rows += [[name, f"{size:,}", value, "searched"] for size, value in zip(sizes, values, strict=True)]
        if extrapolation is not None:
            size = extrapolation["size"]
            value, low, high = (extrapolation["settings"][name][key] for key in ("value", "low", "high"))
            figure.add_scatter(
                x=[size],
                y=[value],
                error_y=_make_intervals([value], [low], [high]),
                mode="markers",
                marker={"color": COLOURS[0], "symbol": "circle-open", "size": 9},
                name="extrapolated",
                showlegend=index == 0,
                **panel,
            )
            interval = f"extrapolated, {extrapolation['confidence']:.0%}: {low:.3g} to {high:.3g}"
            rows.append([name, f"{size:,}", value, interval])
            # Of three sizes the interval is many times as wide as all else: it may leave the panel.
            bottom, top = min(*values, value), max(*values, value)
            margin = (top - bottom) or abs(top) or 1.0
            figure.update_yaxes(range=[bottom - margin, top + margin], **panel)
    figure.update_xaxes(type="log", title="parameters")
    caption = f"The best settings of models of {' and '.join(f'{size:,}' for size in sizes)} parameters"
    caption += (
        ": too few sizes to tell a trend."
        if extrapolation is None
        else ", and what a straight line says of a larger one: an extrapolation."
    )
    headers = ["setting", "parameters", "value", "from"]
    return Plot("How the best settings move with size", caption, figure, headers, rows, columns)


def plot_history(result: ModelResult) -> Plot | None:
    """Every trial's objective, in the order in which they began, and the best so far. Optuna's own plot would number
    anew the trials of an arm, and has no place for those that were stopped."""
    study, figure = result.searched, go.Figure()
    rows: list[tuple[int, str, str, float]] = []
    for (colour, dash, shape), arm in zip(cycle(STYLES), study.arms, strict=False):
        ranked = sorted(study.ranked(arm), key=lambda trial: trial.number)
        stopped = [t for t in study.trials(TrialState.PRUNED) if t.user_attrs["arm"] == arm and t not in ranked]
        for trials, state, symbol in ((ranked, "known", shape), (stopped, "stopped early", f"{shape}-open")):
            if not trials:
                continue
            label = _escape(label_arm(arm) if trials is ranked else f"{label_arm(arm)}, {state}")
            values = [study.values(trial)[0] for trial in trials]
            marker = {"color": colour, "symbol": symbol, "size": 8}
            numbers = [trial.number for trial in trials]
            figure.add_scatter(x=numbers, y=values, name=label, mode="markers", marker=marker)
            if trials is ranked:
                figure.add_scatter(
                    x=numbers,
                    y=list(accumulate(values, min)),
                    name=f"{label}, best so far",
                    mode="lines",
                    line={"color": colour, "width": 1, "dash": dash, "shape": "hv"},
                    showlegend=False,
                )
            rows += [(number, label_arm(arm), state, v) for number, v in zip(numbers, values, strict=True)]
    if not rows:
        return None
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title=f"validation objective ({_unit(study)})")
    caption = f"{len(rows)} trials by their objective"
    if known := [row for row in rows if row[2] == "known"]:
        number, label, _, lowest = min(known, key=lambda row: row[3])
        caption += f"; the lowest is {lowest:.4f}, of trial {number} ({label})"
    rows.sort(key=lambda row: row[0])
    return Plot("The search", f"{caption}.", figure, ["trial", "arm", "objective is", _unit(study)], rows)


def _unit(study: SearchStudy) -> str:
    return "share of wrong answers" if study.measure == EXACT else "nats"


def plot_importances(result: ModelResult, summary: Mapping[str, Any]) -> Plot | None:
    """Which of the searched settings tell better trials from worse ones.

    Args:
        summary: of a model, as in summary.json.
    """
    importances: dict[str, dict[str, float]] = summary["importances"]
    if not importances:
        return None
    figure = go.Figure()
    for colour, arm in zip(cycle(COLOURS), result.searched.arms, strict=False):
        if shares := importances.get(arm):
            names, label = [_escape(_shorten(name, arm)) for name in shares], _escape(label_arm(arm))
            figure.add_bar(x=list(shares.values()), y=names, orientation="h", name=label, marker_color=colour)
    figure.update_yaxes(automargin=True)
    figure.update_xaxes(title="share", range=[0, 1])
    rows = [
        (label_arm(arm), _shorten(name, arm), share)
        for arm, shares in importances.items()
        for name, share in shares.items()
    ]
    label, name, share = max(rows, key=lambda row: row[2])
    caption = f"What tells better trials from others: {name} most ({share:.0%}, {label}), by PED-ANOVA."
    trials = min(len(result.searched.ranked(arm)) for arm in importances)
    if trials < _FEWEST_FOR_IMPORTANCES:
        caption = f"{trials} trials of an arm are too few to tell what matters; these shares may be luck."
    return Plot("What matters", caption, figure, ["arm", "setting", "share"], rows)


def plot_slices(result: ModelResult) -> list[Plot]:
    """The objective by each searched setting, one plot for each arm."""
    study, plots = result.searched, []
    for arm in study.arms:
        ranked = study.ranked(arm)
        parameters = list_common_parameters(ranked)
        if len(ranked) < _FEWEST or not parameters:
            continue
        ranked.sort(key=lambda trial: trial.number)
        figure = optuna.visualization.plot_slice(
            as_plain_study(study, ranked), params=parameters, target_name=_unit(study)
        )
        figure.update_layout(title=None)
        for trace in figure.data:
            # Optuna numbers anew the trials of an arm, puts them in the order of the words, and quotes these.
            numbers = [ranked[number].number for number in trace.marker.color]
            places = [value.strip("'") if isinstance(value, str) else value for value in trace.x]
            trace.update(x=places, marker={"color": numbers, "colorscale": "Viridis", "size": 8})
        for axis in figure.select_xaxes():
            axis.title = _escape(_shorten(axis.title.text, arm))
            if axis.categoryarray is not None:
                axis.categoryarray = [word.strip("'") for word in axis.categoryarray]
        figure.update_xaxes(exponentformat="e")
        rows = [[t.number, *(t.params[name] for name in parameters), study.values(t)[0]] for t in ranked]
        caption = f"The objective of {len(ranked)} trials by each setting that was searched; yellow ones came late."
        names = [_shorten(name, arm) for name in parameters]
        columns = ["trial", *names, f"objective ({_unit(study)})"]
        plots.append(Plot(f"Settings: {label_arm(arm)}", caption, figure, columns, rows, len(names)))
    return plots


def plot_rungs(summary: Mapping[str, Any]) -> Plot | None:
    """How well the order of the trials at each rung foretells their order at the end.

    Args:
        summary: of a model, as in summary.json.
    """
    audit = summary["audit"]
    rungs = [rung for rung in audit["rungs"] if rung["rank_correlation"] is not None]
    if not rungs:
        return None
    tokens, correlations = [r["tokens"] for r in rungs], [r["rank_correlation"] for r in rungs]
    figure = go.Figure()
    figure.add_scatter(x=tokens, y=correlations, mode="lines+markers", name="rank correlation", line_color=COLOURS[1])
    figure.add_hline(y=0, line_width=1, line_color=GREY)
    figure.update_xaxes(title="tokens at the rung")
    figure.update_yaxes(title="rank correlation with the end", range=[-1.05, 1.05])
    caption = "Spearman's correlation of the trials' order at a rung with their order at the end: "
    caption += f"{correlations[0]:.2f} at the first, of {rungs[0]['trials']} trials that ran to the end."
    if audited := audit["audited"]:
        trials = "trial that ran on although it was" if audited == 1 else "trials that ran on although they were"
        caption += f" Of {audited} {trials} to be stopped, {audit['wrong']} would have won."
    rows = [[rung["tokens"], rung["trials"], rung["rank_correlation"]] for rung in rungs]
    columns = ["tokens", "trials", "rank correlation"]
    return Plot("Can stopping early be trusted?", caption, figure, columns, rows)


def plot_front(result: ModelResult, space: Space) -> Plot | None:
    """The first two of several objectives of all trials, and the trials that no other one beats in all objectives."""
    study = result.searched
    front = study.pareto_front() if len(space.objectives) > 1 else []
    if not front:
        return None
    figure, trials = go.Figure(), study.trials(TrialState.COMPLETE, TrialState.PRUNED)
    baseline = study.baseline()
    # Of three objectives the front is no line in two of them.
    front_mode = "lines+markers" if len(space.objectives) == 2 else "markers"
    for shown, name, colour, symbol, mode in (
        (trials, "trials", GREY, "circle", "markers"),
        (front, "front", COLOURS[1], "diamond", front_mode),
        ([baseline] if baseline is not None else [], label_arm(BASELINE), COLOURS[0], "x", "markers"),
    ):
        x, y = ([study.values(trial)[axis] for trial in shown] for axis in (0, 1))
        marker = {"color": colour, "symbol": symbol, "size": 9}
        figure.add_scatter(x=x, y=y, mode=mode, name=name, marker=marker, line={"color": colour, "shape": "hv"})
    first, second = (f"{MEASURES[objective]}, nats" for objective in space.objectives[:2])
    figure.update_xaxes(title=first)
    figure.update_yaxes(title=second)
    rows = [[t.number, label_arm(t.user_attrs["arm"]), *study.values(t)] for t in front]
    caption = f"{len(front)} of {len(trials)} trials are beaten by none in all objectives."
    columns = ["trial", "arm", *space.objectives]
    return Plot("What one objective costs in the other", caption, figure, columns, rows)


def _draw_differences(differences: Sequence[tuple[Sequence[str], Difference]], side: str) -> go.Figure:
    """Differences to no dropout with their intervals, the first one at the top; each with what it is of, in lines.

    Args:
        side: on which they are better, see `better_side`.
    """
    figure = go.Figure()
    rows = range(len(differences))
    for verdict, (colour, symbol) in VERDICT_STYLES.items():
        shown = [(row, d) for row, (_, d) in zip(rows, differences, strict=True) if d.verdict == verdict]
        if shown:
            means, lows, highs = zip(*((d.mean, d.low, d.high) for _, d in shown), strict=True)
            figure.add_scatter(
                x=means,
                y=[row for row, _ in shown],
                error_x=_make_intervals(means, lows, highs),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11},
                name=verdict.words,
            )
    figure.add_vline(x=0, line_width=1, line_color=GREY)
    figure.update_xaxes(title=side)
    labels = ["<br>".join(_escape(shorten(line, _LONGEST_LABEL)) for line in lines) for lines, _ in differences]
    figure.update_yaxes(tickvals=list(rows), ticktext=labels, range=[len(labels) - 0.5, -0.5], automargin=True)
    return figure


def _find_best_with_curriculum(result: ModelResult) -> FrozenTrial | None:
    """Of the settings with a curriculum the one that did best in the confirmation, or in the search."""
    study = result.searched
    ranked = [trial for arm in study.arms for trial in study.ranked(arm) if "curriculum" in study.parameters(trial)]
    validation = {c.contestant.trial: c.validation for c in result.comparisons.values()}
    confirmed = [trial for trial in ranked if trial.number in validation]
    if confirmed:
        return min(confirmed, key=lambda trial: validation[trial.number])
    return min(ranked, key=lambda trial: study.values(trial)[0], default=None)


def _draw_band(
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


def _make_intervals(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> dict[str, Any]:
    """Plotly's error bars from `lows` to `highs`."""
    above = [high - value for high, value in zip(highs, values, strict=True)]
    below = [value - low for low, value in zip(lows, values, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _shorten(name: str, arm: str) -> str:
    """A setting's name in the study without what all names of the arm have in common."""
    return name.removeprefix(f"{arm}.").removeprefix("curriculum.")


def _escape(text: str) -> str:
    """Plotly reads some tags in what it shows."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
