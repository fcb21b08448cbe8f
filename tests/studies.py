"""Studies fed with made-up losses instead of trained ones, as search/scheduling/trial_loop.py feeds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.space import Space
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate, TrialStudy

MODEL = "builtin/nano"
FULL_TOKENS = 800
NOTHING_SEARCHED: dict[str, Any] = {
    "entropy_threshold": {"quantile": 0.5},
    "mask_ratio": 0.4,
    "curriculum": {"shape": "step", "at": 0.3},
}
ONE_SEARCHED = NOTHING_SEARCHED | {"mask_ratio": {"low": 0.1, "high": 0.9}}


def space(**changes: Any) -> Space:
    """Eight trials of eight epochs, of which none is stopped early; three seeds confirm."""
    data = {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": 6}
    common = {
        "models": [MODEL],
        "data": data,
        "budget": {"trials": 8, "epochs": 8},
        "schedule": ONE_SEARCHED,
        "early_stopping": {"pruner": "none", "patience": None},
        "confirmation": {"seeds": 3},
    }
    return Space.model_validate(common | changes)


def search(folder: Path, model: str = MODEL, smaller: SearchStudy | None = None, **changes: Any) -> SearchStudy:
    """The search of a model in the journal in `folder`, new or reopened."""
    opened = SearchStudy(open_journal(folder / "study.journal"), model, space(**changes), smaller)
    opened.set_full_tokens(FULL_TOKENS)
    return opened


def ask(study: TrialStudy) -> Candidate:
    candidate = study.ask()
    assert candidate is not None
    return candidate


def run(study: TrialStudy, candidate: Candidate, losses: list[float], **others: list[float]) -> str:
    """Reports the losses, evenly spaced, as long as the study lets the trial go on. Returns how it ended."""
    count = len(losses)
    for i in range(len(study.losses(candidate.number)), count):
        metrics = {"tokens": FULL_TOKENS * (i + 1) / count, "high_entropy_loss": losses[i]}
        metrics |= {measure: values[i] for measure, values in others.items()}
        if reason := study.report(candidate.number, metrics):
            study.tell(candidate.number, TrialState.PRUNED, reason)
            return reason
    study.tell(candidate.number, TrialState.COMPLETE)
    return "complete"


def fail(study: TrialStudy, candidate: Candidate) -> None:
    study.tell(candidate.number, TrialState.FAIL, "nan")


def run_all(study: TrialStudy, loss: Callable[[Candidate], float], evaluations: int = 8) -> list[Candidate]:
    """Runs all trials that the study asks for, each with one loss at every evaluation."""
    candidates = []
    while (candidate := study.ask()) is not None:
        candidates.append(candidate)
        run(study, candidate, [loss(candidate)] * evaluations)
    return candidates
