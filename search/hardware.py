"""What a machine or a cluster has, as Ray counts it, without starting Ray; and GPUs by name, from their data sheets."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

# Of the greatest speed, what training reaches with models of this size.
UTILISATION = 0.4


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, and floating-point operations in a second.

    Attributes:
        bf16: with dense matrices, on tensor cores.
        fp32: outside of tensor cores, as torch multiplies by default: without TF32.
    """

    memory: float
    bf16: float
    fp32: float

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32

    def seconds(self, operations: float, precision: str) -> float:
        return operations / (self.peak(precision) * UTILISATION)


# Data sheets of NVIDIA; of the H100 and H200 for SXM, of the B200 as in an HGX B200, of the A10G the one for AWS.
GPUS = {
    "A100-40GB": Gpu(40e9, 312e12, 19.5e12),
    "A100": Gpu(80e9, 312e12, 19.5e12),
    "H100": Gpu(80e9, 989e12, 67e12),
    "H200": Gpu(141e9, 989e12, 67e12),
    "B200": Gpu(180e9, 2250e12, 75e12),
    "A10": Gpu(24e9, 125e12, 31.2e12),
    "A10G": Gpu(24e9, 70e12, 35e12),
    "L4": Gpu(24e9, 121e12, 30.3e12),
    "L40S": Gpu(48e9, 362e12, 91.6e12),
    "RTX3090": Gpu(24e9, 71e12, 35.6e12),
    "RTX4090": Gpu(24e9, 165e12, 82.6e12),
}


def parse_gpus(text: str) -> tuple[int, Gpu]:
    """How many GPUs, and of which kind, as in 8xH100.

    Raises:
        ValueError: not of this form, or an unknown GPU; it says what is allowed.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x(.+)", text)
    name = match[2] if match else text
    if match is None or name not in GPUS:
        close = get_close_matches(name.upper(), GPUS, n=1)
        nearest = f"; did you mean '{match[1] if match else 1}x{close[0]}'?" if close else ""
        raise ValueError(f"a number, x and one of {', '.join(GPUS)}, as in 8xH100{nearest}")
    return int(match[1]), GPUS[name]


def find_gpu(name: str, memory: float) -> Gpu | None:
    """The kind of a GPU, from what its driver calls it, as in "NVIDIA H100 80GB HBM3"; None if it is unknown.

    Args:
        memory: its bytes, which tell one of two kinds of the same name.
    """
    words = re.sub(r"[^A-Z0-9]+", " ", name.upper()).replace("RTX ", "RTX").split()
    named = [gpu for kind, gpu in GPUS.items() if kind.partition("-")[0] in words]
    return min(named, key=lambda gpu: abs(gpu.memory - memory), default=None)


@dataclass(frozen=True)
class ClusterResources:
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
    def of_gpus(cls, count: int, gpu: Gpu) -> "ClusterResources":
        """So many GPUs, and CPUs enough."""
        return cls({"CPU": float("inf"), "GPU": float(count)}, gpu, gpu.memory)

    @classmethod
    def with_gpus(
        cls,
        resources: Mapping[str, float],
        gpus: Sequence[tuple[str, float]],
        nodes: Sequence[Mapping[str, float]] = (),
    ) -> "ClusterResources":
        """With GPUs of these names and bytes."""
        if not gpus:
            return cls(resources, nodes=nodes)
        name, least = min(gpus, key=lambda gpu: gpu[1])
        return cls(resources, find_gpu(name, least), least, nodes)

    def workers(self, cpus: float, gpus: float) -> int:
        """Workers that there is room for, each with so many CPUs and GPUs, or a share of one."""
        return count_workers(self.nodes or (self.resources,), cpus, gpus)

    def grow(self, cpus: int, gpus: tuple[int, Gpu] | None) -> "ClusterResources":
        """With as many CPUs and GPUs as its autoscaler may bring it to."""
        count, gpu = gpus or (0, None)
        resources = dict(self.resources)
        for kind, most in (("CPU", cpus), ("GPU", count)):
            resources[kind] = max(resources.get(kind, 0.0), float(most))
        if gpu is None or (self.gpu_bytes is not None and self.gpu_bytes <= gpu.memory):
            return ClusterResources(resources, self.gpu, self.gpu_bytes)
        return ClusterResources(resources, gpu, gpu.memory)

    @classmethod
    def here(cls, with_gpus: bool) -> "ClusterResources":
        resources = count_local_resources(with_gpus)
        if not resources["GPU"]:
            return cls(resources)
        import torch

        gpus = map(torch.cuda.get_device_properties, range(int(resources["GPU"])))
        return cls.with_gpus(resources, [(gpu.name, float(gpu.total_memory)) for gpu in gpus])


def count_workers(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many workers fit on nodes with these resources, each on one node."""
    kinds = [(kind, each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
    return sum(math.floor(min(count_served(node.get(kind, 0.0), each) for kind, each in kinds)) for node in nodes)


def count_served(there: float, each: float) -> float:
    """Workers that so many CPUs or GPUs are enough for, not rounded; each takes so many, or a share of a single one."""
    # 1 / 0.1 may come out a little less than 10.
    return there * math.floor(1 / each + 1e-9) if each < 1 else there / each


def count_local_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_local_resources(with_gpus: bool) -> dict[str, float]:
    """CPUs, and GPUs if they are asked for: counting them takes the seconds that torch takes to import."""
    gpus = 0
    if with_gpus:
        import torch

        gpus = torch.cuda.device_count()
    return {"CPU": float(count_local_cpus()), "GPU": float(gpus)}
