"""The training loop of one run: plain PyTorch, alone or under torch.distributed.

Shapes: R packed rows of the training split, B rows of a micro-batch, T positions, N = B T.
"""

import math
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from trainables import parallel
from trainables.cache import digest
from trainables.entropy import threshold
from trainables.evaluate import HeldOut, evaluate
from trainables.loss import token_loss
from trainables.masking import dropped_tokens, ignore_labels, uniforms, zero_inputs
from trainables.models import embed, hidden_states, load_model, output_matrix
from trainables.packing import Packed
from trainables.prepare import Prepared
from trainables.settings import PRECISIONS, Settings


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


class CheckpointError(ValueError):
    """A checkpoint that is cut short, or that belongs to another run."""


class _DroppedTokenLoss(nn.Module):
    """Summed loss of a micro-batch with dropped tokens: what DistributedDataParallel wraps."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Packed, label_BT: Tensor, zeroed_BT: Tensor | None, precision: torch.dtype) -> Tensor:
        """`zeroed_BT` marks the tokens whose embedding is replaced by zeros."""
        with torch.autocast(label_BT.device.type, dtype=precision, enabled=precision != torch.float32):
            embedding_BTD = embed(self.model, rows.token_RT)
            if zeroed_BT is not None:
                embedding_BTD = zero_inputs(embedding_BTD, zeroed_BT)
            hidden_BTD = hidden_states(self.model, embedding_BTD, rows.document_RT, rows.position_RT)
        weight_VD = output_matrix(self.model).to(hidden_BTD.dtype)
        loss_N, _ = token_loss(hidden_BTD.flatten(0, 1), weight_VD, label_BT.flatten(), entropy=False)
        return loss_N.sum()


class WarmModel:
    """A model on its device with its data, kept between runs: a new run copies the base weights back in place."""

    def __init__(self, prepared: Prepared, device: torch.device) -> None:
        self.prepared = prepared
        self.device = device
        self.model = load_model(prepared.folder, device)
        self.base = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        step = _DroppedTokenLoss(self.model)
        self.step: nn.Module = DistributedDataParallel(step) if parallel.size() > 1 else step
        packed = prepared.packed("train")
        self.entropy_RT = prepared.entropy("train")
        self.droppable_RT = packed.droppable_RT
        self.train = _with_empty_row(packed).to(device)
        self.train_entropy_RT = nn.functional.pad(self.entropy_RT, (0, 0, 0, 1), value=torch.inf).to(device)
        self.tokens_R = (packed.document_RT >= 0).sum(dim=1)
        self.validation = HeldOut.on(device, prepared.packed("validation"), prepared.groups("validation"))

    def reset(self) -> None:
        # A run that broke off within a step left its gradients.
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(self.base[name])


def _with_empty_row(packed: Packed) -> Packed:
    """`packed` and one row without tokens: what fills up an epoch's last batch."""
    empty = {"token_RT": 0, "document_RT": -1, "position_RT": 0, "special_RT": False}
    return Packed(
        **{name: nn.functional.pad(t, (0, 0, 0, 1), value=empty[name]) for name, t in packed.tensors().items()}
    )


