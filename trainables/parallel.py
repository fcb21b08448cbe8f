"""The processes that train one model together: one alone, or all ranks of the default process group."""

import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    if size() > 1:
        dist.barrier()
