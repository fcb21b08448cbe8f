"""How many workers share a trial of a model, and how many such trials run at the same time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from search.hardware import ClusterResources
from search.space import Space
from trainables.config.to_settings import model_settings_of
from trainables.errors import DataError
from trainables.forward import PRECISIONS
from trainables.models.configurations import config_of
from trainables.models.loading import readable
from trainables.settings import ModelSettings
from trainables.storage.cache import default_root
from trainables.training.memory_estimate import (
    CONTEXT_BYTES,
    Memory,
    Network,
    bytes_for_torch,
    memory_of,
    network_of,
    state_bytes,
)
from trainables.training.sharding import check_answers, chosen

# Of what torch's allocator may take of a GPU, what a run may; the rest is for memory that lies in pieces.
USABLE = 0.9


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
    if space.training.lora is not None:
        # Tells of adapters that the model has no layers for.
        network(space, model)
    resources = space.resources
    share, gpu_bytes = resources.gpus_per_worker, cluster.gpu_bytes
    if share and gpu_bytes is not None and bytes_for_torch(share, gpu_bytes) <= 0:
        allowed = (
            f"0, or above {CONTEXT_BYTES / gpu_bytes:.2g}: a worker would have {share * gpu_bytes / 1e9:.1f} GB of "
            f"{gpu_bytes / 1e9:.0f} GB, and CUDA itself takes about {CONTEXT_BYTES / 1e9:g} GB"
        )
        raise DataError("resources.gpus_per_worker", f"{share:g}", allowed)
    if share and gpu_bytes is not None:
        _check_whole(space, model, gpu_bytes)
        if resources.workers != "auto":
            _check_state(space, model, resources.workers, gpu_bytes)
    workers = _fewest(space, model, cluster) if resources.workers == "auto" else resources.workers
    if space.evaluation.exact_match and workers > 1 and share and gpu_bytes is not None:
        check_answers(
            space.evaluation.exact_match, estimate_memory(space, model, workers, gpu_bytes)[1], workers, model
        )
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


def estimate_memory(space: Space, model: str, workers: int, gpu_bytes: float | None) -> tuple[Memory, str]:
    """What one worker of a trial holds, and how the workers share the model ("ddp" or "fsdp")."""
    training, how = space.training, model_settings_of(space)
    counts = network(space, model)
    sharding = chosen(training.sharding, counts.parameters, counts.trained, gpu_bytes, workers)
    memory = _memory(
        model,
        how,
        rows=training.batch_size // (training.accumulation * workers),
        sequence_length=training.sequence_length,
        precision=PRECISIONS[training.precision],
        accumulation=training.accumulation,
        ranks=workers,
        sharding=sharding,
        keep_best=space.confirmation is not None,
        device="cuda" if space.resources.gpus_per_worker else "cpu",
    )
    return memory, sharding


# A model's workers are looked for, and then told of: it takes most of a second for one of 36 layers.
@cache
def _memory(model: str, how: ModelSettings, **run: Any) -> Memory:
    return memory_of(config_of(model, default_root()), how, **run)


def usable_bytes(space: Space, gpu_bytes: float) -> float:
    """Of a GPU with so many bytes, what a worker may take; workers that share one share its memory."""
    return USABLE * bytes_for_torch(space.resources.gpus_per_worker, gpu_bytes)


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


def _fewest(space: Space, model: str, cluster: ClusterResources) -> int:
    if not space.resources.gpus_per_worker:
        return 1
    gpu_bytes = cluster.gpu_bytes
    if gpu_bytes is None:
        raise DataError("resources.workers", "the memory of the GPUs is not known; write a number in place of auto")
    least, usable = float("inf"), usable_bytes(space, gpu_bytes)
    for workers in _counts(space, cluster):
        total = estimate_memory(space, model, workers, gpu_bytes)[0].total
        if total <= usable:
            return workers
        least = min(least, total)
    problem = (
        f"{model} fits with no number of workers: it takes {least / 1e9:.1f} GB of each GPU with {workers} worker"
        f"{'s' if workers > 1 else ''}, the most that there can be, and {_there(space, gpu_bytes)}; use GPUs with more "
        "memory, a smaller model or a smaller training.sequence_length"
    )
    raise DataError("resources.workers", problem)


def _check_whole(space: Space, model: str, gpu_bytes: float) -> None:
    """A model is loaded whole, to be scored and before it is shared out."""
    whole = state_bytes(network(space, model).parameters, trained=0)
    if whole > usable_bytes(space, gpu_bytes):
        problem = (
            f"{model} does not fit on one GPU, where it is loaded whole, whatever the workers: it takes "
            f"{whole / 1e9:.1f} GB in float32, and {_there(space, gpu_bytes)}; use larger GPUs, or a smaller one"
        )
        raise DataError("models", problem)


def _check_state(space: Space, model: str, workers: int, gpu_bytes: float) -> None:
    """So many workers have room for what no smaller micro-batch spares. The rest is an estimate, told in the plan."""
    counts = network(space, model)
    sharding = chosen(space.training.sharding, counts.parameters, counts.trained, gpu_bytes, workers)
    ranks = workers if sharding == "ddp" else 1
    state = state_bytes(counts.parameters, counts.trained, ranks, keep_best=space.confirmation is not None)
    if sharding == "fsdp":
        state //= workers
    if state > usable_bytes(space, gpu_bytes):
        problem = (
            f"{model} does not fit with {workers}: its weights, their copies and gradients and AdamW's moments alone "
            f"take {state / 1e9:.1f} GB of each GPU, and {_there(space, gpu_bytes)}; write auto, or use larger GPUs"
        )
        raise DataError("resources.workers", problem)


def network(space: Space, model: str) -> Network:
    """What the memory and the time of a model depend on."""
    return _network(model, model_settings_of(space))


@cache
def _network(model: str, how: ModelSettings) -> Network:
    config = config_of(model, default_root())
    with readable(model, "a model that transformers can make of its configuration"):
        return network_of(config, how)


def _there(space: Space, gpu_bytes: float) -> str:
    usable = usable_bytes(space, gpu_bytes)
    return f"{usable / 1e9:.1f} GB may be used ({usable / gpu_bytes:.0%} of {gpu_bytes / 1e9:.0f} GB)"
