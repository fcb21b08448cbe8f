"""Regret against tokens, replayed on tables of complete learning curves: this project's search and others.

    python -m tests.benchmarks.replay [--seeds 50 200] [--trials 8 16 32 64] [--slots 8] [--also rungs] [--json FILE]
        [--picture tests/benchmarks/replay.png] [--quick]

Each searcher spends the tokens of so many full trials on two slots, once with each seed. A trial's losses are those of
the nearest setting in the table, which tests.benchmarks.curves.make measured. Regret is the objective that the chosen
setting has at its end, less that of the best setting in the table, in nats; smoothed regret is the same on a table
whose noise is smoothed away (tests.benchmarks.curves.smoothing). The rival is TPE that stops nothing. "never wrong" is
this project with an oracle that lets run on what would have come out below the chosen setting: the most that stopping
as eagerly can gain.

Keys: for each model and objective, at 32 full trials or else at the last of --trials:
- difference: mean regret of this project less TPE's, paired by seed, in nats; difference_se: its standard error
- tokens_ratio: share of the budget after which this project's mean regret is TPE's last one; null if it never is
- given_away: mean regret that stops gave away: that of the chosen setting less that of the best one among it and the
  stopped ones, in nats; saved: share of the tokens of all trials that stopping saved
- budgets: the same for each number of full trials, with p (Wilcoxon's, one-sided, that this project is worse than TPE)
  and for each searcher the mean regrets, smoothed regrets and trials, and the numbers of stops and of wrong ones
- rank_correlations: Spearman's, over the settings of the table, of the objective so far and at the end, by evaluation
And worst_p: the least p of all.
"""

import copy
import heapq
import io
import math
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
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
from tests.benchmarks.curves.smoothing import smoothed
from tests.benchmarks.curves.table import Curve, Table, table_of
from tests.benchmarks.searchers import Optuna, Searcher, Stock, ours
from tests.scripts import parse, parser_of, write_results

STOCK, OURS, TPE, ORACLE = "OptunaSearch + ASHA", "this project", "TPE", "never wrong"
COLOURS = {"random": "0.6", TPE: "#edae49", ORACLE: "#d1495b", OURS: "#00798c"}
PRUNERS = ("rungs", "curves")
OBJECTIVES = ("best", "final")
# Full trials that the first keys are about.
_GOAL = 32


@dataclass(frozen=True)
class Trace:
    """One search.

    Attributes:
        spent, regret: after each evaluation the tokens of all trials so far, and the regret of the setting that was
            chosen then, in nats.
        setting: of the table, the one that is chosen in the end.
        stopped: trials that were stopped early; wrong: those that would have come out below the chosen one; doubtful:
            those that would have come out below the one that was chosen when they were stopped.
        given_away: what the chosen setting is behind the best of these, in nats.
        saved: share of the tokens of all trials that stopping saved.
    """

    spent: list[int]
    regret: list[float]
    setting: int
    trials: int
    stopped: int
    wrong: int
    doubtful: int
    given_away: float
    saved: float

    def tokens_to(self, regret: float) -> float:
        """Tokens spent when the regret was first at most this; infinite if it never was."""
        return next((s for s, r in zip(self.spent, self.regret, strict=True) if r <= regret), math.inf)


