"""The page of one trial, which MLflow keeps with it: its curve, its curriculum, and what it drops."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from trainables.curriculum import curriculum_from

if TYPE_CHECKING:
    from jinja2 import Template

# So many that a step looks like one.
_STEPS = 300


@dataclass(frozen=True)
class TrialPage:
    """What the page of a trial shows; it is drawn when MLflow takes it.

    Attributes:
        title: the trial's name.
        losses: held-out, high-entropy, in nats, by tokens.
        full_tokens: of a trial that is not stopped early.
        curriculum: as the space has it; None without one.
        documents: see DataPrepared.
        metrics: of its first evaluation.
    """

    title: str
    losses: Mapping[int, float]
    full_tokens: int
    curriculum: Mapping[str, Any] | None
    documents: Sequence[Sequence[Any]]
    metrics: Mapping[str, float]


@cache
def _template() -> "Template":
    # A search that is only planned needs no templates.
    from search.results.page.rendering import make_environment

    return make_environment().get_template("trial.html.j2")


def render_trial(page: TrialPage) -> str:
    """The page as one HTML file that loads nothing."""
    full = max(page.full_tokens, *page.losses)
    strength = curriculum_from(page.curriculum) if page.curriculum is not None else None
    return _template().render(
        title=page.title,
        full_tokens=full,
        losses=list(page.losses.values()),
        curve=[(tokens / full, loss) for tokens, loss in page.losses.items()],
        curriculum=[(n / _STEPS, strength(n / _STEPS)) for n in range(_STEPS + 1)] if strength is not None else [],
        documents={"tokens": _mark(page), "share": page.metrics.get("full_mask_rate", 0.0)},
    )


def _mark(page: TrialPage) -> list[list[Any]]:
    """The documents with the tokens that the schedule may drop as candidates."""
    metrics = page.metrics
    if "full_mask_rate" not in metrics:
        return [list(tokens) for tokens in page.documents]
    # Of as many digits as the documents have.
    least = round(metrics.get("least_dropped_entropy", -math.inf), 6)
    greatest = round(metrics.get("greatest_dropped_entropy", math.inf), 6)
    return [
        [
            (text, entropy, "candidate" if kind == "learned" and least <= entropy <= greatest else kind)
            for text, entropy, kind in tokens
        ]
        for tokens in page.documents
    ]
