"""How often the verdict is wrong, how often it finds a difference that is there, and how wide its intervals are.

    python -m tests.benchmarks.verdict_coverage [--json FILE] [--quick]

Confirmations are made from tests/benchmarks/curves/seeds.parquet: two settings, 24 seeds, 40 documents. Documents are
drawn with replacement, with their tokens, their losses and, where settings differ, their own effects; runs are drawn
from what was measured of them: what a run does to a document, by document, and what it has of its own on all. Nulls:

strict: the same setting on all sides. resampled: the same, of whole runs and documents of the table, none twice.
differ: two settings that differ document by document, with the mean difference taken off.
heavy: document effects by Student's t with three degrees of freedom, as large.
luck: the same setting, runs with 0.03 nats of their own on all documents of both splits; the best of the candidates on
the validation split is judged.

Power is the share that finds 0.086 nats at the last evaluation and 0.05 at the best one, on top of the documents' own
effects. All candidates are trained; one is judged. About twenty minutes on one core.

Keys: cells (each with point, null, documents, seeds, candidates, difference, and for the verdict's interval
false_positive_rate, power, half_width in nats, here_rate: errors about the documents drawn; rivals: the same for other
intervals), worst_false_positive, standard_error (1.96 of it, of a rate of 0.05), too_low (cells with one candidate and
40 documents or more below 0.02), rounds (confirmations with rounds of seeds, at most six, against five fixed ones:
found, wrong, runs of both sides, found_fixed).
"""

import json
import sys
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import track
from scipy import stats

from search.studies.interval import Components, components_of, intervals_of
from search.studies.rounds import fraction_of, is_futile, level_of_look
from tests.benchmarks.curves.make import SEEDS
from tests.scripts import parse, parser_of, write_results

Array = NDArray[np.float64]

BASELINE, BEST = 0, 53
POINTS = {"best": 0.05, "final": 0.086}
DOCUMENTS, RUNS, CANDIDATES = (20, 40, 200), (2, 3, 5, 8), (1, 3)
NULLS = ("strict", "resampled", "differ", "heavy", "luck")
LUCK = 0.03
LEVEL = 0.05
_RESAMPLES, _BLOCK = 1000, 250
MOST = 6


class Population:
    """What was measured at one point: documents' tokens, losses and effects, and what runs do to them, in nats."""

    def __init__(self, point: str) -> None:
        rows = [row for row in pq.read_table(SEEDS).to_pylist() if row["point"] == point]
        self.tokens_K = np.array(rows[0]["counts"])
        share_K = self.tokens_K / self.tokens_K.sum()
        self.loss_SK = {
            n: np.array([row["sums"] for row in rows if row["setting"] == n]) / self.tokens_K for n in (BASELINE, BEST)
        }
        self.mean_K = self.loss_SK[BASELINE].mean(axis=0)
        effect_K = self.loss_SK[BEST].mean(axis=0) - self.mean_K
        self.effect_K = effect_K - effect_K @ share_K
        self.spread = float(np.sqrt(share_K @ self.effect_K**2))
        self.rest_SK, self.own = {}, {}
        for n, loss_SK in self.loss_SK.items():
            runs = len(loss_SK)
            away_SK = loss_SK - loss_SK.mean(axis=0)
            own_S = away_SK @ share_K
            self.rest_SK[n] = (away_SK - own_S[:, None]) * np.sqrt(runs / (runs - 1))
            noise = (self.rest_SK[n] ** 2).mean(axis=0) @ share_K**2
            self.own[n] = float(np.sqrt(max(0.0, own_S.var(ddof=1) - noise)))

    def drawn(
        self, generator: np.random.Generator, tries: int, documents: int, runs: int, candidates: int, null: str
    ) -> tuple[list[Array], Array, Array]:
        """Summed losses of each setting, TSK, the tokens, TK, and the candidate that validation chose, T."""
        document_TK = generator.integers(len(self.tokens_K), size=(tries, documents))
        tokens_TK = self.tokens_K[document_TK]
        if null == "resampled":
            document_TK = generator.permuted(np.tile(np.arange(40), (tries, 1)), axis=1)[:, :documents]
            tokens_TK = self.tokens_K[document_TK]
            order_TR = generator.permuted(np.tile(np.arange(24), (tries, 1)), axis=1)
            losses = [
                self.loss_SK[BASELINE][order_TR[:, c * runs : (c + 1) * runs, None], document_TK[:, None]]
                for c in range(1 + candidates)
            ]
            return [loss * tokens_TK[:, None] for loss in losses], tokens_TK, np.zeros(tries, dtype=int)
        effect_TK = np.zeros((tries, documents))
        if null == "differ":
            effect_TK = self.effect_K[document_TK]
        elif null == "heavy":
            effect_TK = self.spread * generator.standard_t(3, size=document_TK.shape) / np.sqrt(3)
        losses, own_CT = [], []
        for c in range(1 + candidates):
            setting = BEST if c and null in ("differ", "heavy") else BASELINE
            own = LUCK if null == "luck" else self.own[setting]
            own_TS1 = own * generator.standard_normal((tries, runs, 1))
            seed_TSK = generator.integers(24, size=(tries, runs, documents))
            rest_TSK = self.rest_SK[setting][seed_TSK, document_TK[:, None]]
            loss_TSK = (self.mean_K[document_TK] + (effect_TK if c else 0.0))[:, None] + own_TS1 + rest_TSK
            losses.append(loss_TSK * tokens_TK[:, None])
            own_CT.append(own_TS1.mean(axis=(1, 2)) + 1e-9 * generator.standard_normal(tries))
        return losses, tokens_TK, np.argmin(own_CT[1:], axis=0)


