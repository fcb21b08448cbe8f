"""What a search has cost, and what stopping early has saved."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from search.studies.search_study import SearchStudy
from search.studies.study import STATES, TrialStudy, device_s_of, reason_of


def sum_costs(study: TrialStudy) -> dict[str, Any]:
    """The runs of a study, also those that an interruption has left, their tokens, and their device seconds; None if
    those were not measured. What runs had ahead of their stop is apart, as "discarded"."""
    runs = study.trials(*STATES, TrialState.RUNNING)
    measured = [device_s for t in runs if (device_s := device_s_of(t)) is not None]
    return {
        "runs": len(runs),
        "tokens": sum(study.tokens(t.number) for t in runs),
        "device_s": sum(measured) if measured else None,
        "discarded": study.discarded,
    }


def sum_savings(study: SearchStudy) -> dict[str, Any]:
    """Tokens that the trials that were stopped early did not train on, and an estimate of the device seconds that these
    would have taken, at each one's own speed; None if one's speed is unknown."""
    tokens, device_s = 0, 0.0
    complete = True
    for trial in study.trials(TrialState.PRUNED):
        trained = study.tokens(trial.number)
        skipped = (study.full_tokens or trained) - trained
        tokens += skipped
        if (trial_s := device_s_of(trial)) is not None and trained:
            device_s += skipped * trial_s / trained
        else:
            complete = False
    return {"tokens": tokens, "device_s": device_s if complete else None}


def tabulate_trials(study: SearchStudy) -> list[dict[str, Any]]:
    """Each trial of a search: what it cost, and its objective in nats, or as the share of right answers; None if it
    failed or was stopped before the objective was known, as what it had until then cannot be compared."""
    objectives = {trial.number: study.told(study.values(trial)[0]) for arm in study.arms for trial in study.ranked(arm)}
    return [
        {
            "number": trial.number,
            "arm": trial.user_attrs["arm"],
            "state": STATES.get(trial.state, "running"),
            "reason": reason_of(trial),
            "tokens": study.tokens(trial.number),
            "device_s": device_s_of(trial),
            "objective": objectives.get(trial.number),
        }
        for trial in study.trials(*STATES, TrialState.RUNNING)
    ]


def describe_costs(entry: Mapping[str, Any]) -> str:
    """One line on what the search of a model has cost, from its entry in summary.json."""
    trained, saved = entry["tokens"]["trained"], entry["tokens"]["saved"]
    parts = [f"{_format_amount(trained, entry['device_s'])} in {_format_count(sum(entry['trials'].values()), 'trial')}"]
    if (confirmation := entry.get("confirmation")) is not None:
        amount = _format_amount(confirmation["tokens"], confirmation["device_s"])
        parts.append(f"{amount} in {_format_count(confirmation['runs'], 'run')} to confirm")
    stopping = []
    if saved:
        hours = f", about {_format_hours(entry['saved_device_s'])}" if entry["saved_device_s"] else ""
        stopping.append(f"stopping early saved {saved:,} tokens ({100 * saved / (trained + saved):.0f} %){hours}")
    # The summary of an older version does not have it.
    if discarded := entry.get("discarded", {}).get("tokens"):
        stopping.append(f"{discarded:,} tokens were trained before their trial's stop was decided")
    if audited := entry["audit"]["audited"]:
        wrong = entry["audit"]["wrong"]
        stopping.append(
            f"{wrong} of {_format_count(audited, 'audited stop')} {'was' if 1 in (wrong, audited) else 'were'} wrong"
        )
    return "; ".join([*parts, ", ".join(stopping)] if stopping else parts)


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format_amount(tokens: int, device_s: float | None) -> str:
    return f"{tokens:,} tokens, {_format_hours(device_s)}" if device_s else f"{tokens:,} tokens"


def _format_hours(device_s: float) -> str:
    for seconds, unit in ((3600, "hours"), (60, "minutes")):
        if device_s >= 2 * seconds:
            return f"{device_s / seconds:,.1f} device {unit}"
    return f"{device_s:.0f} device seconds"
