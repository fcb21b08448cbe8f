import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from search.hardware import count_served
from search.scheduling.capacity import SlotCapacity, SlotResources, count_slots
from tests import DEADLINE_S
from tests.clusters import Cluster

NODES = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 2.0}, {"memory": 8.0}]


@pytest.mark.parametrize(
    ("need", "fit"),
    [
        (SlotResources(1, 1, 0), 5),
        (SlotResources(2, 1, 0), 2),
        (SlotResources(1, 2, 0), 2),
        (SlotResources(1, 1, 1), 3),
        (SlotResources(2, 1, 1), 1),
        (SlotResources(1, 1, 0.25), 5),
        (SlotResources(1, 0.25, 0.6), 4),
        (SlotResources(1, 0.25, 0.3), 10),
        (SlotResources(6, 1, 0), 0),
    ],
)
def test_a_slot_may_lie_on_several_nodes_but_a_worker_on_one(need: SlotResources, fit: int) -> None:
    assert count_slots(NODES, need) == fit


def test_a_gpu_serves_as_many_as_it_is_cut_for() -> None:
    assert [count_served(2.0, 1 / parts) for parts in range(1, 100)] == [2 * parts for parts in range(1, 100)]


NEED = SlotResources(1, 1, 0)


class _Claim:
    """A placement group."""

    def __init__(self, bundles: list[dict[str, float]], strategy: str) -> None:
        self.bundles, self.strategy, self.granted = bundles, strategy, False

    def wait(self, timeout_seconds: float) -> bool:
        assert timeout_seconds == 0
        return self.granted


class _Cluster:
    """Nodes of one CPU each, claims, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: int, slots: int = 2, need: SlotResources = NEED) -> None:
        self.nodes, self.now = nodes, 0.0
        self.claims: list[_Claim] = []
        monkeypatch.setattr("search.scheduling.capacity.ray", mock.Mock(nodes=self._nodes))
        monkeypatch.setattr("search.scheduling.capacity.placement_group", self._claimed)
        monkeypatch.setattr("search.scheduling.capacity.remove_placement_group", self.claims.remove)
        self.room = SlotCapacity(slots, need, patience_s=60.0, clock=lambda: self.now)

    def _claimed(self, *arguments: Any) -> _Claim:
        self.claims.append(_Claim(*arguments))
        return self.claims[-1]

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


def test_nodes_are_asked_for_until_there_are_slots_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, nodes=0, slots=4)
    # One slot there always is, and waits for room itself.
    assert cluster.slots(0, 5) == 1
    assert len(cluster.claims) == 3
    assert cluster.slots(0, 1000) == 1
    assert len(cluster.claims) == 3
    # What is granted is left to a slot, and claimed again only if it was not enough.
    cluster.claims[0].granted = True
    assert cluster.slots(2, 5) == 2
    assert [claim.granted for claim in cluster.claims] == [False, False]
    cluster.claims[0].granted = True
    assert cluster.slots(2, 5) == 2
    assert len(cluster.claims) == 1
    assert cluster.slots(2, 40) == 2
    assert len(cluster.claims) == 2
    assert cluster.slots(4, 5) == 4
    assert cluster.claims == []
    # A slot that lost its node waits for another one by itself, until it is given up.
    assert cluster.slots(3, 50) == 4
    assert cluster.claims == []
    assert cluster.slots(3, 50) == 3
    assert len(cluster.claims) == 1
    cluster.room.close()
    assert cluster.claims == []


def test_a_claim_is_what_a_slot_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, nodes=0, slots=100, need=SlotResources(2, 4, 0.5, "spread"))
    cluster.slots(0, 5)
    assert [(claim.bundles, claim.strategy) for claim in cluster.claims] == [
        ([{"CPU": 4, "GPU": 0.5}] * 2, "SPREAD")
    ] * 8


SCRIPT = """
import sys, time
from pathlib import Path
from search.cluster.ray_runtime import join_or_start_ray
from search.environment import set_ray_environment
set_ray_environment()
import ray
from search.scheduling.capacity import SlotCapacity, SlotResources

@ray.remote(num_cpus=1)
class Slot:
    def placed(self):
        return True

with join_or_start_ray(Path(sys.argv[1])):
    print("CPUs", ray.cluster_resources().get("CPU", 0))
    deadline_s = float(sys.argv[2])
    capacity, slots, ends = SlotCapacity(2, SlotResources(1, 1, 0), 60.0), [], time.monotonic() + deadline_s
    while len(slots) < 2 and time.monotonic() < ends:
        slots += [Slot.remote() for _ in range(capacity.slots() - len(slots))]
        time.sleep(1)
    print("placed", ray.get([slot.placed.remote() for slot in slots], timeout=deadline_s))
    capacity.close()
"""


@pytest.mark.cluster
def test_an_autoscaler_brings_the_nodes_of_a_cluster_that_begins_without_any(tmp_path: Path) -> None:
    with Cluster(scales=True) as cluster:
        environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(DEADLINE_S)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * DEADLINE_S)
    assert done.stdout.splitlines() == ["CPUs 0", "placed [True, True]"], done.stderr
