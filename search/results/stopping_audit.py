"""How far stopping early can be trusted: what the trials that ran on, although they were to be stopped, came to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.studies.pruners import PLATEAU, rungs, value_at
from search.studies.search_study import SearchStudy
from search.studies.study import reason_code

# A correlation of two trials says nothing.
_FEWEST = 3


def audit_stopping(study: SearchStudy, first_rung: float, factor: int) -> dict[str, Any]:
    """Rank correlations between the rungs and the end, and how often stopping was wrong.

    Returns:
        rungs: for each evaluation before the end that a rung compares at its tokens, how many trials ran to the end,
        and Spearman's correlation between their objectives there and at the end, within an arm, as a rung compares,
        and over the arms its mean by trials; None without an arm of three that differ. The trials that were stopped
        are missing from it: it is the correlation among the better ones.
        audited: trials that were to be stopped and ran on; wrong: those of them that came out better than every other
        trial of their arm, and would not have if they had been stopped; wrong_share: their share, None without any.
    """
    complete = study.trials(TrialState.COMPLETE)
    audited = [t for t in complete if "audit" in t.user_attrs]
    wrong = [t for t in audited if _was_wrong(study, t)]
    return {
        "rungs": [
            {"tokens": tokens, "trials": len(complete), "rank_correlation": _correlate(study, complete, tokens)}
            for tokens in _compared(complete, rungs(first_rung, factor, study.full_tokens or 0))
        ],
        "audited": len(audited),
        "wrong": len(wrong),
        "wrong_share": len(wrong) / len(audited) if audited else None,
    }


def _compared(complete: Sequence[FrozenTrial], at_rungs: Sequence[int]) -> list[int]:
    """Tokens of the evaluations at which trials come to a rung, without the last one."""
    evaluated = sorted({step for trial in complete for step in trial.intermediate_values})
    first = {next((step for step in evaluated if step >= rung), rung) for rung in at_rungs}
    return sorted(first - set(evaluated[-1:]))


def _correlate(study: SearchStudy, complete: Sequence[FrozenTrial], tokens: int) -> float | None:
    from scipy import stats

    correlations, counts = [], []
    for arm in study.arms:
        trials = [trial for trial in complete if trial.user_attrs["arm"] == arm]
        at_rung = [value_at(trial, tokens, study.objective) or 0.0 for trial in trials]
        at_end = [study.value(trial.number) for trial in trials]
        # Before the dropout starts, trials with one learning rate are equal.
        if len(trials) >= _FEWEST and len(set(at_rung)) > 1 and len(set(at_end)) > 1:
            correlations.append(float(stats.spearmanr(at_rung, at_end).statistic))
            counts.append(len(trials))
    return float(np.average(correlations, weights=counts)) if correlations else None


def _was_wrong(study: SearchStudy, trial: FrozenTrial) -> bool:
    stop, value = trial.user_attrs["audit"], study.value(trial.number)
    # A trial that stops because it improves no more keeps the objective that it has.
    if reason_code(stop["reason"]) == PLATEAU and value_at(trial, stop["tokens"], study.objective) == value:
        return False
    others = [t for t in study.ranked(trial.user_attrs["arm"]) if "audit" not in t.user_attrs]
    return bool(others) and all(value < study.value(other.number) for other in others)
