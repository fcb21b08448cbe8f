"""The memory of a real run, by the sizes of its tensors."""

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tests import tiny
from trainables.data.documents import Document, Splits
from trainables.parallel import leave_group
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Preparation, Prepared
from trainables.settings import ModelSettings, Settings
from trainables.training.evaluate import ROWS
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


class Peak(TorchDispatchMode):
    """The most bytes that tensors take at one time; torch's own MemTracker refuses frozen weights.

    What PyTorch allocates by itself, as DDP its buckets, is not seen.

    Attributes:
        bytes: of the tensors that were made while the mode is on, and of those that are there before.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._sizes: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.hold(there)

    def hold(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, DTensor):
                tensor = tensor.to_local()
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._sizes:
                self._sizes[storage] = size = [storage.nbytes()]
                self._add(size[0])
                weakref.finalize(storage, self._freed, size)

    def _add(self, size: int) -> None:
        self._now += size
        self.bytes = max(self.bytes, self._now)

    def _freed(self, size: list[int]) -> None:
        self._now -= size[0]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.hold(tree_leaves(result))
        return result

    @contextmanager
    def resized(self) -> Iterator[None]:
        """FSDP frees what it has gathered by making the storage empty, and fills it again."""
        resize = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, size: int) -> Any:
            if (known := self._sizes.get(storage)) is not None:
                self._add(size - known[0])
                known[0] = size
            return resize(storage, size)

        with mock.patch.object(torch.UntypedStorage, "resize_", counted):
            yield


def measured(
    config: PreTrainedConfig,
    how: ModelSettings,
    rows: int,
    sequence_length: int,
    precision: str,
    accumulation: int = 1,
    keep_best: bool = False,
    ranks: int = 1,
) -> int:
    """The most bytes that tensors take in a later epoch of a run on the CPU, its data apart: one step, and an
    evaluation. Of several ranks, the first; with the buckets of DDP.

    Args:
        rows: of a rank's micro-batch.
        accumulation: micro-batches of a rank in a step.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        tiny.tokenizer().save_pretrained(folder)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        # Two documents fill a row but for one position.
        words = " ".join(["anna has 4 apples ."] * sequence_length).split()[: sequence_length // 2 - 1]
        batch = rows * accumulation * ranks
        documents = [Document(" ".join(words), str(n)) for n in range(2 * batch)]
        held_out = documents[:1] * 2 * ROWS * ranks
        what = Preparation(
            Splits(tuple(documents), tuple(held_out), tuple(held_out)),
            sequence_length, 0.2, 0.5, Path(scratch) / "cache",
        )  # fmt: skip
        with mock.patch("trainables.preparation.prepare.model_folder", return_value=folder):
            prepared = prepare("model", ["model"], what)
        settings = tiny.settings(batch_size=batch, accumulation=accumulation, precision=precision)
        if ranks == 1:
            return _peak(prepared, how, settings, keep_best)
        torch.multiprocessing.spawn(_rank, (ranks, Path(scratch), prepared, how, settings, keep_best), nprocs=ranks)
        return int((Path(scratch) / "peak").read_text())


def _rank(
    rank: int, ranks: int, folder: Path, prepared: Prepared, how: ModelSettings, settings: Settings, keep_best: bool
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    found = _peak(prepared, how, settings, keep_best)
    if rank == 0:
        (folder / "peak").write_text(str(found))
    leave_group()


def _peak(prepared: Prepared, how: ModelSettings, settings: Settings, keep_best: bool) -> int:
    warm = WarmModel(prepared, tiny.CPU, how)
    buckets: list[Tensor] = []
    if isinstance(warm.step, DistributedDataParallel):
        warm.step.register_comm_hook(buckets, _seen)
    run = Run(warm, settings, keep_best)
    run.advance()
    if isinstance(warm.step, DistributedDataParallel):
        # It makes its buckets anew once it has seen in which order gradients come.
        run.advance()
    peak = Peak([*warm.model.parameters(), *warm.model.buffers(), *warm.base.values(), *run._best.values(), *buckets])
    for state in run._optimizer.state.values():
        peak.hold(state.values())
    with peak, peak.resized():
        run.advance()
    return peak.bytes


def _seen(buckets: list[Tensor], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Exchanges gradients as DDP does by itself, and remembers the buckets of the last step."""
    if bucket.index() == 0:
        buckets.clear()
    buckets.append(bucket.buffer())
    return default_hooks.allreduce_hook(dist.group.WORLD, bucket)
