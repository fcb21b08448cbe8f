"""The page of one trial, which MLflow keeps with it: its curve, its curriculum, and what it drops."""

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Template

from search.results.page.rendering import make_environment
from trainables.curriculum import curriculum_from

if TYPE_CHECKING:
    from search.tracking.entries import Page

# So many that a step looks like one.
_STEPS = 300


@cache
def _template() -> Template:
    return make_environment().get_template("trial.html.j2")


def render_trial(page: "Page") -> str:
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


def _mark(page: "Page") -> list[list[Any]]:
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
