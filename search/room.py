"""How many slots a cluster has room for, which changes as nodes come and go."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ray

from search.machine import served

_PAUSE_S = 2.0


@dataclass(frozen=True)
class Need:
    """What a slot takes: so many workers, with so many CPUs and GPUs, or a share of a GPU, each."""

    workers: int
    cpus: float
    gpus: float


def slots_that_fit(nodes: Iterable[Mapping[str, float]], need: Need) -> int:
    """How many slots fit on nodes with these resources; a worker is on one node, a slot may be on several."""
    kinds = [(kind, each) for kind, each in (("CPU", need.cpus), ("GPU", need.gpus)) if each]
    workers = sum(min(math.floor(served(node.get(kind, 0.0), each)) for kind, each in kinds) for node in nodes)
    return workers // need.workers


class Room:
    """The slots that a search has: as many as it wants, or as the cluster has room for.

    Args:
        wanted: slots.
        patience_s: seconds that lost nodes are waited for; with fewer slots a search may come to other settings.
    """

    def __init__(self, wanted: int, need: Need, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._wanted, self._need, self._patience_s, self._clock = wanted, need, patience_s, clock
        self._slots, self._next = wanted, 0.0
        # What is not there from the beginning is not waited for.
        self._enough_at = clock() - patience_s

    def slots(self) -> int:
        """The slots to use at this moment, at least one; to be called again and again."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _PAUSE_S
            fit = min(self._wanted, slots_that_fit((n["Resources"] for n in ray.nodes() if n["Alive"]), self._need))
            if fit >= self._slots:
                self._enough_at = now
            if fit >= self._slots or now - self._enough_at >= self._patience_s:
                self._slots = max(1, fit)
        return self._slots
