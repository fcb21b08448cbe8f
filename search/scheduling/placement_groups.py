"""Placement groups that outlive the actor that made them, such as those for the workers of a slot that was killed.

Ray keeps a placement group until the job ends, also when the actor that made it is dead. Ray Train removes those of its
workers by asking Ray's dashboard which actors live; the Ray that a search starts for itself has no dashboard.
"""

import time

import ray
from ray import ActorID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

# A dead actor is known as such within seconds.
_WATCH_S = 60.0
_PAUSE_S = 1.0


class OrphanedGroups:
    """Removes the orphaned placement groups of this job, for a while after an actor died."""

    def __init__(self) -> None:
        self._until = self._next = 0.0

    def expect(self) -> None:
        """An actor that makes placement groups has died."""
        self._until = time.monotonic() + _WATCH_S

    def look(self) -> None:
        """To be called again and again; costs something only after `expect`."""
        now = time.monotonic()
        if self._next <= now < self._until:
            self._next = now + _PAUSE_S
            for group in find_orphaned_groups():
                remove_placement_group(group)


def find_orphaned_groups() -> list[PlacementGroup]:
    """The placement groups of this job whose maker is dead.

    The maker is not in `ray.util.placement_group_table`, but in the message that this is made from. It is not public:
    pyproject.toml holds Ray to the versions that it was tested with. A worker could say which group it is in, but a
    group that still waits for room, or whose workers are starting, has none that could.
    """
    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    orphaned_groups = []
    for message in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(message)
        removed = group.state == gcs_pb2.PlacementGroupTableData.REMOVED
        # A group that no actor but the driver has made has a dead "nil" actor for its maker.
        orphan = group.creator_actor_dead and not ActorID(group.creator_actor_id).is_nil() and not group.is_detached
        if group.creator_job_id == job and orphan and not removed:
            orphaned_groups.append(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return orphaned_groups
