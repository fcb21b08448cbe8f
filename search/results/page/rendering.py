"""The templates of pages, and how values look in them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# By so much of its height of 24 a sparkline may be off.
_UNSEEN = 0.2
# So many parts of a line can be seen in its width of 100.
_MOST = 200


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
        "loss": _format_loss,
        "texts": _format_rows,
        "brief": _format_briefly,
        "rounded": round_for_page,
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


def _format_loss(value: float) -> str:
    return f"{value:.4f}"


def _format_rows(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    """Rows of text, in which the numbers of a column have the same digits: 5.0000 beside 4.9000."""
    fractions = [any(isinstance(v, float) and not v.is_integer() for v in column) for column in zip(*rows, strict=True)]
    return [
        [
            _format_loss(cell) if fraction and isinstance(cell, float) and cell.is_integer() else _format_number(cell)
            for cell, fraction in zip(row, fractions, strict=True)
        ]
        for row in rows
    ]


def _format_briefly(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_polyline(values: Sequence[float], low: float, high: float) -> str:
    """Points of an SVG polyline of 100 by 24, no more than its shape needs."""
    height, last = (high - low) or 1.0, len(values) - 1
    places = range(len(values)) if last < _MOST else [round(n * last / _MOST) for n in range(_MOST + 1)]
    points = [(100 * n / last, 23 - 22 * (values[n] - low) / height) for n in places]
    return " ".join(f"{x:.0f},{y:.3g}" for x, y in _simplify(points))


def _simplify(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those that hardly leave the line between the ones that stay (Ramer, Douglas and Peucker)."""
    (x, y), (right, bottom) = points[0], points[-1]
    slope = (bottom - y) / (right - x)
    off = [abs(here_y - y - slope * (here_x - x)) for here_x, here_y in points]
    if max(off) <= _UNSEEN:
        return [points[0], points[-1]]
    farthest = off.index(max(off))
    return _simplify(points[: farthest + 1])[:-1] + _simplify(points[farthest:])


def round_for_page(value: Any) -> Any:
    """A value, or all values within lists and mappings, with six digits: more than a picture can show."""
    if isinstance(value, Mapping):
        return {key: round_for_page(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [round_for_page(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


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
