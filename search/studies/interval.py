"""The interval of differences in loss between settings and a baseline: their runs as samples, documents as draws.

A difference varies with the documents, in which settings do not differ alike, with the runs as a whole, and with what
a run makes of a document. The variance of the runs is pooled over all settings. Their seeds are not paired: both sides
of a seed have nothing in common that was found to matter (LOG.md, 2026-11-29).

Shapes: T independent data sets, C settings (the baseline first), D = C - 1 differences, S runs of a setting, G groups
of documents, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

RESAMPLES = 10_000
_BLOCK = 1000
# A setting whose runs vary more than those of the others would in one of a hundred cases has its own variance.
_WILD = 0.01
# What a hundredth of a thousandth of a nat a token hides is rounding.
_ROUNDING = 1e-18
# Groups of documents squared whose Student's t is too narrow by one: measured, as LOG.md of 2026-11-29 has it.
FEW_GROUPS = 60.0
# Degrees of freedom of the runs' variance up to which nothing is taken for granted of what they share.
_FEW_DEGREES = 6.0
# How often a variance is measured as far below its true value as the share of the information allows for.
_BELOW = 0.4


@dataclass(frozen=True)
class Components:
    """What the differences are, and what they vary with, in nats and nats squared.

    Attributes:
        mean_TD: the differences, ours minus the baseline's, over all tokens.
        deviation_TDG: of each group's summed difference from what the mean makes of its tokens.
        documents_TD: variance of the mean by the draw of groups, with what the runs do to them.
        run_TC: variance of a run's mean loss on these documents, as used: pooled, or a wild setting's own.
        noise_TC: the part of it that comes of what runs do to single groups, pooled in the same way.
        wild_TC: settings that have their own variance.
        runs_C: runs of each setting.
        tokens_TG: tokens of each group.
        answers: whether the losses are right answers: where few differ, a resample may have none of them, and no
            variance of its own.
    """

    mean_TD: Array
    deviation_TDG: Array
    documents_TD: Array
    run_TC: Array
    noise_TC: Array
    wild_TC: NDArray[np.bool_]
    runs_C: NDArray[np.int64]
    tokens_TG: Array
    answers: bool = False

    @property
    def here_TD(self) -> Array:
        """Variance of the mean by the runs alone, on these documents."""
        return self._of_difference(self.run_TC)

    @property
    def whole_TD(self) -> Array:
        """Variance of the mean by what runs have of their own on all documents alike; `documents_TD` has the rest."""
        return self._of_difference(np.maximum(0.0, self.run_TC - self.noise_TC))

    @property
    def variance_TD(self) -> Array:
        result: Array = self.documents_TD + self.whole_TD
        return result

    def variance_with(self, seeds: int) -> Array:
        """Of the mean, if every setting had so many runs; TD."""
        lasting_TD = np.maximum(0.0, self.documents_TD - self._of_difference(self.noise_TC))
        result: Array = lasting_TD + 2 * np.maximum(self.run_TC, self.noise_TC).mean(axis=1, keepdims=True) / seeds
        return result

    def share_with(self, seeds: int) -> Array:
        """The least variance of the mean, with so many runs of every setting, as a share of what it is now; TD. The
        runs' variance is taken somewhat above what was measured: were it taken too low, a look would seem to be the
        last one, and spend all of the error, just where its interval is too narrow."""
        degrees_T1 = np.where(self.wild_TC, 0, self.runs_C - 1).sum(axis=1, keepdims=True)
        above_T1 = degrees_T1 / special.chdtri(degrees_T1, 1 - _BELOW)
        run_TC = np.maximum(above_T1 * self.run_TC, self.noise_TC)
        lasting_TD = np.maximum(0.0, self.documents_TD - self._of_difference(self.noise_TC))
        now_TD = lasting_TD + self._of_difference(run_TC)
        least_TD = lasting_TD + 2 * run_TC.mean(axis=1, keepdims=True) / seeds
        return np.where(now_TD > 0, np.minimum(1.0, least_TD / np.where(now_TD > 0, now_TD, 1.0)), 1.0)

    def _of_difference(self, value_TC: Array) -> Array:
        each_TC = value_TC / self.runs_C
        result: Array = each_TC[:, 1:] + each_TC[:, :1]
        return result


@dataclass(frozen=True)
class Intervals:
    """For each difference how far its interval reaches to either side, in nats: all hold together.

    Attributes:
        half_TD: on documents like these.
        here_TD: on these documents, by the runs alone.
    """

    half_TD: Array
    here_TD: Array


def components_of(losses: Sequence[Array], tokens_TG: Array, answers: bool = False) -> Components:
    """
    Args:
        losses: summed losses of each group's tokens, in nats: of each setting, the baseline first, an array TSG; at
            least two runs each, and two groups.
        tokens_TG: the number of these tokens, none of them 0.
        answers: as in `Components`.
    """
    all_T = tokens_TG.sum(axis=1)
    scale_T = tokens_TG.shape[1] / (tokens_TG.shape[1] - 1) / all_T**2
    mean_CTG = np.array([loss_TSG.mean(axis=1) for loss_TSG in losses])
    run_CTS = [loss_TSG.sum(axis=2) / all_T[:, None] for loss_TSG in losses]
    variance_TC = np.stack([loss_TS.var(axis=1, ddof=1) for loss_TS in run_CTS], axis=1)
    runs_C = np.array([loss_TSG.shape[1] for loss_TSG in losses])
    noise_TC = np.empty_like(variance_TC)
    for c, (loss_TSG, loss_TS) in enumerate(zip(losses, run_CTS, strict=True)):
        own_TS = loss_TS - loss_TS.mean(axis=1, keepdims=True)
        rest_TSG = loss_TSG - mean_CTG[c][:, None] - own_TS[:, :, None] * tokens_TG[:, None]
        noise_TC[:, c] = (rest_TSG**2).sum(axis=(1, 2)) * scale_T / (runs_C[c] - 1)
    difference_TDG = (mean_CTG[1:] - mean_CTG[0]).swapaxes(0, 1)
    mean_TD = difference_TDG.sum(axis=2) / all_T[:, None]
    deviation_TDG = difference_TDG - mean_TD[:, :, None] * tokens_TG[:, None]
    documents_TD = (deviation_TDG**2).sum(axis=2) * scale_T[:, None]
    wild_TC = _find_wild(variance_TC, runs_C - 1)
    run_TC, noise_TC = (_pool(value_TC, runs_C - 1, wild_TC) for value_TC in (variance_TC, noise_TC))
    return Components(mean_TD, deviation_TDG, documents_TD, run_TC, noise_TC, wild_TC, runs_C, tokens_TG, answers)


def _find_wild(variance_TC: Array, degrees_C: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Settings whose runs vary much more than those of all others together (F test)."""
    others_C = degrees_C.sum() - degrees_C
    sum_TC = variance_TC * degrees_C
    others_TC = (sum_TC.sum(axis=1, keepdims=True) - sum_TC) / others_C
    result: NDArray[np.bool_] = variance_TC > others_TC * special.fdtri(degrees_C, others_C, 1 - _WILD)
    return result


