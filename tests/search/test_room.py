from typing import Any
from unittest import mock

import pytest

from search.machine import served
from search.room import Need, Room, slots_that_fit

NODES = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 2.0}, {"memory": 8.0}]


@pytest.mark.parametrize(
    ("need", "fit"),
    [
        (Need(1, 1, 0), 5),
        (Need(2, 1, 0), 2),
        (Need(1, 2, 0), 2),
        (Need(1, 1, 1), 3),
        (Need(2, 1, 1), 1),
        (Need(1, 1, 0.25), 5),
        (Need(1, 0.25, 0.6), 4),
        (Need(1, 0.25, 0.3), 10),
        (Need(6, 1, 0), 0),
    ],
)
def test_a_slot_may_lie_on_several_nodes_but_a_worker_on_one(need: Need, fit: int) -> None:
    assert slots_that_fit(NODES, need) == fit


@pytest.mark.parametrize("parts", range(1, 100))
def test_a_gpu_serves_as_many_as_it_is_cut_for(parts: int) -> None:
    assert served(2.0, 1 / parts) == 2 * parts


class _Cluster:
    """Nodes of one CPU each, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
        self.nodes, self.now = nodes, 0.0
        monkeypatch.setattr("search.room.ray", mock.Mock(nodes=self._nodes))
        self.room = Room(2, Need(1, 1, 0), patience_s=60.0, clock=lambda: self.now)

    def _nodes(self) -> list[dict[str, Any]]:
        alive = [{"Alive": True, "Resources": {"CPU": 1.0}}] * self.nodes
        return [*alive, {"Alive": False, "Resources": {"CPU": 9.0}}]

    def slots(self, nodes: int, later_s: float) -> int:
        self.nodes = nodes
        self.now += later_s
        return self.room.slots()


def test_lost_nodes_are_waited_for_before_there_are_fewer_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, nodes=2)
    assert cluster.slots(2, 5) == 2
    assert cluster.slots(1, 50) == 2
    # It came back in time; the next one does not.
    assert cluster.slots(2, 5) == 2
    assert cluster.slots(1, 50) == 2
    assert cluster.slots(1, 15) == 1
    # One slot stays, and waits for a node.
    assert cluster.slots(0, 100) == 1
    # Nodes that join are used at once, as far as the search wants them.
    assert cluster.slots(3, 5) == 2
