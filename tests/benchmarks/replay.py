"""Regret against tokens, replayed on a table of complete learning curves: this project's search and others.

    python -m tests.benchmarks.replay [--picture tests/benchmarks/replay.png] [--json FILE] [--quick]

Each searcher spends the tokens of 32 full trials on two slots, 50 times with other seeds. A trial's losses are those of
the nearest setting in the table, which tests.benchmarks.curves.make measured. Regret is the objective that the chosen
setting has at its end, less that of the best setting in the table, in nats. A trial is stopped wrongly if to its end it
would have come out below the setting that its search chose. About ten minutes on two cores.

The first keys are for builtin/nano and the objective best, the defaults; under "all" they stand for each model and
objective: tokens_ratio (the tokens in which this project's search gets to the median regret that OptunaSearch with ASHA
ends with, over the tokens that this one spent; median over the seeds, null if most never get there; the goal is at most
0.5), wrong_stop_share (of the stops of this project's search; the goal is below 0.1), final_regret (for each searcher
the median, in nats), wrong_stop_shares, trials (medians, for each searcher), rank_correlations (Spearman's, over the
settings of the table, between the objective so far and that at the end, for each evaluation).
"""

import heapq
import io
import math
import multiprocessing
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.progress import track
from scipy import stats

from search.space import Space
from search.studies.study import objective_value
from tests.benchmarks.curves.make import space
from tests.benchmarks.curves.table import Curve, Table, table_of
from tests.benchmarks.searchers import Optuna, Searcher, Stock, ours
from tests.scripts import parse, parser_of, write_results

SLOTS = 2
STOCK, OURS = "OptunaSearch + ASHA", "this project"
COLOURS = {"random": "0.6", "TPE": "#edae49", STOCK: "#d1495b", OURS: "#00798c"}
PRUNERS = ("rungs", "curves")
OBJECTIVES = ("best", "final")


@dataclass(frozen=True)
class Trace:
    """One search.

    Attributes:
        spent, regret: after each evaluation the tokens of all trials so far, and the regret of the setting that was
            chosen then, in nats.
        stopped: trials that were stopped early; wrong: those that would have come out below the chosen one.
    """

    spent: list[int]
    regret: list[float]
    trials: int
    stopped: int
    wrong: int

    def tokens_to(self, regret: float) -> float:
        """Tokens spent when the regret was first at most this; infinite if it never was."""
        return next((s for s, r in zip(self.spent, self.regret, strict=True) if r <= regret), math.inf)


def run(searcher: Searcher, table: Table, objective: str, tokens: int) -> Trace:
    """One search on the table; all trials train at one pace."""
    best = table.best(objective)
    curves: dict[int, Curve] = {}
    running: list[tuple[int, int, int]] = []  # tokens on the slot's clock, trial, evaluations so far
    stopped: list[int] = []
    spent, regret = [0], [math.inf]
    chosen: int | None = None

    def begin(clock: int) -> None:
        if spent[-1] + sum(table.full_tokens for _ in running) < tokens and (asked := searcher.ask()) is not None:
            trial, params = asked
            curves[trial] = table.nearest(params)
            heapq.heappush(running, (clock + curves[trial].tokens[0], trial, 0))

    for _ in range(SLOTS):
        begin(0)
    while running:
        clock, trial, done = heapq.heappop(running)
        curve = curves[trial]
        spent.append(spent[-1] + curve.tokens[done] - (curve.tokens[done - 1] if done else 0))
        stops = searcher.report(trial, done + 1, curve.tokens[done], curve.losses[done])
        ended = done + 1 == len(curve.tokens)
        if stops or ended:
            searcher.end(trial, stops and not ended)
            if stops and not ended:
                stopped.append(trial)
            begin(clock)
            chosen = searcher.chosen()
        else:
            heapq.heappush(running, (clock + curve.tokens[done + 1] - curve.tokens[done], trial, done + 1))
        regret.append(curves[chosen].value(objective) - best if chosen is not None else math.inf)
    bound = curves[chosen].value(objective) if chosen is not None else math.inf
    wrong = sum(curves[trial].value(objective) < bound for trial in stopped)
    return Trace(spent, regret, len(curves), len(stopped), wrong)


def settings(objective: str, seed: int, **early_stopping: Any) -> Space:
    """The table's space as a search without end."""
    changed = space().model_dump() | {"objective": objective, "seed": seed, "confirmation": None}
    changed["budget"]["trials"] = 10_000
    changed["early_stopping"] |= early_stopping
    return Space.model_validate(changed)


