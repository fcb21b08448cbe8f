"""Several ranks, one model: each has the whole of it (DDP), or a part (FSDP2)."""

from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainables import parallel
from trainables.forward import Forward
from trainables.weights import parameters_of

# Float32 weights, their base copy, the best ones so far, gradients, and AdamW's two moments.
_BYTES_PER_PARAMETER = 24
# The rest is for activations.
_SHARE_FOR_PARAMETERS = 0.7


def chosen(sharding: str, folder: Path, device: torch.device) -> str:
    """ "ddp" or "fsdp", for "auto" by whether the model's training state fits on the device."""
    if sharding != "auto":
        return sharding
    if device.type != "cuda":
        return "ddp"
    there = torch.cuda.get_device_properties(device).total_memory
    return "ddp" if parameters_of(folder) * _BYTES_PER_PARAMETER < _SHARE_FOR_PARAMETERS * there else "fsdp"


def distribute(forward: Forward, sharding: str) -> nn.Module:
    """`forward` over all ranks; alone, it stays as it is."""
    if parallel.size() == 1:
        return forward
    if sharding == "ddp":
        return DistributedDataParallel(forward)
    layers = max(
        (m for m in forward.model.base_model.modules() if isinstance(m, nn.ModuleList)), key=lambda m: len(list(m))
    )
    for layer in layers:
        fully_shard(layer)
    # The root's own parameters, embedding and output matrix among them, stay whole from its forward to its backward
    # pass: the loss reads the output matrix outside of the layer that it belongs to.
    fully_shard(forward)
    return forward


def reshard(step: nn.Module) -> None:
    """To be called before parameters are written to: after an evaluation the root of FSDP still holds whole ones."""
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
