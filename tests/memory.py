"""The memory of a real run, by the sizes of its tensors."""

import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests import tiny
from trainables.documents import Document, Splits
from trainables.evaluate import ROWS
from trainables.prepare import Preparation, prepare
from trainables.settings import ModelSettings
from trainables.train import Run
from trainables.warm import WarmModel


class Peak(TorchDispatchMode):
    """The most bytes that tensors take at one time; torch's own MemTracker refuses frozen weights.

    Attributes:
        bytes: of the tensors that were made while the mode is on, and of those that are there before.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.hold(there)

    def hold(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = None
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.bytes = max(self.bytes, self._now)

    def _freed(self, size: int) -> None:
        self._now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.hold(tree_leaves(result))
        return result


def measured(
    config: PreTrainedConfig,
    how: ModelSettings,
    rows: int,
    sequence_length: int,
    precision: str,
    accumulation: int = 1,
    keep_best: bool = False,
) -> int:
    """The most bytes that tensors take in the second epoch of a run on the CPU, its data apart: one step, and an
    evaluation."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        tiny.tokenizer().save_pretrained(folder)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        # Two documents fill a row but for one position.
        words = " ".join(["anna has 4 apples ."] * sequence_length).split()[: sequence_length // 2 - 1]
        documents = [Document(" ".join(words), str(n)) for n in range(2 * rows * accumulation)]
        held_out = documents[:1] * 2 * ROWS
        what = Preparation(
            Splits(tuple(documents), tuple(held_out), tuple(held_out)),
            sequence_length, 0.2, 0.5, Path(scratch) / "cache",
        )  # fmt: skip
        with mock.patch("trainables.prepare.model_folder", return_value=folder):
            prepared = prepare("model", ["model"], what)
        warm = WarmModel(prepared, tiny.CPU, how)
        batch = rows * accumulation
        settings = tiny.settings(batch_size=batch, accumulation=accumulation, precision=precision)
        run = Run(warm, settings, keep_best)
        run.advance()
        peak = Peak([*warm.model.parameters(), *warm.model.buffers(), *warm.base.values(), *run._best.values()])
        for state in run._optimizer.state.values():
            peak.hold(state.values())
        with peak:
            run.advance()
        return peak.bytes
