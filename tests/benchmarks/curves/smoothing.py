"""A table of curves without its noise: a Gaussian process over the settings, by what their schedules do.

Shapes: S settings, D numbers of a setting.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from tests.benchmarks.curves.table import table_of
from trainables.curriculum import curriculum_from

Array = NDArray[np.float64]

# Progress at which a schedule's strength is read.
_PROGRESS = (0.125, 0.375, 0.625, 0.875)
# Settings that are far behind would stretch the scale of all others.
_KEPT = 0.9


def encode(params: dict[str, Any]) -> list[float]:
    """A setting as numbers: its learning rate, its entropy threshold, and the share that is dropped along the way."""
    shape = params.get("curriculum.shape")
    ratio, threshold = params.get("mask_ratio", 0.0), params.get("entropy_threshold.quantile", 0.55)
    strengths = [0.0] * len(_PROGRESS)
    if shape is not None:
        prefix = f"curriculum.{shape}."
        own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
        curriculum = curriculum_from({"shape": shape, **own})
        strengths = [ratio * curriculum(progress) for progress in _PROGRESS]
    return [math.log(params["learning_rate"]), threshold, *strengths]


@cache
def smoothed(model: str, objective: str) -> dict[int, float]:
    """Each setting's objective, in nats: the mean of a Gaussian process with a squared exponential kernel and a length
    for each number, of greatest marginal likelihood (Rasmussen and Williams 2006, 5.4)."""
    table = table_of(model)
    order = sorted(table.curves)
    point_SD = np.array([encode(table.params[setting]) for setting in order])
    point_SD = (point_SD - point_SD.mean(axis=0)) / point_SD.std(axis=0)
    value_S = np.array([table.curves[setting].value(objective) for setting in order])
    kept_S = value_S <= np.quantile(value_S, _KEPT)
    mean, spread = value_S[kept_S].mean(), value_S[kept_S].std()
    known_S = (value_S[kept_S] - mean) / spread
    squared_DSS = ((point_SD[:, None] - point_SD[kept_S]) ** 2).transpose(2, 0, 1)

    def solved(logs: Array) -> tuple[Array, Array, Array]:
        """Covariances of all settings with the known ones, the Cholesky factor of the latter's, and their weights."""
        covariance_SS = np.exp(logs[0] - np.tensordot(np.exp(logs[2:]), squared_DSS, 1))
        factor = cho_factor(covariance_SS[kept_S] + np.exp(logs[1]) * np.eye(len(known_S)), lower=True)
        return covariance_SS, factor[0], cho_solve(factor, known_S)

    def unlikely(logs: Array) -> float:
        _, lower, weight_S = solved(logs)
        return float(known_S @ weight_S / 2 + np.log(np.diag(lower)).sum())

    start = np.array([0.0, -1.0, *[-2.0] * len(squared_DSS)])
    logs = minimize(unlikely, start, method="L-BFGS-B", bounds=[(-8.0, 4.0)] * len(start)).x
    covariance_SS, _, weight_S = solved(logs)
    return dict(zip(order, map(float, mean + spread * covariance_SS @ weight_S), strict=True))
