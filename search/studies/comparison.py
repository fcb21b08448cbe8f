"""What the runs of a confirmation say: how settings differ from no dropout on the test split.

Shapes: S runs, K documents.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from search.space import EXACT, GENERAL, HIGH, Space
from search.studies.interval import Array, Components
from search.studies.verdict import POWER, Difference, Verdict, components, differences

# The weights that the test split is read with: of the evaluation of least validation loss, and the last ones.
POINTS = ("best", "final")
# Runs that an interval can be made from, and groups of documents.
FEWEST = 2
# Documents and seeds that are still advised.
_MOST, _MOST_SEEDS = 10_000, 20
# What a person reads.
LABELS: dict[str, str] = {HIGH: "high-entropy test loss", GENERAL: "general loss", EXACT: "share of right test answers"}
# Settings that tell more where they are raised.
TEST, SEEDS = "data.test", "confirmation.seeds"


def point_of(space: Space) -> str:
    """The evaluation that the verdict is about."""
    return "final" if space.evaluation_that_counts == "final" else "best"


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
        validation: mean objective over the seeds, in nats or as the share of right answers, by which it was chosen.
        losses: for each point and measure the mean over the seeds, in nats; of exact_match the share of right answers.
        differences: for each point and measure, to the baseline; empty for the baseline itself.
        seeds: that it was trained with.
        diverged: runs with other seeds, whose loss was not finite.
    """

    contestant: Contestant
    validation: float
    losses: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Difference]]
    seeds: int
    diverged: int = 0

    def keeps(self, point: str, allowed: float | None) -> bool:
        """Whether the general loss is shown to be at most so much above the baseline's, in nats; None: any is."""
        return allowed is None or self.differences[point][GENERAL].high <= allowed

    def to_json(self) -> dict[str, Any]:
        found = {p: {m: d.to_json() for m, d in values.items()} for p, values in self.differences.items()}
        return {
            "trial": self.contestant.trial,
            "params": self.contestant.parameters,
            "validation": self.validation,
            "test": self.losses,
            "against_none": found,
            "seeds": self.seeds,
            "diverged": self.diverged,
        }


@dataclass(frozen=True)
class Runs:
    """The runs of settings that are compared, the baseline's first.

    Attributes:
        runs: of each setting, at least two.
        groups: of the documents of the test split and of the general one; empty: each document is its own.
    """

    runs: Sequence[Sequence[FrozenTrial]]
    groups: Mapping[str, Sequence[int]]

    def differences(self, point: str, measure: str, level: float, margin: float | None) -> list[Difference]:
        """Of each setting to the first on the test split; the intervals hold together but with the chance `level`."""
        return differences(*self._losses(point, measure), level, margin, answers=measure == EXACT)

    def components(self, point: str, measure: str) -> Components:
        return components(*self._losses(point, measure), answers=measure == EXACT)

    def _losses(self, point: str, measure: str) -> tuple[list[Array], Array, Sequence[int] | None]:
        losses = [np.array([_documents(run, point, measure)[0] for run in runs]) for runs in self.runs]
        tokens_K = np.array(_documents(self.runs[0][0], point, measure)[1])
        return losses, tokens_K, self.groups.get("general" if measure == GENERAL else "test")


def measures_of(run: FrozenTrial, point: str, groups: Mapping[str, Sequence[int]] | None = None) -> list[str]:
    """The measures that groups of documents enough have tokens of; without groups, documents enough."""
    read = run.user_attrs["test"][point]
    names = [*read["test"], *([GENERAL] if "general" in read else [])]

    def count(measure: str) -> int:
        counts = _documents(run, point, measure)[1]
        own = (groups or {}).get("general" if measure == GENERAL else "test") or range(len(counts))
        return len({group for group, tokens in zip(own, counts, strict=True) if tokens})

    return [name for name in names if count(name) >= FEWEST]


def _documents(run: FrozenTrial, point: str, measure: str) -> tuple[list[float], list[float]]:
    """A measure's sums and counts for each document of the test split, or of the general one."""
    read = run.user_attrs["test"][point]
    values = read["general"]["loss"] if measure == GENERAL else read["test"][measure]
    return values["sums"], values["counts"]


def is_finite(test: Mapping[str, Any]) -> bool:
    """Whether all that a run read of the test split is; see `trainables.training.run.Run.test`."""
    return all(
        math.isfinite(value)
        for splits in test.values()
        for measures in splits.values()
        for values in measures.values()
        for value in values["sums"]
    )


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