class Run:
    """One fine-tuning run, from evaluation to evaluation.

    Attributes:
        history: the metrics of each evaluation so far.
    """

    def __init__(self, warm: WarmModel, settings: Settings) -> None:
        warm.reset()
        self.warm, self.settings = warm, settings
        self.history: list[dict[str, float]] = []
        self._steps, self._tokens = 0, 0
        parameters = [p for p in warm.model.parameters() if p.requires_grad]
        decayed = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay}
        plain = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
        self._optimizer = torch.optim.AdamW([decayed, plain], lr=settings.learning_rate, betas=(0.9, 0.95))
        rows = len(warm.tokens_R)
        self._steps_per_epoch = math.ceil(rows / settings.batch_size)
        self._total_steps = self._steps_per_epoch * settings.epochs
        self._total_tokens = warm.prepared.train_tokens * settings.epochs
        self._order: tuple[int, Tensor] | None = None
        self._threshold = math.nan
        if settings.entrodrop is not None:
            quantile = settings.entrodrop.quantile
            self._threshold = threshold(warm.entropy_RT, warm.droppable_RT, quantile or 0.0)

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.settings.evaluations

    def advance(self) -> dict[str, float]:
        """Trains up to the next evaluation, evaluates, and appends the metrics to `history`.

        Returns:
            loss, high_entropy_loss, low_entropy_loss (validation, nats), train_loss (nats), mask_rate (dropped tokens /
            tokens since the last evaluation), learning_rate, tokens (seen so far), epoch, tokens_per_s.

        Raises:
            NonFiniteLossError: a training or validation loss is NaN or infinite; the same on every rank.
        """
        began, tokens_before = time.perf_counter(), self._tokens
        sums = torch.zeros(3, dtype=torch.float64, device=self.warm.device)
        for _ in range(self._steps, self._step_of_evaluation(len(self.history) + 1)):
            sums += self._optimizer_step()
        losses = evaluate(self.warm.model, self.warm.validation, PRECISIONS[self.settings.precision])
        loss_sum, labels, dropped = parallel.sum_over_ranks(sums).tolist()
        train_loss = loss_sum / max(labels, 1)
        if not all(map(math.isfinite, [train_loss, *losses.values()])):
            raise NonFiniteLossError(f"loss {train_loss} after {self._tokens:,} tokens")
        seen = self._tokens - tokens_before
        self.history.append(
            {
                **losses,
                "train_loss": train_loss,
                "mask_rate": dropped / max(seen, 1),
                "learning_rate": self._optimizer.param_groups[0]["lr"],
                "tokens": float(self._tokens),
                "epoch": self._steps / self._steps_per_epoch,
                "tokens_per_s": seen / (time.perf_counter() - began),
            }
        )
        return self.history[-1]

    def _step_of_evaluation(self, number: int) -> int:
        """The step after which evaluation `number` (from 1) stands."""
        epoch, part = divmod(number, self.settings.evaluations_per_epoch)
        return epoch * self._steps_per_epoch + math.ceil(
            part * self._steps_per_epoch / self.settings.evaluations_per_epoch
        )

    def _learning_rate(self) -> float:
        warmup_steps = math.ceil(self.settings.warmup * self._total_steps)
        return self.settings.learning_rate * min(1.0, (self._steps + 1) / max(warmup_steps, 1))

    def _batch(self) -> Tensor:
        """The rows of the next optimizer step; the index behind the last row is the empty row."""
        epoch, step = divmod(self._steps, self._steps_per_epoch)
        rows = len(self.warm.tokens_R)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
            order = torch.randperm(rows, generator=generator)
            padding = self._steps_per_epoch * self.settings.batch_size - rows
            self._order = epoch, torch.cat([order, torch.full((padding,), rows)])
        size = self.settings.batch_size
        return self._order[1][step * size : (step + 1) * size]

    def _optimizer_step(self) -> Tensor:
        """One optimizer step. Returns this rank's summed loss, labels and dropped tokens, float64."""
        settings, warm = self.settings, self.warm
        warm.model.train()
        epoch = self._steps // self._steps_per_epoch
        batch = self._batch()
        strength, presentation = 0.0, ""
        if settings.entrodrop is not None:
            presentation = settings.entrodrop.presentation
            progress = self._tokens / self._total_tokens
            strength = settings.entrodrop.mask_ratio * settings.entrodrop.curriculum(progress)
        rows, label_BT, dropped_BT = self._rows(batch, epoch, strength)
        if presentation == "loss":
            label_BT = _shifted(ignore_labels(rows.token_RT, dropped_BT), label_BT)
        # Every rank knows the whole batch, so that dividing by its labels needs no communication.
        labels = (label_BT >= 0).sum().clamp(min=1)
        totals = torch.zeros(3, dtype=torch.float64, device=warm.device)
        mine = list(self._micro_batches(len(batch)))
        for i, part in enumerate(mine):
            zeroed_BT = dropped_BT[part] if presentation == "input" and strength > 0 else None
            part_rows = Packed(**{name: tensor[part] for name, tensor in rows.tensors().items()})
            if isinstance(warm.step, DistributedDataParallel):
                warm.step.require_backward_grad_sync = i == len(mine) - 1
            loss = warm.step(part_rows, label_BT[part], zeroed_BT, PRECISIONS[settings.precision])
            # DistributedDataParallel averages over the ranks; the loss is a mean over the whole batch.
            (loss * (parallel.size() / labels)).backward()
            totals += torch.stack([loss.detach(), (label_BT[part] >= 0).sum(), dropped_BT[part].sum()])
        nn.utils.clip_grad_norm_(warm.model.parameters(), settings.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        self._tokens += int(nn.functional.pad(warm.tokens_R, (0, 1))[batch].sum())
        return totals

    def _rows(self, batch: Tensor, epoch: int, strength: float) -> tuple[Packed, Tensor, Tensor]:
        """A batch's rows on the device, their labels, and which of their tokens are dropped."""
        warm = self.warm
        batch = batch.to(warm.device)
        rows = Packed(**{name: tensor[batch] for name, tensor in warm.train.tensors().items()})
        if strength > 0:
            uniform_BT = uniforms(self.settings.seed, epoch, rows.document_RT, rows.position_RT)
            dropped_BT = dropped_tokens(
                warm.train_entropy_RT[batch], self._threshold, strength, uniform_BT, rows.droppable_RT
            )
        else:
            dropped_BT = torch.zeros_like(rows.special_RT)
        return rows, rows.label_RT, dropped_BT

    def _micro_batches(self, rows: int) -> Iterator[slice]:
        """This rank's parts of a batch, one for each micro-batch."""
        size = rows // (self.settings.accumulation * parallel.size())
        for i in range(self.settings.accumulation):
            start = (i * parallel.size() + parallel.rank()) * size
            yield slice(start, start + size)

    def identity(self) -> str:
        """SHA-256 of all that the run's result depends on, the number of ranks apart."""
        prepared = self.warm.prepared
        return digest([self.settings.to_json(), prepared.model, prepared.data_hash, prepared.evaluation_hash])

    def save(self, path: Path) -> None:
        """Writes the run's exact state, whole or not at all; rank 0 writes."""
        if parallel.rank() == 0:
            state = {
                "identity": self.identity(),
                "model": self.warm.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "steps": self._steps,
                "tokens": self._tokens,
                "history": self.history,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            torch.save(state, scratch)
            scratch.replace(path)
        parallel.barrier()

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint: what follows is what would have followed without the interruption.

        Raises:
            CheckpointError: cut short, damaged, or of another run.
        """
        try:
            # torch.load does not compare the checksums that torch.save wrote.
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
            state = torch.load(path, map_location=self.warm.device, weights_only=True)
            identity = state["identity"]
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {type(error).__name__}") from error
        if identity != self.identity():
            raise CheckpointError(f"{path} belongs to another run")
        self.warm.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._steps, self._tokens, self.history = state["steps"], state["tokens"], state["history"]


def _shifted(kept_BT: Tensor, label_BT: Tensor) -> Tensor:
    """Labels without those whose own token was dropped: `kept_BT` is aligned to the tokens, labels are one earlier."""
    next_BT = nn.functional.pad(kept_BT[:, 1:], (0, 1), value=-100)
    return torch.where(next_BT >= 0, label_BT, -100)