def search(what: str, model: str, objective: str, trials: int, seed: int) -> Trace:
    """One search by a searcher, on a model's table, with the tokens of so many full trials."""
    table = table_of(model)
    tokens = trials * table.full_tokens
    own = settings(objective, seed)
    if what in PRUNERS or what == OURS:
        own = own if what == OURS else settings(objective, seed, pruner=what)
        return run(ours(table, model, own)[0], table, objective, tokens)
    samplers = {"random": optuna.samplers.RandomSampler, "TPE": optuna.samplers.TPESampler}
    other: Searcher = Stock(own, seed) if what == STOCK else Optuna(own, samplers[what](seed=seed))
    return run(other, table, objective, tokens)


def compared(traces: dict[str, list[Trace]]) -> dict[str, Any]:
    """The keys of one model and objective."""
    stock = statistics.median(trace.regret[-1] for trace in traces[STOCK])
    spent = statistics.median(trace.spent[-1] for trace in traces[STOCK])
    ratio = statistics.median(trace.tokens_to(stock) for trace in traces[OURS]) / spent
    shares = {
        what: sum(trace.wrong for trace in found) / stops
        for what, found in traces.items()
        if (stops := sum(trace.stopped for trace in found))
    }
    return {
        "tokens_ratio": ratio if math.isfinite(ratio) else None,
        "wrong_stop_share": shares.get(OURS),
        "final_regret": {what: statistics.median(t.regret[-1] for t in found) for what, found in traces.items()},
        "wrong_stop_shares": shares,
        "trials": {what: statistics.median(t.trials for t in found) for what, found in traces.items()},
    }


def rank_correlations(table: Table, objective: str) -> list[float]:
    """How well the order of the settings at each evaluation foretells their order at the end."""
    curves = table.curves.values()
    end = [curve.value(objective) for curve in curves]
    evaluations = len(table.curves[0].losses)
    so_far = [[objective_value(objective, c.losses[:count]) for c in curves] for count in range(1, evaluations + 1)]
    return [float(stats.spearmanr(values, end).statistic) for values in so_far]


def draw(panel: Any, traces: dict[str, list[Trace]], title: str, full_tokens: int, trials: int) -> None:
    at = np.linspace(1, trials, 200) * full_tokens
    for what, colour in COLOURS.items():
        stepped = np.array([_at(trace, at) for trace in traces[what]])
        low, middle, high = np.quantile(stepped, [0.25, 0.5, 0.75], axis=0, method="nearest")
        panel.plot(at / 1e6, middle, color=colour, label=what)
        panel.fill_between(at / 1e6, low, high, color=colour, alpha=0.12, linewidth=0)
    panel.set(title=title, xlabel="tokens spent (millions)", ylabel="regret of the chosen setting (nats)", yscale="log")
    panel.spines[["top", "right"]].set_visible(False)


def _at(trace: Trace, at: np.ndarray) -> np.ndarray:
    """The regret when so many tokens were spent; at least a thousandth of a nat, for a logarithmic axis."""
    index = np.searchsorted(trace.spent, at, side="right") - 1
    return np.maximum(np.array(trace.regret)[index], 1e-3)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--trials", type=int, default=32, help="full ones, whose tokens a search spends")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=space().models)
    options = parse(parser, trials=4, seeds=1, processes=1, models=space().models[:1])
    results: dict[str, dict[str, Any]] = {}
    drawn: list[tuple[dict[str, list[Trace]], str, int]] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for model in options.models:
            for objective in OBJECTIVES:
                traces = {}
                for what in (*COLOURS, *PRUNERS):
                    found = pool.imap(partial(search, what, model, objective, options.trials), range(options.seeds))
                    traces[what] = list(track(found, f"{model}, {objective}: {what}", options.seeds))
                table = table_of(model)
                correlations = {"rank_correlations": rank_correlations(table, objective)}
                results[f"{model}, {objective}"] = compared(traces) | correlations
                drawn.append((traces, f"{model}, objective {objective}", table.full_tokens))
    for name, result in results.items():
        print(f"\n{name}: tokens ratio {result['tokens_ratio']}, wrong stops {result['wrong_stop_share']}")
        print("  rank correlation with the end:", *(f"{r:.2f}" for r in result["rank_correlations"]))
        for what, regret in result["final_regret"].items():
            wrong = result["wrong_stop_shares"].get(what)
            print(f"  {what:20} regret {regret:.4f}, {result['trials'][what]:.0f} trials, wrong stops {wrong}")
    write_results(options, next(iter(results.values())) | {"all": results})
    if options.picture or options.quick:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2 * len(OBJECTIVES), 3.8 * len(options.models)), layout="constrained")
        for panel, arguments in zip(figure.subplots(len(drawn) // 2, 2, squeeze=False).flat, drawn, strict=True):
            draw(panel, *arguments, options.trials)
        figure.axes[0].legend(frameon=False)
        figure.savefig(options.picture or io.BytesIO(), dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