@dataclass
class Rates:
    """Counts of one interval in one cell."""

    tries: int = 0
    wrong: int = 0
    found: int = 0
    width: float = 0.0

    def add(self, mean_T: Array, half_T: Array, difference: float) -> None:
        self.tries += len(mean_T)
        self.wrong += int((np.abs(mean_T) > half_T).sum())
        # An interval moves with what is taken off all losses of a side.
        self.found += int((mean_T - difference + half_T < 0).sum())
        self.width += float(half_T.sum())

    def to_json(self) -> dict[str, float]:
        return {
            "false_positive_rate": self.wrong / self.tries,
            "power": self.found / self.tries,
            "half_width": self.width / self.tries,
        }


def rivals(losses: list[Array], parts: Components, generator: np.random.Generator) -> dict[str, Array]:
    """Half-widths of other intervals, TD: of several candidates, by Bonferroni."""
    tries, differences = parts.mean_TD.shape
    runs, groups = losses[0].shape[1], parts.tokens_TG.shape[1]
    tail = LEVEL / differences / 2
    degrees = (len(losses)) * (runs - 1)

    def student(whole_TD: Array) -> Array:
        variance_TD = parts.documents_TD + whole_TD
        freedom_TD = variance_TD**2 / (parts.documents_TD**2 / (groups - 1) + whole_TD**2 / degrees)
        result: Array = stats.t.isf(tail, freedom_TD) * np.sqrt(variance_TD)
        return result

    # The interval before this one: paired bootstraps over documents, widened, and Student's t over seeds.
    all_T = parts.tokens_TG.sum(axis=1)
    weight_RG = generator.multinomial(groups, np.full(groups, 1 / groups), _RESAMPLES).astype(float)
    widened = np.sqrt(groups / (groups - 1)) * stats.t.isf(tail, groups - 1) / stats.norm.isf(tail)
    paired_TD = np.empty((tries, differences))
    for d in range(differences):
        moved_RT = widened * (weight_RG @ parts.deviation_TDG[:, d].T) / (weight_RG @ parts.tokens_TG.T)
        error_T = ((losses[d + 1] - losses[0]).sum(axis=2) / all_T[:, None]).std(axis=1, ddof=1) / np.sqrt(runs)
        moved_RT += error_T * generator.standard_t(runs - 1, (_RESAMPLES, 1))
        low_T, high_T = np.quantile(moved_RT, [tail, 1 - tail], axis=0)
        paired_TD[:, d] = (high_T - low_T) / 2
    return {
        "paired, as before": paired_TD,
        "t, unpaired": student(parts.here_TD),
        "t, unpaired, less what documents have": student(parts.whole_TD),
    }


