"""Whether a setting is better than another on documents and seeds that had no part in choosing it.

Shapes: S seeds, K documents, R resamples.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_RESAMPLES = 10_000
_BLOCK = 1000


class Verdict(StrEnum):
    """What the confidence interval of a difference in loss says: the code that is stored; `words` are for people."""

    BETTER = "better"
    NO_DIFFERENCE = "no_difference"
    WORSE = "worse"

    @property
    def words(self) -> str:
        return {"better": "confirmed better", "no_difference": "no difference shown"}.get(self, self.value)

    @classmethod
    def _missing_(cls, value: object) -> "Verdict | None":
        """MLflow may hold the words of an older version."""
        return next((verdict for verdict in cls if verdict.words == value), None)


@dataclass(frozen=True)
class Difference:
    """A difference in loss, ours minus theirs, in nats, with its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        if self.high < 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.low > 0 else Verdict.NO_DIFFERENCE


def difference(
    ours_SK: Array, theirs_SK: Array, tokens_K: Array, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """The difference of two mean losses, and its interval by a paired bootstrap over documents and seeds.

    The two sides are paired in both: each document and each seed has ours and theirs. Documents are drawn with
    replacement, whole, with all their tokens (Efron and Tibshirani 1993). Seeds are too few to be drawn: of three,
    resampling sees a third less variance than there is. Their part of a resample is drawn from what the seeds say of
    their mean, Student's t with S - 1 degrees of freedom. The documents' part is widened to Student's t as well
    (Hesterberg 2015, on small samples).

    Args:
        ours_SK, theirs_SK: summed losses of each document's tokens, in nats; at least two seeds and two documents.
        tokens_K: the number of these tokens; documents without any are left out.
        seed: of the resamples.
    """
    kept_K = tokens_K > 0
    difference_SK, tokens_K = (ours_SK - theirs_SK)[:, kept_K], tokens_K[kept_K]
    seeds, documents = difference_SK.shape
    generator = np.random.default_rng(seed)
    mean = float(difference_SK.mean(axis=0).sum() / tokens_K.sum())
    deviations_R = np.concatenate(
        [_resampled(difference_SK.mean(axis=0), tokens_K, generator) for _ in range(_RESAMPLES // _BLOCK)]
    )
    tail = (1 - confidence) / 2
    widened = math.sqrt(documents / (documents - 1)) * stats.t.ppf(tail, documents - 1) / stats.norm.ppf(tail)
    error = float((difference_SK.sum(axis=1) / tokens_K.sum()).std(ddof=1)) / math.sqrt(seeds)
    deviations_R = widened * (deviations_R - mean) + error * generator.standard_t(seeds - 1, len(deviations_R))
    low, high = np.quantile(mean + deviations_R, [tail, 1 - tail])
    return Difference(mean, float(low), float(high))


def _resampled(difference_K: Array, tokens_K: Array, generator: np.random.Generator) -> Array:
    """The mean difference over documents drawn with replacement, for a block of resamples."""
    drawn_RK = generator.integers(len(tokens_K), size=(_BLOCK, len(tokens_K)))
    result: Array = difference_K[drawn_RK].sum(axis=1) / tokens_K[drawn_RK].sum(axis=1)
    return result