def _pool(value_TC: Array, degrees_C: Array | NDArray[np.int64], wild_TC: NDArray[np.bool_]) -> Array:
    """The mean over the settings that are not wild, by their degrees of freedom; of the others the own value."""
    degrees_TC = np.where(wild_TC, 0.0, degrees_C)
    together_T = (value_TC * degrees_TC).sum(axis=-1) / np.maximum(degrees_TC.sum(axis=-1), 1e-9)
    return np.where(wild_TC, value_TC, together_T[..., None])


def intervals_of(parts: Components, level: float | Array, resamples: int = RESAMPLES, seed: int = 0) -> Intervals:
    """Intervals that all hold together but with the chance `level`: the largest |t| of all differences (max-t).

    The groups' part is a studentised bootstrap (Efron and Tibshirani 1993), taken symmetric (Hall 1988). With few
    groups its critical value is itself luck: it is drawn halfway to Student's t, and both are widened by what they were
    found short. The runs' part is drawn from what their variance says of its true value (a generalised interval,
    Weerahandi 1993): of few runs all of it, of many the part that is theirs as a whole by point estimate (Behrens and
    Fisher).

    Args:
        level: one, or one for each data set.
        seed: of the resamples.
    """
    level = np.broadcast_to(level, len(parts.mean_TD))
    generator = np.random.default_rng(seed)
    drawn_RTD = _draw_studentised(parts, resamples, generator)
    drawn_RTD *= _compute_widening(drawn_RTD, parts.tokens_TG, level)
    degrees_C = parts.runs_C - 1
    normal_RC = generator.standard_normal((resamples, len(degrees_C)))
    chi_RC = generator.chisquare(degrees_C, (resamples, len(degrees_C))) / degrees_C
    # How far the true variance may be above the measured one: the same draw for all settings that share it.
    ratio_RTC = 1 / _pool(np.broadcast_to(chi_RC[:, None], (resamples, *parts.run_TC.shape)), degrees_C, parts.wild_TC)
    shared_T = np.where(parts.wild_TC, 0, degrees_C).sum(axis=1)
    careful_T1 = np.minimum(1.0, _FEW_DEGREES / np.maximum(shared_T, 1))[:, None]
    any_RTC = np.sqrt(np.maximum(0.0, ratio_RTC * parts.run_TC - parts.noise_TC))
    own_RTC = np.sqrt(ratio_RTC * np.maximum(0.0, parts.run_TC - parts.noise_TC))
    whole_RTC = careful_T1 * any_RTC + (1 - careful_T1) * own_RTC
    all_RTC = np.sqrt(ratio_RTC * parts.run_TC)
    error_TD = np.sqrt(parts.variance_TD)
    moved_RTD = drawn_RTD * np.sqrt(parts.documents_TD) + _runs_part(whole_RTC, normal_RC, parts.runs_C)
    return Intervals(
        _bound_largest(moved_RTD, error_TD, level),
        _bound_largest(_runs_part(all_RTC, normal_RC, parts.runs_C), np.sqrt(parts.here_TD), level),
    )


