"""Where actors are placed."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def this_node() -> NodeAffinitySchedulingStrategy:
    """On the node of the process that asks: for an actor that it needs, and that must not die with another node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
