"""The processes that train one model together: one alone, or all ranks of the default process group."""

import math
from collections.abc import Iterator

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


def parts(total: int, rows: int) -> Iterator[tuple[slice, bool]]:
    """This rank's share of `total` rows, `rows` at a time, and whether each part counts.

    Every rank gets as many parts, because a sharded model needs all ranks in each forward pass: one that has nothing
    left repeats the first part, which does not count.
    """
    number = math.ceil(total / rows)
    for turn in range(math.ceil(number / size())):
        index = turn * size() + rank()
        start = index * rows if index < number else 0
        yield slice(start, start + rows), index < number
