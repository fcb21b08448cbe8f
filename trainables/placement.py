"""Where actors and tasks are placed."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def this_node() -> NodeAffinitySchedulingStrategy:
    """On the node of the process that asks: for an actor that it needs, and that must not die with another node."""
    return on_node(ray.get_runtime_context().get_node_id())


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)
