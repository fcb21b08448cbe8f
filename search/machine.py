"""What this machine has, as Ray counts it, without starting Ray."""

import os


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