class Replay:
    """One search on a table; all trials train at one pace.

    Args:
        oracle: lets a trial run on that would come out below the setting that is chosen when it is to be stopped.
    """

    def __init__(self, searcher: Searcher, table: Table, objective: str, slots: int = 2, oracle: bool = False) -> None:
        self._searcher, self._table, self._objective, self._oracle = searcher, table, objective, oracle
        self._slots = slots
        self._best = table.best(objective)
        self._curves: dict[int, Curve] = {}
        # Tokens on the slot's clock, trial, evaluations so far.
        self._running: list[tuple[int, int, int]] = []
        # Tokens that each saved.
        self._stopped: dict[int, int] = {}
        self._spent, self._regret = [0], [math.inf]
        self._chosen: int | None = None
        self._doubtful = 0

    def traces(self, budgets: Sequence[int]) -> list[Trace]:
        """The search with each budget, in tokens, from the least on. They share their beginning."""
        left, found = list(budgets), []
        for _ in range(self._slots):
            self._begin(0, left, found)
        while self._running:
            clock, trial, done = heapq.heappop(self._running)
            if self._evaluate(trial, done):
                self._begin(clock, left, found)
            else:
                tokens = self._curves[trial].tokens
                heapq.heappush(self._running, (clock + tokens[done + 1] - tokens[done], trial, done + 1))
        return [*found, *(self._trace() for _ in left)]

    def _begin(self, clock: int, left: list[int], found: list[Trace]) -> None:
        """A new trial, if a budget is left for it."""
        while not self._affords(left[0]) and len(left) > 1:
            # What runs then runs on; with the larger budgets, another one begins.
            ending = copy.deepcopy(self)
            ending._slots = 0
            found += ending.traces([left.pop(0)])
        if self._affords(left[0]) and (asked := self._searcher.ask()) is not None:
            trial, params = asked
            curve = self._curves[trial] = self._table.nearest(params)
            heapq.heappush(self._running, (clock + curve.tokens[0], trial, 0))

    def _affords(self, tokens: int) -> bool:
        return self._spent[-1] + len(self._running) * self._table.full_tokens < tokens

    def _evaluate(self, trial: int, done: int) -> bool:
        """One more evaluation. Returns whether the trial has ended."""
        curve = self._curves[trial]
        self._spent.append(self._spent[-1] + curve.tokens[done] - (curve.tokens[done - 1] if done else 0))
        stops = self._searcher.report(trial, done + 1, curve.tokens[done], curve.losses[done])
        ended = done + 1 == len(curve.tokens)
        below = curve.value(self._objective) < self._bound
        if stops and not ended and not (self._oracle and below):
            self._stopped[trial] = self._table.full_tokens - curve.tokens[done]
            self._doubtful += below
            ended = True
        if ended:
            self._searcher.end(trial, trial in self._stopped)
            self._chosen = self._searcher.chosen()
        self._regret.append(self._bound - self._best)
        return ended

    @property
    def _bound(self) -> float:
        """The objective of the chosen setting, in nats."""
        return self._curves[self._chosen].value(self._objective) if self._chosen is not None else math.inf

    def _trace(self) -> Trace:
        assert self._chosen is not None
        values = [self._curves[trial].value(self._objective) for trial in self._stopped]
        return Trace(
            self._spent,
            self._regret,
            self._curves[self._chosen].setting,
            len(self._curves),
            len(values),
            sum(value < self._bound for value in values),
            self._doubtful,
            max([0.0, *(self._bound - value for value in values)]),
            sum(self._stopped.values()) / (len(self._curves) * self._table.full_tokens),
        )


def settings(objective: str, seed: int, **early_stopping: Any) -> Space:
    """The table's space as a search without end."""
    changed = space().model_dump() | {"objective": objective, "seed": seed, "confirmation": None}
    changed["budget"]["trials"] = 10_000
    changed["early_stopping"] |= early_stopping
    return Space.model_validate(changed)


def search(
    model: str, objective: str, trials: Sequence[int], slots: int, others: Sequence[str], seed: int
) -> dict[str, list[Trace]]:
    """This project's searches on a model's table and those of others, with the tokens of each number of full trials."""
    table = table_of(model)
    budgets = [count * table.full_tokens for count in trials]

    def replayed(searcher: Searcher, oracle: bool = False) -> list[Trace]:
        return Replay(searcher, table, objective, slots, oracle).traces(budgets)

    own = settings(objective, seed)
    found = {OURS: replayed(ours(table, model, own)[0])}
    if ORACLE in others:
        idle = not any(trace.doubtful for trace in found[OURS])
        found[ORACLE] = found[OURS] if idle else replayed(ours(table, model, own)[0], oracle=True)
    samplers = {"random": optuna.samplers.RandomSampler, TPE: optuna.samplers.TPESampler}
    found |= {what: replayed(Optuna(own, sampler(seed=seed))) for what, sampler in samplers.items() if what in others}
    for pruner in set(PRUNERS) & set(others):
        found[pruner] = replayed(ours(table, model, settings(objective, seed, pruner=pruner))[0])
    if STOCK in others:
        found[STOCK] = replayed(Stock(own, seed))
    return found


def compared(traces: dict[str, list[Trace]], model: str, objective: str, trials: int) -> dict[str, Any]:
    """The keys of one model, objective and budget."""
    full_tokens, smooth = table_of(model).full_tokens, smoothed(model, objective)
    rival, own = traces[TPE], traces[OURS]
    less_S = np.array([trace.regret[-1] for trace in own]) - np.array([trace.regret[-1] for trace in rival])
    goal = statistics.fmean(trace.regret[-1] for trace in rival)
    shares = np.linspace(0, 1, 401)[1:]
    mean = np.mean([_at(trace, shares * trials * full_tokens) for trace in own], axis=0)
    return {
        "difference": float(less_S.mean()),
        "difference_se": float(less_S.std(ddof=1) / math.sqrt(len(less_S))) if len(less_S) > 1 else None,
        "p": float(stats.wilcoxon(less_S, alternative="greater").pvalue) if less_S.any() else 1.0,
        "tokens_ratio": next((float(s) for s, m in zip(shares, mean, strict=True) if m <= goal), None),
        "given_away": statistics.fmean(trace.given_away for trace in own),
        "saved": statistics.fmean(trace.saved for trace in own),
        "regret": {what: statistics.fmean(t.regret[-1] for t in found) for what, found in traces.items()},
        "smoothed_regret": {
            what: statistics.fmean(smooth[t.setting] for t in found) - min(smooth.values())
            for what, found in traces.items()
        },
        "trials": {what: statistics.fmean(t.trials for t in found) for what, found in traces.items()},
        "stops": {what: sum(t.stopped for t in found) for what, found in traces.items()},
        "wrong_stops": {what: sum(t.wrong for t in found) for what, found in traces.items()},
    }


