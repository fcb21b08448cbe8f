"""What a search has cost, and what stopping early has saved."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from search.studies.search_study import SearchStudy
from search.studies.study import STATES, TrialStudy, device_s_of, reason_of


def sum_costs(ledger: TrialStudy) -> dict[str, Any]:
    """The runs of a study that have ended, their tokens, and their device seconds; None if those were not measured."""
    ended = ledger.trials(*STATES)
    measured = [device_s for t in ended if (device_s := device_s_of(t)) is not None]
    return {
        "runs": len(ended),
        "tokens": sum(ledger.tokens(t.number) for t in ended),
        "device_s": sum(measured) if measured else None,
    }


def sum_savings(study: SearchStudy) -> dict[str, Any]:
    """Tokens that the trials that were stopped early did not train on, and an estimate of the device seconds that these
    would have taken, at each one's own speed; None if one's speed is unknown."""
    tokens, device_s = 0, 0.0
    known = True
    for trial in study.trials(TrialState.PRUNED):
        trained = study.tokens(trial.number)
        left = (study.full_tokens or trained) - trained
        tokens += left
        if (took := device_s_of(trial)) is not None and trained:
            device_s += left * took / trained
        else:
            known = False
    return {"tokens": tokens, "device_s": device_s if known else None}


def tabulate_trials(study: SearchStudy) -> list[dict[str, Any]]:
    """Each trial of a search: what it cost, and its objective in nats; None if it failed or was stopped before the
    objective was known, as what it had until then cannot be compared."""
    known = {trial.number: study.values(trial)[0] for arm in study.arms for trial in study.ranked(arm)}
    return [
        {
            "number": trial.number,
            "arm": trial.user_attrs["arm"],
            "state": STATES.get(trial.state, "running"),
            "reason": reason_of(trial),
            "tokens": study.tokens(trial.number),
            "device_s": device_s_of(trial),
            "objective": known.get(trial.number),
        }
        for trial in study.trials(*STATES, TrialState.RUNNING)
    ]


def describe_costs(entry: Mapping[str, Any]) -> str:
    """One line on what the search of a size has cost, from its entry in summary.json."""
    trained, left = entry["tokens"]["trained"], entry["tokens"]["saved"]
    parts = [f"{_amount(trained, entry['device_s'])} in {_count(sum(entry['trials'].values()), 'trial')}"]
    if (confirmation := entry.get("confirmation")) is not None:
        amount = _amount(confirmation["tokens"], confirmation["device_s"])
        parts.append(f"{amount} in {_count(confirmation['runs'], 'run')} to confirm")
    stopping = []
    if left:
        hours = f", about {_hours(entry['saved_device_s'])}" if entry["saved_device_s"] else ""
        stopping.append(f"stopping early saved {left:,} tokens ({100 * left / (trained + left):.0f} %){hours}")
    if audited := entry["audit"]["audited"]:
        wrong = entry["audit"]["wrong"]
        stopping.append(
            f"{wrong} of {_count(audited, 'audited stop')} {'was' if 1 in (wrong, audited) else 'were'} wrong"
        )
    return "; ".join([*parts, ", ".join(stopping)] if stopping else parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _amount(tokens: int, device_s: float | None) -> str:
    return f"{tokens:,} tokens, {_hours(device_s)}" if device_s else f"{tokens:,} tokens"


def _hours(device_s: float) -> str:
    return f"{device_s / 3600:,.2f} device hours" if device_s >= 36 else f"{device_s:.0f} device seconds"
