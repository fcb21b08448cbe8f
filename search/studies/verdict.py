"""What an interval says of a setting against no dropout, and what would have to be raised for it to say more.

Shapes: S runs of a setting, K documents, G groups of documents.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from search.studies.interval import FEW_GROUPS, RESAMPLES, Array, Components, components_of, intervals_of

# The chance with which a difference is to be seen that is called detectable.
POWER = 0.8
# Standard deviations in nats, in the default search: of a group of documents' own difference, and of a run.
_DEVIATIONS = {"best": (0.1, 0.05), "final": (0.15, 0.05)}
# Rounds of seeds end early: a difference has to be larger by this to be seen as often (LOG.md, 2026-11-30).
_LOOKS = 1.2
# What was not decided where there seem to be enough wants so many times as many: few of them widen the interval too.
_MORE = 1.5
# Of a question where one in five is answered differently.
CHANGED = 0.2
_OLDER = {"confirmed better": "better", "no_difference": "undecided", "no difference shown": "undecided"}


class Verdict(StrEnum):
    """What the confidence interval of a difference in loss says: the code that is stored; `words` are for people."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal"
    UNDECIDED = "undecided"
    COSTLY = "costly"
    """Better, but not shown to keep the space's constraint: of a setting, not of an interval."""
    UNSTABLE = "unstable"
    """Better where it came to its end, but some of its runs diverged: of a setting, not of an interval."""

    @property
    def words(self) -> str:
        return {
            "better": "confirmed better",
            "equal": "equal within the margin",
            "undecided": "not decided",
            "costly": "better, but not shown to keep the constraint",
            "unstable": "better, but not in all runs: some diverged",
        }.get(self, self.value)

    @classmethod
    def _missing_(cls, value: object) -> "Verdict | None":
        """MLflow may hold the words, or what an older version stored."""
        known = {verdict.words: verdict.value for verdict in cls} | _OLDER
        return cls(known[value]) if isinstance(value, str) and value in known else None


@dataclass(frozen=True)
class Difference:
    """A difference in loss, ours minus theirs, in nats, or in the share of right answers, with two intervals.

    Attributes:
        low, high: on documents like these.
        here_low, here_high: on these documents, whatever others would say: by the runs alone.
        detectable: the smallest difference that such a confirmation tells from zero four times of five.
        error: standard error of the mean; `documents_error` is the part that more documents lower, `lasting_error` the
            part that no number of seeds does.
        apart: standard errors that make a difference detectable where documents are many.
        documents, groups, seeds: that it rests on.
        margin: below which a difference is called none; None if no equality is claimed.
        answers: whether it is in the share of right answers, where more is better.
    """

    mean: float
    low: float
    high: float
    here_low: float
    here_high: float
    detectable: float
    error: float
    documents_error: float
    lasting_error: float
    apart: float
    documents: int
    groups: int
    seeds: int
    margin: float | None = None
    answers: bool = False

    @property
    def unit(self) -> str:
        return "" if self.answers else " nats"

    @property
    def verdict(self) -> Verdict:
        return self._verdict(self.low, self.high)

    @property
    def verdict_here(self) -> Verdict:
        """On these documents."""
        return self._verdict(self.here_low, self.here_high)

    def _verdict(self, low: float, high: float) -> Verdict:
        if low > 0 or high < 0:
            return Verdict.BETTER if (low > 0) == self.answers else Verdict.WORSE
        margin = self.margin
        return Verdict.EQUAL if margin is not None and -margin <= low and high <= margin else Verdict.UNDECIDED

    @property
    def documents_decide(self) -> bool:
        """Whether more seeds would help less than more documents."""
        return self.lasting_error**2 > self.error**2 / 2

    def documents_for(self, difference: float) -> int | None:
        """Test documents with which a difference is detectable, at these seeds; None if no number is enough."""
        room = (difference / self.apart) ** 2 - (self.error**2 - self.documents_error**2)
        return math.ceil(self.documents * _times(self.documents_error**2 / room)) if room > 0 else None

    def seeds_for(self, difference: float) -> int | None:
        """Seeds with which a difference is detectable, on these documents; None if no number is enough."""
        room = (difference / self.apart) ** 2 - self.lasting_error**2
        return math.ceil(self.seeds * _times((self.error**2 - self.lasting_error**2) / room)) if room > 0 else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict, "verdict_here": self.verdict_here}


def _times(wanted: float) -> float:
    return wanted if wanted > 1 else _MORE


def expect_detectable(
    point: str,
    groups: int,
    seeds: int,
    confidence: float,
    answers: bool = False,
    contestants: int = 1,
    rounds: bool = False,
) -> float:
    """The smallest difference, in nats, that a confirmation would tell from zero four times of five, if documents and
    seeds differ as in the default search; LOG.md says how they do there.

    Args:
        point: the weights that are read, "best" or "final".
        groups: of the test documents.
        answers: in the share of right answers, if a share of `CHANGED` is answered differently.
        contestants: settings that are compared with no dropout.
        rounds: whether seeds are added while they can decide.
    """
    documents_sd, runs_sd = (math.sqrt(CHANGED), 0.0) if answers else _DEVIATIONS[point]
    widened = documents_sd * (1 + FEW_GROUPS / groups**2)
    error = math.sqrt(widened**2 / groups + 2 * runs_sd**2 / seeds)
    level = (1 - confidence) / contestants
    critical = -special.stdtrit(groups - 1 if answers else (contestants + 1) * (seeds - 1), level / 2)
    return float(error * _reach(float(critical), level) * (_LOOKS if rounds else 1.0))


