"""What dead actors leave reserved in Ray, and that nothing else is given back."""

import time
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from search.scheduling.placement_groups import OrphanedGroups, find_orphaned_groups
from tests import DEADLINE_S
from tests.clusters import ray_of_a_search

pytestmark = pytest.mark.faults


@ray.remote(num_cpus=0)
class Maker:
    def make(self, cpus: float = 0.1) -> PlacementGroup:
        group = placement_group([{"CPU": cpus}])
        # One that the cluster has no room for takes it when a node joins.
        if cpus < 1:
            ray.get(group.ready())
        return group


def test_only_what_a_dead_actor_reserved_is_given_back(tmp_path: Path) -> None:
    with ray_of_a_search(tmp_path):
        dead, living = Maker.remote(), Maker.remote()  # type: ignore[attr-defined]
        left, waiting, kept = ray.get([dead.make.remote(), dead.make.remote(1000), living.make.remote()])
        ours = placement_group([{"CPU": 0.1}])
        orphans = OrphanedGroups()
        assert find_orphaned_groups() == []
        ray.kill(dead)
        deadline = time.monotonic() + DEADLINE_S
        while not find_orphaned_groups():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert {group.id for group in find_orphaned_groups()} == {left.id, waiting.id}
        # It looks only where something is expected.
        orphans.look()
        assert len(find_orphaned_groups()) == 2
        orphans.expect()
        orphans.look()
        states = [placement_group_table(group)["state"] for group in (left, waiting, kept, ours)]
        assert states == ["REMOVED", "REMOVED", "CREATED", "CREATED"]
        assert find_orphaned_groups() == []
