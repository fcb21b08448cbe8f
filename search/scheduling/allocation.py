"""How many workers share a trial of a model, and how many such trials run at the same time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from search.hardware import ClusterResources
from search.space import Space
from trainables.errors import DataError


@dataclass(frozen=True)
class Allocation:
    """Processes that share a trial, and trials that train at the same time."""

    workers: int
    slots: int


def allocate(space: Space, model: str, cluster: ClusterResources) -> Allocation:
    """What a model of the space gets.

    Raises:
        DataError: it fits on no number of workers, or never on the given one, a share of a GPU is too small for any,
            answers are asked for and no worker has the whole model, or it has no layers of the adapters' names.
    """
    resources = space.resources
    gpu_bytes = cluster.gpu_bytes if resources.gpus_per_worker else None
    if resources.gpus_per_worker and resources.workers == "auto" and gpu_bytes is None:
        raise DataError("resources.workers", "the memory of the GPUs is not known; write a number in place of auto")
    workers = 1 if resources.workers == "auto" else resources.workers
    if space.training.lora is not None or gpu_bytes is not None:
        # This imports torch, which takes seconds.
        from search.scheduling.model_memory import choose_workers

        counts = _counts(space, cluster) if resources.workers == "auto" else [workers]
        workers = choose_workers(space, model, counts, gpu_bytes)
    room = _most_workers(space, cluster) // workers
    if resources.slots == "auto":
        return Allocation(workers, max(1, room))
    return Allocation(workers, min(resources.slots, max(1, room)) if resources.workers == "auto" else resources.slots)


def group_by_allocation(
    models: Sequence[str], allotments: Mapping[str, Allocation]
) -> list[tuple[Allocation, list[str]]]:
    """The models in their order, those together that follow one another and get the same: they share warm slots."""
    return [(allotted, list(group)) for allotted, group in groupby(models, allotments.__getitem__)]


def with_allocation(space: Space, allotted: Allocation) -> Space:
    """The space with these counts."""
    counts = {"workers": allotted.workers, "slots": allotted.slots}
    return space.model_copy(update={"resources": space.resources.model_copy(update=counts)})


def _most_workers(space: Space, cluster: ClusterResources) -> int:
    return cluster.workers(space.resources.cpus_per_worker, space.resources.gpus_per_worker)


def _counts(space: Space, cluster: ClusterResources) -> Iterator[int]:
    """1, 2, 4, ... workers that the cluster has, and that the rows of a micro-batch can be shared out to."""
    rows = space.training.batch_size // space.training.accumulation
    # Workers of one trial on one GPU would only wait for each other; NCCL refuses them.
    most = 1 if 0 < space.resources.gpus_per_worker < 1 else _most_workers(space, cluster)
    workers = 1
    while workers <= max(1, most) and rows % workers == 0:
        yield workers
        workers *= 2
