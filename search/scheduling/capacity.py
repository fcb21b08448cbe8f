"""How many slots a cluster has room for, which changes as nodes come and go, and the nodes that it is asked for."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from search.hardware import count_workers

_PAUSE_S = 2.0
# Slots that nodes are asked for at the same time.
_MOST_CLAIMS = 8
# What a claim was given is left to the slot that it was made for, which takes some seconds to start.
_REST_S = 30.0


@dataclass(frozen=True)
class SlotResources:
    """What a slot takes: so many workers, with so many CPUs and GPUs, or a share of a GPU, each, and whether they lie
    on few nodes ("pack") or on many ("spread")."""

    workers: int
    cpus: float
    gpus: float
    placement: str = "pack"


def count_slots(nodes: Iterable[Mapping[str, float]], need: SlotResources) -> int:
    """How many slots fit on nodes with these resources; a worker is on one node, a slot may be on several."""
    return count_workers(nodes, need.cpus, need.gpus) // need.workers


class SlotCapacity:
    """The slots that a search has: as many as it wants, or as the cluster has room for; for the others it asks the
    cluster's autoscaler, if there is one, for nodes.

    Args:
        wanted: slots.
        patience_s: seconds that lost nodes are waited for; with fewer slots a search may come to other settings.
    """

    def __init__(
        self, wanted: int, need: SlotResources, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wanted, self._need, self._patience_s, self._clock = wanted, need, patience_s, clock
        self._claims = _PendingReservations(need, clock)
        self._slots, self._next = wanted, 0.0
        # What is not there from the beginning is not waited for.
        self._enough_at = clock() - patience_s

    def slots(self) -> int:
        """The slots to use at this moment, at least one; to be called again and again."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _PAUSE_S
            fit = min(self._wanted, count_slots((n["Resources"] for n in ray.nodes() if n["Alive"]), self._need))
            if fit >= self._slots:
                self._enough_at = now
            if fit >= self._slots or now - self._enough_at >= self._patience_s:
                self._slots = max(1, fit)
            # A slot that waits for its workers is itself what the autoscaler sees.
            self._claims.keep(self._wanted - max(fit, self._slots))
        return self._slots

    def close(self) -> None:
        """Asks for no more nodes."""
        self._claims.keep(0)


class _PendingReservations:
    """Placement groups that wait for room, each that of a slot: what an autoscaler starts nodes for.

    `ray.autoscaler.sdk.request_resources` would keep its nodes after a driver that was killed; these go with it.
    """

    def __init__(self, need: SlotResources, clock: Callable[[], float]) -> None:
        self._need, self._clock = need, clock
        self._groups: list[PlacementGroup] = []
        self._rest_until = 0.0

    def keep(self, number: int) -> None:
        """Claims room for so many slots, to be called again and again; gives back what was granted."""
        granted = [group for group in self._groups if group.wait(0)]
        if granted:
            self._rest_until = self._clock() + _REST_S
        waiting = [group for group in self._groups if group not in granted]
        number = max(0, min(number, _MOST_CLAIMS))
        for group in (*granted, *waiting[number:]):
            remove_placement_group(group)
        self._groups = waiting[:number]
        if self._clock() >= self._rest_until:
            need = self._need
            kinds = {kind: each for kind, each in (("CPU", need.cpus), ("GPU", need.gpus)) if each}
            for _ in range(number - len(self._groups)):
                self._groups.append(placement_group([kinds] * need.workers, need.placement.upper()))
