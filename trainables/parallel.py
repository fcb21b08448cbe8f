"""The processes that train one model together: one alone, or all ranks of the default process group."""

import gc
import math
import time
from collections.abc import Iterator
from functools import cache
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# How often the ranks agree: about once in a second, and at least once in so many steps, as steps may become slower.
_AGREE_EVERY_S, _AGREE_EVERY_STEPS = 1.0, 16


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def leave_group() -> None:
    """Ends this process's part in its process group, if it has one. Whoever calls this holds no model any more.

    A model in DDP that outlives the group ends it in turn, and holds Python's lock while it waits for the group's own
    thread, which may wait for that lock: seen with torch 2.13 and gloo.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks."""
    if size() > 1:
        dist.all_reduce(values)
    return values


def gather(value: T) -> list[T]:
    """What each rank has, in their order; every rank gets it."""
    if size() == 1:
        return [value]
    values: list[T | None] = [None] * size()
    dist.all_gather_object(values, value, group=_cpu_group())
    return cast(list[T], values)


def barrier() -> None:
    if size() > 1:
        dist.barrier()


class Agreement:
    """What rank 0 wishes, told to all ranks at the same step: about once in a second, so that it costs no time."""

    def __init__(self) -> None:
        self._every, self._left = 1, 0
        self._agreed_at = time.monotonic()

    def __call__(self, wish: int) -> int:
        """Every rank calls this after each step; other than 0 at the same step on all of them."""
        if size() == 1:
            return wish
        if self._left:
            self._left -= 1
            return 0
        now = time.monotonic()
        pace = self._every / max(now - self._agreed_at, 1e-3)
        # No faster than doubled: the first steps of a run tell little of the others.
        every = max(1, min(int(pace * _AGREE_EVERY_S), 2 * self._every, _AGREE_EVERY_STEPS))
        said = torch.tensor([wish, every])
        dist.broadcast(said, src=0, group=_cpu_group())
        self._every, self._agreed_at = int(said[1]), now
        self._left = self._every - 1
        return int(said[0])


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """A group that needs no GPU, which a broadcast would have to wait for; None: the default group is one."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


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