def sentence(
    chosen: str,
    best: Comparison,
    point: str,
    measure: str,
    among: int,
    confidence: float,
    test: str | None = TEST,
    allowed: float | None = None,
) -> str:
    """What to use; then why, on which documents that holds, and what would tell more.

    Args:
        point, measure: of the objective.
        among: settings that this one was chosen among.
        test: see `describe_limits`.
        allowed: see `Comparison.keeps`.
    """
    found = best.differences[point][measure]
    trial = best.contestant.trial
    named = f"trial {trial} of {chosen}" if trial is not None else chosen
    choice = f", best of {among} settings" if among > 1 else ""
    why = (
        f"{LABELS[measure]} against no dropout {found.mean:+.4f}{found.unit}, {100 * confidence:g}% interval"
        f" {found.low:+.4f} to {found.high:+.4f} on documents like these, {found.here_low:+.4f} to"
        f" {found.here_high:+.4f} on these documents alone, {best.seeds} seeds{choice}"
    )
    broken = ""
    if allowed is not None:
        general = best.differences[point][GENERAL]
        interval = f"{general.mean:+.4f} nats, {general.low:+.4f} to {general.high:+.4f}"
        why += f"; general loss {interval}, at most {allowed:+g} allowed"
        broken = "breaks the constraint" if general.mean > allowed else "is not shown to keep the constraint"
    match found.verdict:
        case Verdict.BETTER if best.diverged:
            runs = f"{best.diverged} of its {best.seeds + best.diverged} runs diverged"
            return f"use no dropout: {named} is {found.verdict.words} where it came to its end, but {runs} ({why})"
        case Verdict.BETTER if not best.keeps(point, allowed):
            return f"use no dropout: {named} is {found.verdict.words}, but {broken} ({why})"
        case Verdict.BETTER:
            return f"use {named}: it is {found.verdict.words} ({why})"
        case Verdict.WORSE:
            return f"use no dropout: {named} is {found.verdict.words} ({why})"
        case Verdict.EQUAL:
            return f"use no dropout: {named} is equal to it within {found.margin:g}{found.unit} ({why})"
    return f"use no dropout: it is not decided whether {named} is better ({why}). {describe_limits(found, test)}"


def describe_other_point(point: str, found: Comparison, measure: str = HIGH) -> str:
    """What the same runs say of the other weights that one may keep, and how these are."""
    kept, instead = ("best", "last") if point == "best" else ("last", "best")
    difference = found.differences[point][measure]
    interval = f"{difference.mean:+.4f}{difference.unit}, {difference.low:+.4f} to {difference.high:+.4f}"
    own, other = (found.losses[each][measure] for each in sorted(POINTS, key=lambda each: each != point))
    name = "test loss" if measure == HIGH else LABELS[measure]
    return (
        f"If you keep the {kept} checkpoint, not the {instead} one: {difference.verdict.words} ({interval});"
        f" its {name} is {own:.4f}, that of the {instead} one {other:.4f}"
    )


def describe_limits(found: Difference, test: str | None = TEST) -> str:
    """Of a difference that is not decided: the smallest one that would have been seen, and what to raise for less.

    Args:
        test: the setting that says how many test documents there are; None if they are all of a source.
    """
    if not found.detectable:
        return "No run differs from another"
    text = (
        f"A difference of {found.detectable:.2g}{found.unit} would have been seen in {POWER:.0%} of such confirmations"
    )
    if not (raised := settings_to_raise(found, test or TEST)):
        return f"{text}; what was seen, {found.mean:+.2g}{found.unit}, is too small to be looked for"
    limit = "both" if len(raised) > 1 else "seeds" if SEEDS in raised else "documents"
    source = f"give {TEST} a source of {raised.pop(TEST)} documents" if test is None and TEST in raised else ""
    settings = " and ".join(f"{setting}: {value}" for setting, value in raised.items())
    advice = " and ".join(part for part in (source, settings and f"set {settings}") if part)
    looked_for = f"for one of {_choose_target(found):.2g}{found.unit}"
    if _may_be_equal(found):
        looked_for = f"to show that it is equal within {found.margin:g}{found.unit}"
    return f"{text}; {limit} decide: {looked_for} {advice}"


def settings_to_raise(found: Difference, test: str = TEST) -> dict[str, int]:
    """The settings of a space with which a difference like the one seen, or the margin, is detectable; empty if that
    takes more than are advised.

    Args:
        test: the setting that says how many test documents there are.
    """
    wanted = _choose_target(found)
    times = (found.error * found.apart / wanted) ** 2 if wanted else math.inf
    if found.documents * times > _MOST:
        return {}
    documents, seeds = found.documents_for(wanted), found.seeds_for(wanted)
    if documents is not None and (found.documents_decide or seeds is None or seeds > _MOST_SEEDS):
        return {test: _round_up(documents)}
    if seeds is None:
        seeds, documents = math.ceil(found.seeds * times), math.ceil(found.documents * times)
        return {test: _round_up(documents), SEEDS: seeds} if seeds <= _MOST_SEEDS else {}
    return {SEEDS: seeds} if seeds <= _MOST_SEEDS else {}


def _may_be_equal(found: Difference) -> bool:
    return found.margin is not None and abs(found.mean) < found.margin


def _choose_target(found: Difference) -> float:
    """The difference to be told from zero; where it may be called none, what is left of the margin."""
    return found.margin - abs(found.mean) if found.margin and _may_be_equal(found) else abs(found.mean)


def _round_up(documents: int) -> int:
    """Up to two digits: it is an estimate."""
    unit: int = 10 ** max(0, len(str(documents)) - 2)
    return math.ceil(documents / unit) * unit
