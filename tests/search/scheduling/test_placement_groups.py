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
    def make(self) -> PlacementGroup:
        group = placement_group([{"CPU": 0.1}])
        ray.get(group.ready())
        return group


def test_only_what_a_dead_actor_reserved_is_given_back(tmp_path: Path) -> None:
    with ray_of_a_search(tmp_path):
        dead, living = Maker.remote(), Maker.remote()  # type: ignore[attr-defined]
        left, kept = ray.get([dead.make.remote(), living.make.remote()])
        ours = placement_group([{"CPU": 0.1}])
        orphans = OrphanedGroups()
        assert find_orphaned_groups() == []
        ray.kill(dead)
        deadline = time.monotonic() + DEADLINE_S
        while not find_orphaned_groups():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert find_orphaned_groups() == [left]
        # It looks only where something is expected.
        orphans.look()
        assert find_orphaned_groups() == [left]
        orphans.expect()
        orphans.look()
        states = [placement_group_table(group)["state"] for group in (left, kept, ours)]
        assert states == ["REMOVED", "CREATED", "CREATED"]
        assert find_orphaned_groups() == []
