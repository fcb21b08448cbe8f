"""PNG figures that look alike: one palette, panels side by side, legends below them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.storage.files import replace_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# They differ from each other on white and on black.
COLOURS = ("#d1495b", "#0f8fa6", "#c98a1b", "#9b5de5", "#4f9d6e", "#6b7fa3", "#b0708f")
GREY = "#808080"
_COLUMNS = 3
# Characters above and below a panel.
_LONGEST_TITLE, _LONGEST_LABEL = 32, 50


def make_panels(titles: Sequence[str], width: float = 5.2, height: float = 4.2) -> tuple["Figure", list[Any]]:
    """A figure with a panel for each title, in rows of at most three.

    Args:
        width, height: of a panel, in inches.
    """
    # It takes a second to load.
    from matplotlib.figure import Figure

    columns = min(len(titles), _COLUMNS)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(titles) :]:
        panel.remove()
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(shorten(title, _LONGEST_TITLE), fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[: len(titles)]


def shorten(text: str, most: int) -> str:
    """A text of at most so many characters, without its middle if it is longer."""
    return text if len(text) <= most else f"{text[: (most - 1) // 2]}…{text[-(most // 2) :]}"


def draw_legend(panel: Any) -> None:
    """Draws the legend below the panel, where it hides nothing."""
    lines, labels = panel.get_legend_handles_labels()
    shown = [shorten(label, _LONGEST_LABEL) for label in labels]
    columns = 2 if max(map(len, shown)) <= _LONGEST_LABEL // 2 else 1
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 4.0}
    panel.legend(lines, shown, frameon=False, fontsize="small", ncols=columns, **below)


def write_png(path: Path, figure: "Figure") -> None:
    replace_atomic(path, partial(figure.savefig, dpi=130, format="png"))
