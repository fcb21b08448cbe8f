"""What the runs of a confirmation say: how an arm's chosen setting differs from no dropout on the test split.

Shapes: S seeds, K documents.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from search.space import Space
from search.studies.bootstrap import Difference, Verdict, difference

# The weights that the test split is read with: of the evaluation of least validation loss, and the last ones.
POINTS = ("best", "final")
# Runs that an interval can be made from, and documents.
FEWEST = 2


def point_of(space: Space) -> str:
    """The evaluation that the verdict is about."""
    return "final" if space.objective == "final" else "best"


@dataclass(frozen=True)
class Contestant:
    """A setting that is trained again.

    Attributes:
        trial: of the search; None for one that the search has not tried.
        settings: of that trial; only its seed will differ.
    """

    arm: str
    trial: int | None
    parameters: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An arm's chosen setting on the test split, against the baseline's.

    Attributes:
        validation: mean objective over the seeds, in nats, by which it was chosen.
        losses: for each point and measure the mean over the seeds, in nats.
        differences: for each point and measure, to the baseline; empty for the baseline itself.
        seeds: that both were trained with.
    """

    contestant: Contestant
    validation: float
    losses: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Difference]]
    seeds: int

    def to_json(self) -> dict[str, Any]:
        differences = {p: {m: asdict(d) for m, d in values.items()} for p, values in self.differences.items()}
        return {
            "trial": self.contestant.trial,
            "params": self.contestant.parameters,
            "validation": self.validation,
            "test": self.losses,
            "against_none": differences,
            "seeds": self.seeds,
        }


def compare(
    ours: Mapping[int, FrozenTrial],
    theirs: Mapping[int, FrozenTrial],
    point: str,
    confidence: float,
    measures: Sequence[str] | None = None,
) -> dict[str, Difference]:
    """For each measure the difference of two settings on the test split, ours minus theirs.

    Args:
        ours, theirs: runs by seed; those seeds count that both have, at least two.
        point: one of POINTS.
        measures: by default, all that documents enough have tokens of.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    first = ours[seeds[0]]
    differences = {}
    for measure in measures or measures_of(first, point):
        ours_SK, theirs_SK = (
            np.array([_documents(runs[seed], point, measure)[0] for seed in seeds]) for runs in (ours, theirs)
        )
        tokens_K = np.array(_documents(first, point, measure)[1])
        differences[measure] = difference(ours_SK, theirs_SK, tokens_K, confidence)
    return differences


def measures_of(run: FrozenTrial, point: str) -> list[str]:
    """The measures that documents enough have tokens of."""
    read = run.user_attrs["test"][point]
    names = [*read["test"], *(["general_loss"] if "general" in read else [])]
    return [name for name in names if sum(n > 0 for n in _documents(run, point, name)[1]) >= FEWEST]


def _documents(run: FrozenTrial, point: str, measure: str) -> tuple[list[float], list[float]]:
    """A measure's sums and counts for each document of the test split, or of the general one."""
    read = run.user_attrs["test"][point]
    values = read["general"]["loss"] if measure == "general_loss" else read["test"][measure]
    return values["sums"], values["counts"]


def test_losses(run: FrozenTrial, point: str) -> dict[str, float]:
    """What a run read of the test split: for each measure the mean over all documents, in nats; NaN without any token.

    Args:
        point: one of POINTS.
    """

    def mean(measure: str) -> float:
        sums, counts = _documents(run, point, measure)
        return sum(sums) / sum(counts) if sum(counts) else math.nan

    return {measure: mean(measure) for measure in measures_of(run, point)}


def mean_losses(runs: Sequence[FrozenTrial], point: str) -> dict[str, float]:
    read = [test_losses(run, point) for run in runs]
    return {measure: statistics.fmean(losses[measure] for losses in read) for measure in read[0]}


def sentence(chosen: str, best: Comparison, found: Difference, among: int, confidence: float) -> str:
    """What to use, and how sure that is.

    Args:
        found: the verdict's difference, at the point of the objective.
        among: settings that this one was chosen among.
    """
    named = f"trial {best.contestant.trial} ({chosen})" if best.contestant.trial is not None else chosen
    interval = f"{found.mean:+.4f} nats, {100 * confidence:g}% interval {found.low:+.4f} to {found.high:+.4f}"
    choice = f", best of {among} settings" if among > 1 else ""
    against = f"high-entropy test loss against no dropout {interval}, {best.seeds} seeds{choice}"
    match found.verdict:
        case Verdict.BETTER:
            return f"use {named}: {found.verdict.words} ({against})"
        case Verdict.WORSE:
            return f"use no dropout: {named} is {found.verdict.words} ({against})"
    return f"use no dropout, or {named}: {found.verdict.words} ({against})"
