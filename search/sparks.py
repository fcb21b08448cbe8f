"""Curves in one line of characters."""

from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"
# For terminals that have no other characters.
_ASCII_LEVELS = "_.-~+=*#"


def spark(values: Sequence[float], width: int, low: float, high: float, ascii_only: bool = False) -> str:
    """A curve of at most `width` characters, each the mean of its share of the values.

    Args:
        low, high: values that the lowest and the highest character stand for.
    """
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    count = min(width, len(values))
    characters = []
    for n in range(count):
        share = values[n * len(values) // count : (n + 1) * len(values) // count]
        height = (sum(share) / len(share) - low) / (high - low) if high > low else 0.0
        characters.append(levels[min(len(levels) - 1, max(0, int(height * len(levels))))])
    return "".join(characters)
