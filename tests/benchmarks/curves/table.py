"""The table of complete learning curves, as a stand-in for training: a setting has the curve of the nearest one in it.

Shapes: S settings of one curriculum shape, D searched numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.studies.study import objective_value
from tests.benchmarks.curves.make import CURVES

SHAPE = "curriculum.shape"
# Searched on a logarithmic scale in space.yaml.
_LOGARITHMIC = ("learning_rate", "curriculum.sigmoid.steepness")


@dataclass(frozen=True)
class Curve:
    """A setting's evaluations to its end; losses in nats."""

    setting: int
    tokens: list[int]
    losses: list[float]

    def value(self, objective: str) -> float:
        return objective_value(objective, self.losses)


class Table:
    """The curves of one model; setting 0 is the baseline."""

    def __init__(self, model: str) -> None:
        self.model = model
        rows = [row for row in pq.read_table(CURVES).to_pylist() if row["model"] == model]
        self.curves = {r["setting"]: Curve(r["setting"], r["tokens"], r["high_entropy_loss"]) for r in rows}
        self.full_tokens = rows[0]["tokens"][-1]
        params = self.params = {row["setting"]: json.loads(row["params"]) for row in rows}
        shapes = {values.get(SHAPE) for values in params.values()}
        self._settings = {s: [n for n, values in params.items() if values.get(SHAPE) == s] for s in shapes}
        self._names = {s: [n for n in sorted(params[of[0]]) if n != SHAPE] for s, of in self._settings.items()}
        self._point_SD = {s: np.array([self._point(s, params[n]) for n in of]) for s, of in self._settings.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of a search shares its table.
        return table_of, (self.model,)

    def _point(self, shape: str | None, params: Mapping[str, Any]) -> NDArray[np.float64]:
        return np.array([np.log(params[n]) if n in _LOGARITHMIC else params[n] for n in self._names[shape]])

    def nearest(self, params: Mapping[str, Any]) -> Curve:
        """The curve of the setting with the same shape that is nearest, each number scaled by its spread."""
        shape = params.get(SHAPE)
        if shape is None:
            return self.curves[0]
        point_SD = self._point_SD[shape]
        distance_S = (((point_SD - self._point(shape, params)) / point_SD.std(axis=0)) ** 2).sum(axis=1)
        return self.curves[self._settings[shape][int(distance_S.argmin())]]

    def best(self, objective: str) -> float:
        """The least objective of all settings, in nats."""
        return min(curve.value(objective) for curve in self.curves.values())


@cache
def table_of(model: str) -> Table:
    return Table(model)
