"""What a training step waits for, looked for on the CPU."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny
from tests.trainables.training.runs import each_variant
from trainables import forward, loss
from trainables.models import document_attention
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


class _Waits(TorchDispatchMode):
    """Finds the operations for whose result the CPU would wait for a GPU, which a tensor on the CPU stands for here.

    Copies to a GPU, which may wait as well, are not among them.
    """

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = args[1] if func.name() == "aten::index.Tensor" else []
        if func.name() in self.NAMES or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


@each_variant
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.faults
def test_a_step_waits_for_nothing_that_a_gpu_computes(
    warm: WarmModel, changes: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_COUNTED_ON", ())
    # The kernel for variable lengths is not there; what leads to it is.
    monkeypatch.setattr(document_attention, "varlen_attn", lambda query, *_, **__: query * 1.0)
    monkeypatch.setattr(forward, "KERNEL_ON", ("cpu",))
    run = Run(warm, tiny.settings(accumulation=2, precision=precision, **changes))
    with run._noise, _Waits() as waits:
        for _ in range(2):
            run._optimizer_step()
    assert waits.found == []
    with _Waits() as waits:
        run._evaluate()
    assert waits.found
