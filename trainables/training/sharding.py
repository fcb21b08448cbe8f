"""Several ranks, one model: each has the whole of it (DDP), or a part (FSDP2)."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainables import parallel
from trainables.errors import DataError
from trainables.forward import Forward
from trainables.models.loading import decoder_layers
from trainables.training.memory_estimate import fits_whole


def choose_sharding(sharding: str, parameters: int, trained: int, device_bytes: float | None, ranks: int) -> str:
    """ "ddp" or "fsdp", for "auto" by whether the model's training state fits on the device.

    Args:
        parameters, trained: of the model.
        device_bytes: memory of a GPU; None on CPUs.
    """
    if sharding != "auto":
        return sharding
    return "ddp" if device_bytes is None or fits_whole(parameters, trained, device_bytes, ranks) else "fsdp"


def check_answers(questions: int, sharding: str, ranks: int, model: str) -> None:
    """Raises DataError if answers are asked for, which a model generates that is whole, and no rank has it whole.

    Args:
        sharding: "ddp" or "fsdp".
    """
    if questions and sharding == "fsdp" and ranks > 1:
        allowed = f"0 where {ranks} workers share {model} out (fsdp, by training.sharding): none has the whole model"
        raise DataError("evaluation.exact_match", str(questions), allowed)


def device_bytes(device: torch.device) -> int | None:
    """The memory of a GPU; None of a CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def distribute(forward: Forward, sharding: str) -> nn.Module:
    """`forward` over all ranks; alone, it stays as it is."""
    if parallel.size() == 1:
        return forward
    if sharding == "ddp":
        return DistributedDataParallel(forward)
    # By default it takes GPUs wherever there are any, also for a model on CPUs.
    mesh = init_device_mesh(next(forward.parameters()).device.type, (parallel.size(),))
    for layer in decoder_layers(forward.model):
        fully_shard(layer, mesh=mesh)
    # The root's own parameters, embedding and output matrix among them, stay whole from its forward to its backward
    # pass: the loss reads the output matrix outside of the layer that it belongs to.
    fully_shard(forward, mesh=mesh)
    return forward


def reshard(step: nn.Module) -> None:
    """To be called before parameters are written to: after an evaluation the root of FSDP still holds whole ones."""
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
