"""The memory that a model's workers take, and whether it is there."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

from search.space import Space
from trainables.config.to_settings import model_settings_of
from trainables.config.training import ALL_LINEAR
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
from trainables.training.sharding import check_answers, choose_sharding

# Of what torch's allocator may take of a GPU, what a run may; the rest is for memory that lies in pieces.
USABLE = 0.9


def choose_workers(space: Space, model: str, counts: Iterable[int], gpu_bytes: float | None) -> int:
    """The fewest workers that a model fits on; a number that the space gives is only checked.

    Args:
        counts: to choose among, rising; the given number alone.
        gpu_bytes: memory of a GPU; None: there is none, or it is not known.

    Raises:
        DataError: as `search.scheduling.allocation.allocate`.
    """
    if space.training.lora is not None:
        # Tells of adapters that the model has no layers for.
        network(space, model)
    if gpu_bytes is None:
        return next(iter(counts))
    share = space.resources.gpus_per_worker
    if bytes_for_torch(share, gpu_bytes) <= 0:
        allowed = (
            f"0, or above {CONTEXT_BYTES / gpu_bytes:.2g}: a worker would have {share * gpu_bytes / 1e9:.1f} GB of "
            f"{gpu_bytes / 1e9:.0f} GB, and CUDA itself takes about {CONTEXT_BYTES / 1e9:g} GB"
        )
        raise DataError("resources.gpus_per_worker", f"{share:g}", allowed)
    _check_whole(space, model, gpu_bytes)
    if space.resources.workers == "auto":
        workers = _find_fewest(space, model, counts, gpu_bytes)
    else:
        workers = space.resources.workers
        _check_state(space, model, workers, gpu_bytes)
    if (answers := space.evaluation.exact_match) and workers > 1:
        check_answers(answers, estimate_memory(space, model, workers, gpu_bytes)[1], workers, model)
    return workers


def _find_fewest(space: Space, model: str, counts: Iterable[int], gpu_bytes: float) -> int:
    least, usable = float("inf"), usable_bytes(space, gpu_bytes)
    for workers in counts:
        total = estimate_memory(space, model, workers, gpu_bytes)[0].total
        if total <= usable:
            return workers
        least = min(least, total)
    problem = (
        f"{model} fits with no number of workers: it takes {least / 1e9:.1f} GB of each GPU with {workers} worker"
        f"{'s' if workers > 1 else ''}, the most that there can be, and {_describe_usable(space, gpu_bytes)}; use GPUs "
        "with more memory, a smaller model or a smaller training.sequence_length"
    )
    raise DataError("resources.workers", problem)


def estimate_memory(space: Space, model: str, workers: int, gpu_bytes: float | None) -> tuple[Memory, str]:
    """What one worker of a trial holds, and how the workers share the model ("ddp" or "fsdp")."""
    training, how = space.training, model_settings_of(space)
    counts = network(space, model)
    sharding = choose_sharding(how.sharding, counts.parameters, counts.trained, gpu_bytes, workers)
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


def _check_whole(space: Space, model: str, gpu_bytes: float) -> None:
    """A model is loaded whole, to be scored and before it is shared out."""
    whole = state_bytes(network(space, model).parameters, trained=0)
    if whole > usable_bytes(space, gpu_bytes):
        problem = (
            f"{model} does not fit on one GPU, where it is loaded whole, whatever the workers: it takes "
            f"{whole / 1e9:.1f} GB in float32, and {_describe_usable(space, gpu_bytes)}; use larger GPUs, or a "
            "smaller one"
        )
        raise DataError("models", problem)


def _check_state(space: Space, model: str, workers: int, gpu_bytes: float) -> None:
    """So many workers have room for what no smaller micro-batch spares. The rest is an estimate, told in the plan."""
    counts, sharding = network(space, model), model_settings_of(space).sharding
    sharding = choose_sharding(sharding, counts.parameters, counts.trained, gpu_bytes, workers)
    ranks, keep_best = workers if sharding == "ddp" else 1, space.confirmation is not None
    state = state_bytes(counts.parameters, counts.trained, ranks, keep_best, counts.quantized)
    if sharding == "fsdp":
        state //= workers
    if state > usable_bytes(space, gpu_bytes):
        problem = (
            f"{model} does not fit with {workers}: its weights, their copies and gradients and AdamW's moments alone "
            f"take {state / 1e9:.1f} GB of each GPU, and {_describe_usable(space, gpu_bytes)}; write auto, or use "
            "larger GPUs"
        )
        raise DataError("resources.workers", problem)


def network(space: Space, model: str) -> Network:
    """What the memory and the time of a model depend on, with the largest adapters."""
    how, lora = model_settings_of(space), space.training.lora
    if how.lora is not None and lora is not None and how.lora.target_modules is None:
        # All linear layers: whether the model has those that other choices name.
        for choice in lora.settings["target_modules"]:
            if choice != ALL_LINEAR:
                _network(model, replace(how, lora=replace(how.lora, target_modules=tuple(choice.split()))))
    return _network(model, how)


@cache
def _network(model: str, how: ModelSettings) -> Network:
    config = config_of(model, default_root())
    with readable(model, "a model that transformers can make of its configuration"):
        return network_of(config, how)


def _describe_usable(space: Space, gpu_bytes: float) -> str:
    usable = usable_bytes(space, gpu_bytes)
    return f"{usable / 1e9:.1f} GB may be used ({usable / gpu_bytes:.0%} of {gpu_bytes / 1e9:.0f} GB)"
