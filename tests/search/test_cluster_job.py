"""A search on a Ray cluster of several nodes that loses a slot, and node after node with all that is on it."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from search.cluster import ray_environment
from tests.searches import Searches, workers_and_slots

pytestmark = pytest.mark.integration

# A node that is gone is missed within seconds.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs."""
    for name, value in ray_environment(2).items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()


def test_a_killed_slot_and_lost_nodes_cost_no_trial(
    searches: Searches, whole: tuple[str, str], cluster: Cluster
) -> None:
    spot, doomed = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    process = searches.start("nodes", "--set", "faults.restarts=1", address=cluster.address)
    searches.wait_for_evaluations("nodes", 3, process)
    workers, slots = workers_and_slots(os.getpid())
    assert len(workers) == len(slots) == 2
    slots[0].kill()
    # No fault of the trial, which could not afford another one.
    searches.wait_for_evaluations("nodes", 5, process)
    take_away(cluster, spot)
    cluster.add_node(num_cpus=1)
    searches.wait_for_evaluations("nodes", 17, process)
    cluster.remove_node(doomed, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    for study in ("builtin/nano", "builtin/nano/confirmation"):
        assert searches.table("nodes", study) == searches.table("whole", study)


def take_away(cluster: Cluster, node: Any) -> None:
    """Ends a node as an autoscaler does that loses a spot instance: it says so before."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(time.time() * 1000) + 1
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why
    cluster.remove_node(node, allow_graceful=False)
