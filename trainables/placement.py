"""Where actors are placed."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def this_node() -> NodeAffinitySchedulingStrategy:
    """On the node of the process that asks: for an actor of which it has need, and that may not die with another."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
