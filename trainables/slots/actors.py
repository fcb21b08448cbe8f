"""How Ray says that an actor has died, and why; and what the kernel says of it."""

from pathlib import Path

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# The second is what calls to an actor raise that Ray's memory monitor has ended; it is not one of the first.
ACTOR_DIED = (RayActorError, OutOfMemoryError)
_LOW_MEMORY = "running low on memory"
_VMSTAT = Path("/proc/vmstat")


def died_for_memory(error: Exception) -> bool:
    """Whether Ray ended the actor for want of the node's memory."""
    return isinstance(error, OutOfMemoryError) or (isinstance(error, RayActorError) and _LOW_MEMORY in str(error))


def count_kernel_kills() -> int:
    """How many processes this machine's kernel has ended for want of memory so far, in whichever container; 0
    where it does not say."""
    try:
        lines = _VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def died_by_preemption(error: Exception | None) -> bool:
    """Whether the cluster took the actor's node away."""
    return isinstance(error, RayActorError) and bool(error.preempted)


def describe_death(error: Exception) -> str:
    """What Ray says of it, in a line: the rest of its message is for those who work on Ray."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # The line on want of memory says how much there is; otherwise the last one begins with the cause.
    memory = next((line for line in lines if _LOW_MEMORY in line), None)
    return (memory or lines[-1].partition(". ")[0]).strip()


def place_on_this_node() -> NodeAffinitySchedulingStrategy:
    """On the node of the process that asks: for an actor that it needs, and that must not die with another node."""
    return place_on_node(ray.get_runtime_context().get_node_id())


def place_on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)