def _reach(critical: float, level: float) -> float:
    """A difference that an interval of such a half-width tells from zero in `POWER` of all cases, both in standard
    errors: these are measured, with as many degrees of freedom as the half-width has by Student's t (the normal
    approximation of the noncentral t, Johnson and Welch 1940)."""
    degrees = _degrees_of(critical, level)
    spread = math.sqrt(1 + critical**2 / (2 * degrees))
    return float(critical * (1 - 1 / (4 * degrees)) + special.ndtri(POWER) * spread)


def _degrees_of(critical: float, level: float) -> float:
    """The degrees of freedom with which Student's t has this two-sided critical value: from 1 to as good as all."""
    low, high = 0.0, math.log(1e6)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if -special.stdtrit(math.exp(middle), level / 2) > critical else (low, middle)
    return math.exp(high)


def sum_by_group(loss_SK: Array, groups_K: NDArray[np.int64]) -> Array:
    """Sums over the documents of each group; SG."""
    numbers_K = np.unique(groups_K, return_inverse=True)[1]
    loss_GS = np.zeros((numbers_K.max() + 1, len(loss_SK)))
    np.add.at(loss_GS, numbers_K, loss_SK.T)
    return loss_GS.T


def components(
    losses: Sequence[Array], tokens_K: Array, groups_K: Sequence[int] | None = None, answers: bool = False
) -> Components:
    """The components of settings' differences to the first of them.

    Args:
        losses: of each setting the summed losses of each document's tokens, in nats, SK; at least two runs, and two
            groups of documents.
        tokens_K: the number of these tokens; documents without any are left out.
        groups_K: of each document; None: each is its own.
        answers: the losses are right answers, 1 or 0 each. Two questions are added, of which either side has one: where
            few are answered differently, their variance is hardly known (Agresti and Min 2005 add half of that).
    """
    if answers:
        own_K = range(len(tokens_K)) if groups_K is None else groups_K
        groups_K = [*own_K, max(own_K) + 1, max(own_K) + 2]
        tokens_K = np.append(tokens_K, [1.0, 1.0])
        added = [[0.0, 1.0], *[[1.0, 0.0]] * (len(losses) - 1)]
        losses = [
            np.hstack([right_SK, np.broadcast_to(own, (len(right_SK), 2))])
            for right_SK, own in zip(losses, added, strict=True)
        ]
    kept_K = tokens_K > 0
    number_K = np.arange(len(tokens_K)) if groups_K is None else np.asarray(groups_K)
    tokens_1G, *losses_SG = (sum_by_group(v_SK[:, kept_K], number_K[kept_K]) for v_SK in (tokens_K[None], *losses))
    return components_of([loss_SG[None] for loss_SG in losses_SG], tokens_1G, answers)


def differences(
    losses: Sequence[Array],
    tokens_K: Array,
    groups_K: Sequence[int] | None = None,
    level: float = 0.05,
    margin: float | None = None,
    seed: int = 0,
    answers: bool = False,
) -> list[Difference]:
    """Each setting's difference to the first one; the intervals hold together but with the chance `level`.

    Args:
        losses, tokens_K, groups_K, answers: as `components` takes them.
        margin: as in `Difference`, in nats.
        seed: of the resamples.
    """
    parts = components(losses, tokens_K, groups_K, answers)
    # The mean is that of what was asked.
    added = 2 * answers
    scale = 1 + added / tokens_K.sum()
    intervals = intervals_of(parts, level, RESAMPLES, seed)
    variance_D, lasting_D = parts.variance_TD[0], parts.variance_with(10**9)[0]
    power = float(special.ndtri(POWER))
    results = []
    for d, centre in enumerate(parts.mean_TD[0]):
        mean, here = scale * centre, scale * intervals.here_TD[0, d]
        half, error = intervals.half_TD[0, d], math.sqrt(variance_D[d])
        critical = half / error if error > 0 else 0.0
        # No difference between shares is larger.
        most = 1.0 if answers else math.inf
        results.append(
            Difference(
                float(mean),
                float(max(-most, centre - half)),
                float(min(most, centre + half)),
                float(mean - here),
                float(mean + here),
                float(_reach(critical, level / len(variance_D)) * error),
                error,
                math.sqrt(parts.documents_TD[0, d]),
                math.sqrt(lasting_D[d]),
                float(min(critical, -special.ndtri(level / 2 / len(variance_D))) + power),
                int((tokens_K > 0).sum()),
                parts.tokens_TG.shape[1] - added,
                int(parts.runs_C[[0, d + 1]].min()),
                margin,
                answers,
            )
        )
    return results
