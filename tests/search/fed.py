"""Model sizes of a search whose trials are not trained: their losses are made up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from search.results.model_result import ModelResult
from search.space import Space
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage, open_journal
from search.studies.study import Candidate, TrialStudy

EPOCHS = 8
FULL_TOKENS = 800
DOCUMENTS = 20
ARMS: list[dict[str, Any]] = [
    {"name": "none", "schedule": None},
    {"name": "entrodrop"},
    {"name": "weight-decay", "schedule": None, "training": {"weight_decay": {"low": 0.01, "high": 1.0, "log": True}}},
    {"name": "random-tokens", "schedule": {"tokens": "random"}},
]
# Test loss against no dropout, in nats.
EFFECTS = {"none": 0.0, "entrodrop": -0.3, "weight-decay": 0.0, "random-tokens": 0.4}

Losses = Callable[[Candidate], list[float]]


def space(**changes: Any) -> Space:
    common = {
        "name": "fed",
        "models": ["builtin/nano"],
        "data": {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": DOCUMENTS},
        "budget": {"trials": 8, "epochs": EPOCHS},
        "early_stopping": {"audit": 0.0},
        "confirmation": {"seeds": 3},
    }
    return Space.model_validate(common | changes)


def curve(candidate: Candidate) -> list[float]:
    """Falls for three epochs, then rebounds for five; each trial has its own depth."""
    best = 5.0 + candidate.number * 7 % 5 / 10 + EFFECTS[candidate.arm]
    return [best + 0.2, best + 0.1, best, *(best + 0.2 * epoch for epoch in range(1, 6))]


def fed(
    where: Path | StudyStorage, asked: Space, model: str = "builtin/nano", losses: Losses = curve, confirm: bool = True
) -> ModelResult:
    """A size whose search has ended, and its confirmation if the space asks for one and `confirm` is true.

    Args:
        where: a folder for the journal, or a database.
    """
    studies = open_journal(where / "study.journal") if isinstance(where, Path) else where
    searched = SearchStudy(studies, model, asked)
    _run(searched, losses)
    confirmed = Confirmation(studies, searched, asked) if asked.confirmation is not None else None
    if confirmed is not None and confirm:
        _run(confirmed, losses)
    return ModelResult(searched, confirmed)


def _run(study: TrialStudy, losses: Losses) -> None:
    study.set_full_tokens(FULL_TOKENS)
    while (candidate := study.ask()) is not None:
        state, reason = TrialState.COMPLETE, None
        for epoch, loss in enumerate(losses(candidate), 1):
            tokens = FULL_TOKENS // EPOCHS * epoch
            # What is easy gets better where what is hard gets worse.
            metrics = {"tokens": tokens, "high_entropy_loss": loss, "low_entropy_loss": 9.0 - loss + epoch / 10}
            metrics["seconds"] = 1.25
            if (reason := study.report(candidate.number, metrics)) is not None:
                state = TrialState.PRUNED
                break
        if candidate.test:
            study.conclude(candidate.number, {"best": _test(candidate, 5.0), "final": _test(candidate, 6.0)})
        study.tell(candidate.number, state, reason)


def _test(candidate: Candidate, loss: float) -> dict[str, Any]:
    """Losses of documents of ten tokens each, with noise of a tenth of a nat."""
    noise = np.random.default_rng(candidate.number).normal(0, 0.1, DOCUMENTS)
    sums = (10 * (loss + EFFECTS[candidate.arm] + noise)).tolist()
    return {"test": {"high_entropy_loss": {"sums": sums, "counts": [10.0] * DOCUMENTS}}}
