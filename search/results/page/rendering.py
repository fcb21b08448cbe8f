"""The templates of pages, and how values look in them."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def make_environment() -> Environment:
    """Renders the templates; what they are given is escaped."""
    environment = Environment(
        loader=PackageLoader("search.results.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _format_number,
        "brief": _format_briefly,
        "polyline": _draw_polyline,
        "figure_json": _figure_json,
        "script_json": _script_json,
    }
    return environment


def _format_number(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        value = int(value)
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def _format_briefly(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_polyline(values: Sequence[float], low: float, high: float) -> str:
    """Points of an SVG polyline of 100 by 24."""
    height = (high - low) or 1.0
    across = 100 / (len(values) - 1)
    return " ".join(f"{n * across:.1f},{23 - 22 * (value - low) / height:.1f}" for n, value in enumerate(values))


def _figure_json(figure: Any) -> Markup:
    # The template is a style of 7 kB, which the page does not use.
    figure.update_layout(template="none")
    found = json.loads(figure.to_json())
    for name in ("template", "width", "height"):
        found["layout"].pop(name, None)
    return _script_json(found)


def _script_json(value: object) -> Markup:
    """JSON within a script element, which nothing in it can end."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
