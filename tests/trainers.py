"""This project's own training, and that of a Trainer with the same data order, optimizer and learning rate."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, TrainingArguments

import trainables.trainer
from trainables.curriculum import curriculum_spec
from trainables.data import packing
from trainables.data.packing import Packed
from trainables.learning_rate import learning_rate
from trainables.settings import EntroDrop, Settings
from trainables.trainer import COLUMN, EntroDropMixin, EntroDropTrainer
from trainables.training.run import Run
from trainables.training.token_dropout import TokenDropout
from trainables.training.warm_model import WarmModel

# Of one optimizer step: document and place of each dropped token.
Dropped = set[tuple[int, int]]


def our_training(warm: WarmModel, settings: Settings) -> tuple[list[float], list[Dropped]]:
    """The loss and the dropped tokens of each optimizer step."""
    run, losses = Run(warm, settings), []
    dropped: list[Dropped] = []
    present = TokenDropout.present

    def noted(self: TokenDropout, *arguments: Any) -> Any:
        batch = present(self, *arguments)
        of = batch.dropped_BT
        dropped.append(set(zip(batch.rows.document_RT[of].tolist(), batch.rows.position_RT[of].tolist(), strict=True)))
        return batch

    with mock.patch.object(TokenDropout, "present", noted):
        while run.progress < 1:
            loss, labels, _ = run._optimizer_step().tolist()
            losses.append(loss / max(labels, 1))
    return losses, dropped


def dataset_of(packed: Packed) -> Dataset:
    """Rows as Trainer takes them: a label stands at its own token."""
    rows = []
    for row in range(len(packed.token_RT)):
        real_T = packed.document_RT[row] >= 0
        label_T = packed.token_RT[row].masked_fill(~packed.trained_RT[row] | (packed.position_RT[row] == 0), -100)
        rows.append({"input_ids": packed.token_RT[row][real_T].tolist(), "labels": label_T[real_T].tolist()})
    return Dataset.from_list(rows)


def packed_like(rows: Dataset, samples: Dataset) -> Any:
    """A context in which our packing puts samples into the rows that TRL has put them in."""
    number = {tuple(tokens): i for i, tokens in enumerate(samples["input_ids"])}
    packed = []
    for row in rows:
        ends = torch.tensor(row["seq_lengths"]).cumsum(0).tolist()
        packed.append([number[tuple(row["input_ids"][a:b])] for a, b in zip([0, *ends], ends, strict=False)])

    def rows_of(lengths: Sequence[int], capacity: int) -> list[list[int]]:
        # Other splits are packed as ever.
        return packed if len(lengths) == len(samples) else best_fit(lengths, capacity)

    best_fit = packing._best_fit
    return mock.patch.object(packing, "_best_fit", rows_of)


def values_of(entrodrop: EntroDrop, **more: Any) -> dict[str, Any]:
    """The block `schedule` of a space that says the same."""
    curriculum = curriculum_spec(entrodrop.curriculum)
    return {
        "entropy_threshold": {"quantile": entrodrop.quantile},
        "mask_ratio": entrodrop.mask_ratio,
        "curriculum": {name: list(v) if isinstance(v, tuple) else v for name, v in curriculum.items()},
        "tokens": entrodrop.tokens,
        "presentation": entrodrop.presentation,
        **more,
    }


class _Order(Sampler[int]):
    """The order of `Run`, from epoch to epoch."""

    def __init__(self, rows: int, seed: int, epoch: int) -> None:
        self._rows, self._seed, self._epoch = rows, seed, epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        self._epoch += 1
        yield from torch.randperm(self._rows, generator=generator).tolist()


class SameTraining(EntroDropMixin):
    """Put before a Trainer: trains in our order, and notes each optimizer step.

    Attributes:
        losses, dropped: as `our_training` gives them.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.losses: list[float] = []
        self.dropped: list[Dropped] = []
        self.first_epoch = 0
        super().__init__(*arguments, **named)

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return _Order(len(self.train_dataset), self.args.seed, self.first_epoch)

    def get_batch_samples(self, *arguments: Any) -> Any:
        self.losses.append(0.0)
        self.dropped.append(set())
        return super().get_batch_samples(*arguments)

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss = super().training_step(*arguments, **named)
        self.losses[-1] += float(loss)
        return loss

    def _present(self, batch: Any, *arguments: Any) -> Any:
        key_BT = batch[COLUMN]
        found: list[Tensor] = []
        draw = trainables.trainer.dropped_tokens

        def noted(*values: Any) -> Tensor:
            found.append(draw(*values))
            return found[0]

        with mock.patch.object(trainables.trainer, "dropped_tokens", noted):
            batch = super()._present(batch, *arguments)
        key_N = key_BT[found[0]]
        self.dropped[-1] |= set(zip((key_N >> 32).tolist(), (key_N & 0xFFFFFFFF).tolist(), strict=True))
        return batch


class SameTrainer(SameTraining, EntroDropTrainer):  # type: ignore[misc]
    """transformers.Trainer, trained as we train."""


def optimizers(model: nn.Module, settings: Settings, rows: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW and a learning rate as in `Run`."""
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    vectors = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    total = -(-rows // settings.batch_size) * settings.epochs
    peak = settings.learning_rate
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate(settings, min(step, total - 1), total) / peak)


def arguments(settings: Settings, folder: Path, kind: Any = TrainingArguments, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size // settings.accumulation,
        "gradient_accumulation_steps": settings.accumulation,
        "max_grad_norm": settings.gradient_clip,
        "label_smoothing_factor": settings.label_smoothing,
        "seed": settings.seed,
        "bf16": settings.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return kind(**(values | changes))


def trainer(
    warm: WarmModel,
    settings: Settings,
    folder: Path,
    *,
    model: PreTrainedModel,
    tokenizer: Any,
    data: Dataset | None = None,
    kind: Any = SameTrainer,
    schedule: Any = None,
    changes: dict[str, Any] | None = None,
    **named: Any,
) -> Any:
    """A trainer that trains as `settings` say, on the training rows of `warm` unless `data` is given."""
    if schedule is None and settings.entrodrop is not None:
        schedule = values_of(settings.entrodrop)
    if issubclass(kind, EntroDropTrainer):
        named.setdefault("data_collator", DataCollatorForSeq2Seq(tokenizer))
    return kind(
        model=model,
        args=arguments(settings, folder, **(changes or {})),
        train_dataset=data if data is not None else dataset_of(warm.prepared.packed("train")),
        processing_class=tokenizer,
        optimizers=optimizers(model, settings, warm.rows),
        schedule=schedule,
        **named,
    )


def sft_trainer() -> tuple[Any, Any]:
    """SFTTrainer, trained as we train, and its configuration; only where TRL is installed."""
    from trl import SFTConfig, SFTTrainer

    return type("SameSFTTrainer", (SameTraining, SFTTrainer), {}), SFTConfig
