"""What a machine or a cluster has, as Ray counts it, without starting Ray."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.gpus import Gpu, named


@dataclass(frozen=True)
class Cluster:
    """What a search runs on.

    Attributes:
        resources: in all, as Ray counts them.
        gpu: the kind of its GPUs, of several the one of least memory; None if it has none, or an unknown one.
        gpu_bytes: their memory, the least that one has; None where it is not known.
        nodes: the resources of each node; empty where there is one, or they are not known.
    """

    resources: Mapping[str, float]
    gpu: Gpu | None = None
    gpu_bytes: float | None = None
    nodes: Sequence[Mapping[str, float]] = ()

    @classmethod
    def of_gpus(cls, count: int, gpu: Gpu) -> "Cluster":
        """So many GPUs, and CPUs enough."""
        return cls({"CPU": float("inf"), "GPU": float(count)}, gpu, gpu.memory)

    @classmethod
    def with_gpus(
        cls,
        resources: Mapping[str, float],
        gpus: Sequence[tuple[str, float]],
        nodes: Sequence[Mapping[str, float]] = (),
    ) -> "Cluster":
        """With GPUs of these names and bytes."""
        if not gpus:
            return cls(resources, nodes=nodes)
        name, least = min(gpus, key=lambda gpu: gpu[1])
        return cls(resources, named(name, least), least, nodes)

    def workers(self, cpus: float, gpus: float) -> int:
        """Workers that there is room for, each with so many CPUs and GPUs, or a share of one."""
        return workers_that_fit(self.nodes or (self.resources,), cpus, gpus)

    def grown(self, cpus: int, gpus: tuple[int, Gpu] | None) -> "Cluster":
        """With as many CPUs and GPUs as its autoscaler may bring it to."""
        count, gpu = gpus or (0, None)
        resources = dict(self.resources)
        for kind, most in (("CPU", cpus), ("GPU", count)):
            resources[kind] = max(resources.get(kind, 0.0), float(most))
        if gpu is None or (self.gpu_bytes is not None and self.gpu_bytes <= gpu.memory):
            return Cluster(resources, self.gpu, self.gpu_bytes)
        return Cluster(resources, gpu, gpu.memory)

    @classmethod
    def here(cls, with_gpus: bool) -> "Cluster":
        resources = local_resources(with_gpus)
        if not resources["GPU"]:
            return cls(resources)
        import torch

        gpus = map(torch.cuda.get_device_properties, range(int(resources["GPU"])))
        return cls.with_gpus(resources, [(gpu.name, float(gpu.total_memory)) for gpu in gpus])


def workers_that_fit(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many workers fit on nodes with these resources, each on one node."""
    kinds = [(kind, each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
    return sum(math.floor(min(served(node.get(kind, 0.0), each) for kind, each in kinds)) for node in nodes)


def served(there: float, each: float) -> float:
    """Workers that so many CPUs or GPUs are enough for, not rounded; each takes so many, or a share of a single one."""
    # 1 / 0.1 may come out a little less than 10.
    return there * math.floor(1 / each + 1e-9) if each < 1 else there / each


def local_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_resources(with_gpus: bool) -> dict[str, float]:
    """CPUs, and GPUs if they are asked for: counting them takes the seconds that torch takes to import."""
    gpus = 0
    if with_gpus:
        import torch

        gpus = torch.cuda.device_count()
    return {"CPU": float(local_cpus()), "GPU": float(gpus)}
