"""A search on a Ray cluster of several nodes that loses a slot, and then a node with all that is on it."""

import os
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from search.cluster import ray_environment
from tests.searches import Searches, workers_and_slots

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs."""
    for name, value in ray_environment(2).items():
        monkeypatch.setenv(name, value)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield started
    started.shutdown()


def test_a_killed_slot_and_a_killed_node_cost_no_trial(
    searches: Searches, whole: tuple[str, str], cluster: Cluster
) -> None:
    doomed, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    process = searches.start("nodes", address=cluster.address)
    searches.wait_for_evaluations("nodes", 3, process)
    workers, slots = workers_and_slots(os.getpid())
    assert len(workers) == len(slots) == 2
    slots[0].kill()
    searches.wait_for_evaluations("nodes", 15, process)
    cluster.remove_node(doomed, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    for study in ("builtin/nano", "builtin/nano/confirmation"):
        assert searches.table("nodes", study) == searches.table("whole", study)