def _runs_part(deviation_RTC: Array, normal_RC: Array, runs_C: NDArray[np.int64]) -> Array:
    """What runs that vary so much add to each difference."""
    drawn_RTC = deviation_RTC * normal_RC[:, None] / np.sqrt(runs_C)
    result: Array = drawn_RTC[:, :, 1:] - drawn_RTC[:, :, :1]
    return result


def _bound_largest(moved_RTD: Array, error_TD: Array, level_T: Array) -> Array:
    """Half-widths: the errors times what the largest of all |t| stays below."""
    t_RTD = np.abs(moved_RTD) / np.where(error_TD > 0, error_TD, 1.0)
    return _upper(t_RTD.max(axis=2, keepdims=True), level_T) * error_TD


def _upper(value_RTD: Array, level_T: Array) -> Array:
    """What the values are above with the chance `level`; TD."""
    ranked_RTD = np.sort(value_RTD, axis=0)
    at_T = np.ceil((1 - level_T) * (len(value_RTD) - 1)).astype(int)
    result: Array = np.take_along_axis(ranked_RTD, at_T[None, :, None], axis=0)[0]
    return result


def _draw_studentised(parts: Components, resamples: int, generator: np.random.Generator) -> Array:
    """The t of each difference over groups drawn with replacement, about its mean; RTD."""
    tokens_TG, deviation_TDG = parts.tokens_TG, parts.deviation_TDG
    groups = tokens_TG.shape[1]
    variance_TD = parts.documents_TD
    none_TD = variance_TD * tokens_TG.sum(axis=1)[:, None] ** 2 <= _ROUNDING * (tokens_TG**2).sum(axis=1)[:, None]
    result = np.empty((resamples, *variance_TD.shape))
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        weight_RG = generator.multinomial(groups, np.full(groups, 1 / groups), size).astype(float)
        all_RT, square_RT = weight_RG @ tokens_TG.T, weight_RG @ (tokens_TG**2).T
        for d in range(variance_TD.shape[1]):
            own_TG = deviation_TDG[:, d]
            mean_RT = weight_RG @ own_TG.T / all_RT
            squares_RT = weight_RG @ (own_TG**2).T - 2 * mean_RT * (weight_RG @ (own_TG * tokens_TG).T)
            squares_RT += mean_RT**2 * square_RT
            error_RT = np.sqrt(np.maximum(squares_RT, 1e-300) * groups / (groups - 1)) / all_RT
            if parts.answers:
                error_RT = np.sqrt(variance_TD[:, d])
            result[start : start + size, :, d] = np.where(none_TD[:, d], 0.0, mean_RT / error_RT)
    return result


def _compute_widening(drawn_RTD: Array, tokens_TG: Array, level_T: Array) -> Array:
    """What the draws are multiplied by, for their critical value to be halfway between its own and Student's, in
    logarithms, and wider where groups are few. Groups of unequal size count as fewer (Kish 1965); TD."""
    groups_T = tokens_TG.sum(axis=1) ** 2 / (tokens_TG**2).sum(axis=1)
    student_T1 = -special.stdtrit(np.maximum(groups_T - 1, 1), level_T / 2)[:, None]
    own_TD = _upper(np.abs(drawn_RTD), level_T)
    halfway_TD = np.sqrt(student_T1 / np.where(own_TD > 0, own_TD, student_T1))
    result: Array = halfway_TD * (1 + FEW_GROUPS / groups_T**2)[:, None]
    return result