def measured(population: Population, cell: dict[str, Any], tries: int) -> dict[str, Any]:
    """One cell of the grid."""
    names = ("documents", "seeds", "candidates", "null")
    generator = np.random.default_rng([cell[n] if n != "null" else NULLS.index(cell[n]) for n in names])
    rates: dict[str, Rates] = {"own": Rates(), "here": Rates()}
    for _ in range(max(1, tries // _BLOCK)):
        block = min(_BLOCK, tries)
        losses, tokens_TK, chosen_T = population.drawn(generator, block, *(cell[n] for n in names))
        parts = components_of(losses, tokens_TK)
        found = intervals_of(parts, LEVEL, _RESAMPLES, int(generator.integers(2**31)))
        halves = {"own": found.half_TD, **rivals(losses, parts, generator)}
        at = np.arange(block), chosen_T
        for name, half_TD in halves.items():
            rates.setdefault(name, Rates()).add(parts.mean_TD[at], half_TD[at], cell["difference"])
        rates["here"].add(parts.mean_TD[at], found.here_TD[at], cell["difference"])
    own = rates.pop("own").to_json()
    here = rates.pop("here").to_json()
    # Where settings differ by document, the difference on the very documents drawn is not zero.
    of_here = {"here_rate": here["false_positive_rate"]} if cell["null"] not in ("differ", "heavy") else {}
    return {**cell, **own, **of_here, "rivals": {name: rate.to_json() for name, rate in rates.items()}}


def by_rounds(
    population: Population, null: str, documents: int, candidates: int, difference: float, tries: int
) -> dict[str, Any]:
    """Confirmations in rounds of seeds, of one candidate or of several; wrong: called worse, or, with no difference,
    anything."""
    generator = np.random.default_rng([documents, candidates, round(1000 * difference)])
    found = wrong = runs = found_fixed = fixed_here = 0
    for _ in range(max(1, tries // _BLOCK)):
        block = min(_BLOCK, tries)
        losses, tokens_TK, chosen_T = population.drawn(generator, block, documents, MOST, candidates, null)
        losses = [losses[0], *(loss - difference * tokens_TK[:, None] for loss in losses[1:])]
        at = np.arange(block), chosen_T
        seed = int(generator.integers(2**31))
        live_T, fractions = np.ones(block, dtype=bool), [[] for _ in range(block)]
        for seeds in range(2, MOST + 1):
            parts = components_of([loss[:, :seeds] for loss in losses], tokens_TK)
            variance_T, least_T = parts.variance_TD[at], parts.variance_with(MOST)[at]
            share_T, level_T = parts.share_with(MOST)[at], np.full(block, LEVEL)
            for t in np.flatnonzero(live_T):
                fractions[t].append(fraction_of(share_T[t]) if seeds < MOST else 1.0)
                level_T[t] = level_of_look(fractions[t], LEVEL)
            mean_T, half_T = parts.mean_TD[at], intervals_of(parts, level_T, _RESAMPLES, seed).half_TD[at]
            better_T, worse_T = live_T & (mean_T + half_T < 0), live_T & (mean_T - half_T > 0)
            found, wrong = found + int(better_T.sum()), wrong + int(worse_T.sum())
            runs += 2 * int(live_T.sum()) if seeds > 2 else 4 * block
            for t in np.flatnonzero(live_T):
                over = fractions[t][-1] == 1 or is_futile(mean_T[t], variance_T[t], least_T[t], LEVEL)
                live_T[t] = not (over or better_T[t] or worse_T[t])
            if seeds == 5:
                half_T = intervals_of(parts, LEVEL, _RESAMPLES, seed).half_TD[at]
                found_fixed += int((mean_T + half_T < 0).sum())
                fixed_here += block
    done = max(1, tries // _BLOCK) * min(_BLOCK, tries)
    return {
        "null": null,
        "documents": documents,
        "candidates": candidates,
        "difference": difference,
        "found": found / done,
        "wrong": (wrong + (found if difference == 0 else 0)) / done,
        "runs": runs / done,
        "found_fixed": found_fixed / fixed_here,
    }


# Point, null, documents, and true differences in nats: seeds decide in the first three, documents in the last two.
ROUNDS = (
    ("best", "luck", 200, (0.0, 0.05, 0.07, 0.09)),
    ("final", "strict", 200, (0.0, 0.015, 0.02, 0.03)),
    ("final", "strict", 40, (0.0, 0.03, 0.04, 0.05)),
    ("best", "differ", 200, (0.0, 0.02, 0.05)),
    ("final", "differ", 200, (0.0, 0.086, 0.2)),
)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--tries", type=int, default=2000)
    options = parse(parser, tries=10)
    populations = {point: Population(point) for point in POINTS}
    grid = [
        {"point": p, "null": null, "documents": k, "seeds": s, "candidates": c, "difference": POINTS[p]}
        for p, null, k, c, s in product(POINTS, NULLS, DOCUMENTS, CANDIDATES, RUNS)
        if not (null == "luck" and c == 1) and not (null == "resampled" and (s * (1 + c) > 24 or k > 40))
    ]
    rounds = [(point, null, k, by) for point, null, k, differences in ROUNDS for by in differences]
    if options.quick:
        grid, rounds = grid[:: len(grid) // 4], rounds[1::9]
    cells = [measured(populations[cell["point"]], cell, options.tries) for cell in track(grid, "cells")]
    results = {
        "worst_false_positive": max(cell["false_positive_rate"] for cell in cells),
        "standard_error": 1.96 * (LEVEL * (1 - LEVEL) / options.tries) ** 0.5,
        "too_low": sum(
            cell["false_positive_rate"] < 0.02 and cell["candidates"] == 1 and cell["documents"] >= 40 for cell in cells
        ),
        "rounds": [
            {"point": point} | by_rounds(populations[point], null, k, 1, by, options.tries // 2)
            for point, null, k, by in track(rounds, "rounds")
        ],
        "cells": cells,
    }
    print(json.dumps(results, indent=2))
    write_results(options, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
