"""How the best settings move with the size of the model, and what that says of a size that was not searched."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FEWEST_SIZES = 3
_CONFIDENCE = 0.95


def fit_size_trend(best: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Any] | None:
    """The best settings by size, and an extrapolation from three sizes on.

    A straight line in the logarithm of the size, with its prediction interval for one more size: as much larger than
    the largest as that is than the next smaller one.

    Args:
        best: for each model how many parameters it has, and the numbers among its best settings; those that all models
            have are looked at.

    Returns:
        None with fewer than two sizes. Otherwise sizes, settings (for each its values), and extrapolation: None, or its
        size and for each setting its value and the interval (low, high), not kept to what is allowed.
    """
    if len(best) < 2:
        return None
    ordered = sorted(best, key=lambda model: model[0])
    sizes = [size for size, _ in ordered]
    common = [name for name in ordered[0][1] if all(name in numbers for _, numbers in ordered)]
    settings = {name: [numbers[name] for _, numbers in ordered] for name in common}
    extrapolation = None
    if len(distinct := sorted(set(sizes))) >= _FEWEST_SIZES:
        larger = round(distinct[-1] * distinct[-1] / distinct[-2])
        predicted = {name: _predict(sizes, values, larger) for name, values in settings.items()}
        extrapolation = {"size": larger, "confidence": _CONFIDENCE, "settings": predicted}
    return {"sizes": sizes, "settings": settings, "extrapolation": extrapolation}


def _predict(sizes: Sequence[int], values: Sequence[float], size: int) -> dict[str, float]:
    from scipy import stats

    x, y, at = np.log(sizes), np.array(values), math.log(size)
    line = stats.linregress(x, y)
    middle = float(line.intercept + line.slope * at)
    degrees = len(x) - 2
    spread = float(np.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / degrees))
    leverage = 1 + 1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    error = float(stats.t.ppf((1 + _CONFIDENCE) / 2, degrees)) * spread * math.sqrt(leverage)
    return {"value": middle, "low": middle - error, "high": middle + error}
