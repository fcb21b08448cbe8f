"""How often the verdict is wrong, and how often it finds a difference that is there, on resampled test losses.

    python -m tests.benchmarks.verdict_coverage [--json FILE] [--quick]

tests/benchmarks/curves/seeds.parquet has the losses of three settings with 24 seeds each, by document. A try takes one
setting for all sides, and draws n seeds for the baseline and n for each of two candidates, no seed twice, and documents
with replacement: 20 from one half of them to choose the better candidate, as the validation split does, and 20 from the
other half for the verdict on it (n = 3 and two candidates, as in a space that says nothing of it). The sides are then
equal in truth, but for what is taken off both candidates. About three minutes.

Keys: false_positive_rate (share of 1,000 tries with equal sides that are called different; the goal is at most 0.05),
power (share of 1,000 tries that find 0.6 nats at the last epoch, which is what EntroDrop gained on SmolLM2-135M and
GSM8K: LOG.md, "The rebound on a real model"; the goal is at least 0.8), seeds_for_80 (the fewest seeds that find it in
80 %), cases (for the best and the last evaluation: the rate with equal sides, and the same two figures for the
difference between this table's own baseline and its best setting, in nats; null if 8 seeds are not enough).
"""

import json
import sys
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import track

from search.studies.bootstrap import Verdict, difference
from tests.benchmarks.curves.make import SEEDS
from tests.scripts import parse, parser_of, write_results

Array = NDArray[np.float64]

DOCUMENTS, DEFAULT_SEEDS = 20, 3
REAL_DIFFERENCE = 0.6  # nats
_CANDIDATES = 2
_SEEDS = (2, 3, 4, 5, 6, 7, 8)


class Population:
    """Test losses of the settings at one point ("best" or "final"): for each an array of its seeds by documents."""

    def __init__(self, point: str) -> None:
        rows = [row for row in pq.read_table(SEEDS).to_pylist() if row["point"] == point]
        self.tokens_K = np.array(rows[0]["counts"])
        numbers = sorted({row["setting"] for row in rows})
        self.loss_SK = {n: np.array([row["sums"] for row in rows if row["setting"] == n]) for n in numbers}

    def mean(self, setting: int) -> float:
        """In nats."""
        return float(self.loss_SK[setting].mean(axis=0).sum() / self.tokens_K.sum())


def called(population: Population, settings: list[int], shift: float, seeds: int, tries: int, say: str) -> float:
    """The share of tries whose sides, equal but for `shift` nats, are called different in the right direction, or, with
    no shift, in any."""
    generator = np.random.default_rng(0)
    found = 0
    for number in track(range(tries), say):
        loss_SK = population.loss_SK[settings[number % len(settings)]]
        baseline, *candidates = generator.permutation(len(loss_SK))[: seeds * (1 + _CANDIDATES)].reshape(-1, seeds)
        halves = np.array_split(generator.permutation(len(population.tokens_K)), 2)
        validation, test = (generator.choice(half, DOCUMENTS) for half in halves)
        chosen = min(candidates, key=lambda drawn: loss_SK[drawn][:, validation].sum())
        tokens_K = population.tokens_K[test]
        ours_SK, theirs_SK = loss_SK[chosen][:, test] - shift * tokens_K, loss_SK[baseline][:, test]
        confidence = 1 - 0.05 / _CANDIDATES
        verdict = difference(ours_SK, theirs_SK, tokens_K, confidence, seed=number).verdict
        found += verdict == Verdict.BETTER or (shift == 0 and verdict == Verdict.WORSE)
    return found / tries


def seeds_for_80(population: Population, settings: list[int], shift: float, tries: int) -> int | None:
    for seeds in _SEEDS:
        if called(population, settings, shift, seeds, tries, f"{shift:.3f} nats, {seeds} seeds") >= 0.8:
            return seeds
    return None


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    options = parse(parser, tries=10)
    tries, for_seeds = options.tries, 2 * options.tries // 5
    cases: dict[str, Any] = {}
    for point in ("best", "final"):
        population = Population(point)
        settings = sorted(population.loss_SK)
        best = min(settings, key=population.mean)
        own = population.mean(0) - population.mean(best)
        cases[point] = {
            "false_positive_rate": called(population, settings, 0.0, DEFAULT_SEEDS, tries, f"{point}, equal"),
            "difference": own,
            "power": called(population, settings, own, DEFAULT_SEEDS, tries, f"{point}, {own:.3f} nats"),
            "seeds_for_80": seeds_for_80(population, settings, own, for_seeds) if own > 0 else None,
        }
    final = Population("final")
    settings = sorted(final.loss_SK)
    result = {
        "false_positive_rate": max(case["false_positive_rate"] for case in cases.values()),
        "power": called(final, settings, REAL_DIFFERENCE, DEFAULT_SEEDS, tries, f"final, {REAL_DIFFERENCE} nats"),
        "seeds_for_80": seeds_for_80(final, settings, REAL_DIFFERENCE, for_seeds),
        "cases": cases,
    }
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