def rank_correlations(table: Table, objective: str) -> list[float]:
    """How well the order of the settings at each evaluation foretells their order at the end."""
    curves = table.curves.values()
    end = [curve.value(objective) for curve in curves]
    evaluations = len(table.curves[0].losses)
    so_far = [[objective_value(objective, c.losses[:count]) for c in curves] for count in range(1, evaluations + 1)]
    return [float(stats.spearmanr(values, end).statistic) for values in so_far]


def draw(panel: Any, traces: dict[str, list[Trace]], title: str, full_tokens: int, first: int, trials: int) -> None:
    """Mean regret from the tokens of so many full trials on, with its standard error."""
    at = np.linspace(first, trials, 200) * full_tokens
    for what, colour in COLOURS.items():
        stepped = np.maximum([_at(trace, at) for trace in traces[what]], 1e-3)  # for a logarithmic axis
        mean, error = stepped.mean(axis=0), stepped.std(axis=0) / math.sqrt(len(stepped))
        panel.plot(at / 1e6, mean, color=colour, label=what)
        panel.fill_between(at / 1e6, mean - error, mean + error, color=colour, alpha=0.12, linewidth=0)
    panel.set(title=title, xlabel="tokens spent (millions)", ylabel="mean regret (nats)", yscale="log")
    panel.spines[["top", "right"]].set_visible(False)


def _at(trace: Trace, at: np.ndarray) -> np.ndarray:
    """The regret when so many tokens were spent."""
    return np.array(trace.regret)[np.searchsorted(trace.spent, at, side="right") - 1]


def show(case: str, trials: int, found: dict[str, Any]) -> None:
    """Prints one model, objective and budget."""
    error = f"{found['difference_se']:.4f}" if found["difference_se"] is not None else "?"
    ratio = f"{found['tokens_ratio']:.2f}" if found["tokens_ratio"] is not None else "not reached"
    print(
        f"\n{case}, {trials} full trials: {found['difference']:+.4f} +- {error} to TPE (p worse {found['p']:.3f}),"
        f" tokens to TPE's mean {ratio}, given away {found['given_away']:.4f}, saved {found['saved']:.1%}"
    )
    for what, regret in found["regret"].items():
        print(
            f"  {what:20} regret {regret:.4f}, smoothed {found['smoothed_regret'][what]:.4f},"
            f" {found['trials'][what]:.1f} trials, {found['wrong_stops'][what]} of {found['stops'][what]} stops wrong"
        )


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", default=[8, 16, 32, 64], help="full ones, ascending")
    parser.add_argument("--seeds", type=int, nargs=2, default=[50, 200], help="the first, and the one after the last")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--also", nargs="+", default=[], choices=[STOCK, *PRUNERS], help="further searchers")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=space().models)
    options = parse(parser, trials=[2, 4], seeds=[0, 1], processes=1, models=space().models[:1])
    results: dict[str, dict[str, Any]] = {}
    drawn: list[tuple[dict[str, list[Trace]], str, int]] = []
    seeds = range(*options.seeds)
    at = _GOAL if _GOAL in options.trials else options.trials[-1]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for model in options.models:
            for objective in OBJECTIVES:
                case, table = f"{model}, {objective}", table_of(model)
                one = partial(search, model, objective, options.trials, options.slots, [*COLOURS, *options.also])
                by_seed = list(track(pool.imap(one, seeds), case, len(seeds)))
                budgets = {}
                for index, trials in enumerate(options.trials):
                    of = {what: [found[what][index] for found in by_seed] for what in (*COLOURS, *options.also)}
                    budgets[trials] = compared(of, model, objective, trials)
                    show(case, trials, budgets[trials])
                correlations = rank_correlations(table, objective)
                print("  rank correlation with the end:", *(f"{r:.2f}" for r in correlations), flush=True)
                results[case] = budgets[at] | {"budgets": budgets, "rank_correlations": correlations}
                drawn.append((of, f"{model}, objective {objective}", table.full_tokens))
    worst_p = min(found["p"] for case in results.values() for found in case["budgets"].values())
    print(f"\nworst p {worst_p:.4f}")
    write_results(options, results | {"worst_p": worst_p})
    if options.picture or options.quick:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2 * len(OBJECTIVES), 3.8 * len(options.models)), layout="constrained")
        for panel, arguments in zip(figure.subplots(len(drawn) // 2, 2, squeeze=False).flat, drawn, strict=True):
            draw(panel, *arguments, options.slots, options.trials[-1])
        figure.axes[0].legend(frameon=False)
        figure.savefig(options.picture or io.BytesIO(), dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
