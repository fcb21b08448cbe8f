"""EntroDrop in the trainer that one has: transformers.Trainer, or TRL's SFTTrainer.

    EntroDropTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, schedule="best.yaml")

    class Trainer(EntroDropMixin, SFTTrainer): ...

The same tokens are dropped as in this project's own training: by the same entropies, at the same strength, by the same
random numbers (`masking.uniforms`) of the trainer's seed, the epoch, the sample (its row in the training data, before
it is packed) and the token's place in it. Progress is tokens seen, over all processes, as a share of the full budget:
max_steps, in tokens of whole epochs.

Shapes: R samples, B rows of a batch, T positions.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from transformers import Trainer

from trainables.config.recipe import load_schedule
from trainables.config.to_settings import entrodrop_of
from trainables.data.text_tokens import special_ids
from trainables.errors import DataError, ModelError
from trainables.masking import (
    DRAW,
    REPLACE,
    candidates,
    dropped_range,
    dropped_tokens,
    mask_tokens,
    random_tokens,
    uniforms,
    zero_inputs,
)
from trainables.models.loading import embeddings_of, load_model, load_tokenizer
from trainables.models.resolve import model_digest, model_folder
from trainables.preparation.checks import mask_token_of, of_reference, ordinary_tokens, other_tokenizer
from trainables.preparation.dataset_scoring import score_dataset, score_under_model
from trainables.storage.cache import default_root

# Of the training data: for each token that may be dropped its sample and its place in it; _KEPT for each other one.
COLUMN = "entrodrop"
_KEPT, _NO_TOKEN = -1, -2
_PLACE_BITS = 32
# Of a batch: how many tokens it has.
_TOKENS = "entrodrop_tokens"
# Of the training data while TRL prepares it: the number of each sample.
_SAMPLE = "entrodrop_sample"

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class EntroDropMixin(_Trainer):
    """Put before a transformers.Trainer or an SFTTrainer: drops tokens in training, and never in evaluation.

    Args:
        schedule: a YAML file with a block `schedule` in which nothing is searched, such as best_schedule.<model>.yaml,
            or the values of this block. None, and `schedule: null` in the file: no token is dropped.
        arguments, named: the trainer's own. The training data is a datasets.Dataset (for Trainer one with input_ids),
            and the tokenizer is the model's.

    Raises:
        ConfigError: the schedule cannot be used.
        DataError: the data, the model or the way of training cannot.
    """

    def __init__(self, *arguments: Any, schedule: str | Path | Mapping[str, Any] | None, **named: Any) -> None:
        self._schedule = block = load_schedule(schedule) if schedule is not None else None
        self._zeroed_BT: Tensor | None = None
        self._hooks = ExitStack()
        self._packing: Any = None
        self._is_numbered = False
        self._strength = 0.0
        # This process's dropped tokens and tokens since the last log.
        self._dropped: Tensor | int = 0
        self._tokens = 0
        super().__init__(*arguments, **named)
        if block is None or self.train_dataset is None:
            return
        self._entrodrop = entrodrop_of(block)
        if every := self._entrodrop.refresh_epochs:
            raise DataError("schedule.refresh_epochs", str(every), "0 in a Trainer")
        if self.args.n_gpu > 1:
            raise DataError("args", "one process trains on several GPUs; start one a GPU, with torchrun")
        if self.get_cp_size() * self.get_sp_size() > 1:
            raise DataError("args", "samples are split among devices (context or sequence parallelism); turn it off")
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        if tokenizer is None:
            raise DataError("processing_class", "there is none; give the model's tokenizer, which knows special tokens")
        model: Any = self.model
        words = embeddings_of(model)
        self._mask_token = mask_token_of(tokenizer, block.mask_token, block.needs_mask_token, words)
        ordinary = [token for token in ordinary_tokens(tokenizer) if token < words]
        self._ordinary_W = torch.tensor(ordinary, device=self.args.device)
        # The first process computes the entropies, the others read them.
        with self.args.main_process_first(desc="entropies"):
            data = self._add_candidates(_check_data(self.train_dataset), tokenizer, block.reference)
        rows = data if self._packing is None else _packed_by_trl(data, self._packing)
        self.train_dataset = rows
        self._epoch_tokens = 0
        for batch in rows.select_columns([COLUMN]).with_format(None).iter(1000):
            self._epoch_tokens += sum(int((torch.tensor(keys) != _NO_TOKEN).sum()) for keys in batch[COLUMN])

    def _add_candidates(self, data: Dataset, tokenizer: Any, reference: str | None) -> Dataset:
        """The data with `COLUMN`, by the entropies under `reference`, or else under the model as it is now."""
        special = sorted(special_ids(tokenizer))
        try:
            if reference is None:
                entropies, self._identity = score_under_model(data, self.model, special)
            else:
                folder = model_folder(reference, default_root())
                if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
                    raise other_tokenizer(reference, "the model")
                load = partial(load_model, folder, self.args.device)
                entropies, self._identity = score_dataset(data, load, model_digest(folder), special)
        except ModelError as error:
            raise of_reference(error) if reference else DataError("model", *error.args[1:]) from error
        flat = entropies.with_format("arrow")[:]["entropy"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        entropy_N = torch.from_numpy(flat.copy())
        droppable_N = ~entropy_N.isnan()
        if not bool(droppable_N.any()):
            raise DataError("train_dataset", "it has no token to drop; give one with labels that are not all -100")
        least, greatest, self._share = dropped_range(self._entrodrop, entropy_N, droppable_N)
        if _SAMPLE in data.column_names:
            entropies = concatenate_datasets([entropies, data.select_columns([_SAMPLE])], axis=1)
            data = data.remove_columns([_SAMPLE])
        column = entropies.map(
            partial(_find_candidates, least, greatest),
            with_indices=True,
            batched=True,
            remove_columns=entropies.column_names,
            desc="candidates",
        )
        return concatenate_datasets([data.with_format(None), column], axis=1).with_format(data.format["type"])

    def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, packing: bool, *arguments: Any) -> Any:
        """SFTTrainer's; training data is numbered before, and packed later, when the entropies are known."""
        prepare: Callable[..., Any] = super()._prepare_dataset  # type: ignore[misc]
        if self._schedule is None or self._is_numbered:
            return prepare(dataset, tokenizer, args, packing, *arguments)
        self._is_numbered = True
        numbered = _check_data(dataset).add_column(_SAMPLE, np.arange(len(dataset)))
        if not packing:
            return prepare(numbered, tokenizer, args, False, *arguments)
        self._packing = args
        args = copy.copy(args)
        # What these ways of packing do with samples that are longer than a row.
        args.truncation_mode = "keep_start"
        if args.packing_strategy != "bfd":
            args.max_length = None
        return prepare(numbered, tokenizer, args, False, *arguments)

    def get_train_dataloader(self) -> Any:
        if self._schedule is None:
            return super().get_train_dataloader()
        self._set_signature_columns_if_needed()
        own = self.data_collator, self._signature_columns
        # Evaluation sees neither.
        self.data_collator = _Collator(self.data_collator)
        self._signature_columns = [*(self._signature_columns or []), COLUMN]  # type: ignore[assignment]
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self._signature_columns = own

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        values = super().set_initial_training_values(args, dataloader)
        if self._schedule is not None:
            _, self._epoch_steps, *_, max_steps = values
            self._budget_tokens = self._epoch_tokens * max_steps / self._epoch_steps
            model: Any = self.model
            self._hooks.callback(model.get_input_embeddings().register_forward_hook(self._zero).remove)
        return values

    def train(self, *arguments: Any, **named: Any) -> Any:
        with self._hooks:
            return super().train(*arguments, **named)

    def _zero(self, _module: nn.Module, _arguments: Any, embedding_BTD: Tensor) -> Tensor:
        return embedding_BTD if self._zeroed_BT is None else zero_inputs(embedding_BTD, self._zeroed_BT)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        if self._schedule is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step
        # The one part of the state, which a checkpoint keeps, that has room for more.
        stored = self.state.stateful_callbacks
        assert isinstance(stored, dict)
        known: dict[str, Any] = stored.get(COLUMN, {})
        if known.get("entropies", self._identity) != self._identity:
            problem = "its training began with another model or other data; give the same ones"
            raise DataError("resume_from_checkpoint", problem)
        # A checkpoint of another trainer knows its steps alone.
        seen: float = known.get("tokens", self._budget_tokens * step / self.state.max_steps)
        self._strength = self._entrodrop.curriculum(min(1.0, seen / self._budget_tokens))
        rate = self._share * self._entrodrop.mask_ratio * self._strength
        counts: list[int] = []

        def presented(batch: Any) -> Any:
            counts.append(batch.pop(_TOKENS))
            return self._present(batch, step // self._epoch_steps, rate)

        # Before the labels are counted.
        batches, labels = super().get_batch_samples(map(presented, epoch_iterator), num_batches, device)
        count = sum(counts)
        self._tokens += count
        if self.args.world_size > 1:
            # Processes of one tensor-parallel group have the same batch.
            all_counts = self.accelerator.reduce(torch.tensor(count, device=self.args.device), "sum")
            count = int(all_counts) // self.get_tp_size()
        stored[COLUMN] = {"tokens": seen + count, "entropies": self._identity}
        return batches, labels.clamp(min=1) if isinstance(labels, Tensor) else labels

    def _present(self, batch: Any, epoch: int, rate: float) -> Any:
        """The batch with tokens dropped at `rate`; where zeros replace them, `COLUMN` says so."""
        key_BT = batch.pop(COLUMN)
        sample_BT, place_BT = key_BT >> _PLACE_BITS, key_BT & ((1 << _PLACE_BITS) - 1)
        candidate_BT = key_BT >= 0
        if "labels" in batch:
            # The collator may have taken more tokens out of the loss.
            candidate_BT &= batch["labels"] != -100

        def uniform_BT(stream: int) -> Tensor:
            return uniforms(self.args.seed, self._entrodrop.draw(epoch), sample_BT, place_BT, stream)

        dropped_BT = dropped_tokens(candidate_BT, rate, uniform_BT(DRAW))
        self._dropped += dropped_BT.sum()
        match self._entrodrop.presentation:
            case "input":
                batch[COLUMN] = dropped_BT
            case "loss":
                # Here a label stands at its own token.
                batch["labels"] = batch["labels"].masked_fill(dropped_BT, -100)
            case "input_mask_token":
                assert self._mask_token is not None
                batch["input_ids"] = mask_tokens(batch["input_ids"], dropped_BT, self._mask_token)
            case "input_random_token":
                token_BT = batch["input_ids"]
                batch["input_ids"] = random_tokens(token_BT, dropped_BT, uniform_BT(REPLACE), self._ordinary_W)
        return batch

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        # The embedding's hook reads it: so the model gets input_ids, which sharded and compiled ones need.
        self._zeroed_BT = inputs.pop(COLUMN, None)
        try:
            return super().compute_loss(model, inputs, *arguments, **named)
        finally:
            self._zeroed_BT = None

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if self._schedule is not None and "loss" in logs:
            logs |= {"curriculum_strength": self._strength, "mask_rate": float(self._dropped) / max(self._tokens, 1)}
            self._dropped, self._tokens = 0, 0
        super().log(logs, *arguments, **named)


class EntroDropTrainer(EntroDropMixin, Trainer):
    """transformers.Trainer with a schedule."""


@dataclass
class _Collator:
    """A collator for samples that have `COLUMN`: lays it out as `collate` lays out the tokens."""

    collate: Callable[[list[dict[str, Any]]], Any]

    def __call__(self, samples: list[dict[str, Any]]) -> Any:
        tokens = [torch.as_tensor(sample["input_ids"]) for sample in samples]
        keys = [torch.as_tensor(sample[COLUMN]) for sample in samples]
        count = sum(int((key_T != _NO_TOKEN).sum()) for key_T in keys)
        batch = self.collate([{n: values for n, values in sample.items() if n != COLUMN} for sample in samples])
        token_BT, mask_BT = batch["input_ids"], batch.get("attention_mask")
        if len(token_BT) == 1:
            # One sample, or all of them in one row.
            tokens, keys = [torch.cat(tokens)], [torch.cat(keys)]
        key_BT = torch.full_like(token_BT, _NO_TOKEN)
        for row, (token_T, key_T) in enumerate(zip(tokens, keys, strict=True)):
            mask_T = mask_BT[row] if mask_BT is not None and mask_BT.ndim == 2 else None
            key_BT[row, _part(token_BT[row], mask_T, token_T)] = key_T
        batch[COLUMN], batch[_TOKENS] = key_BT, count
        return batch


def _part(row_T: Tensor, mask_T: Tensor | None, token_T: Tensor) -> slice:
    """Where the collator put a sample's tokens in a row, which it may have padded on either side."""
    for start in (0, len(row_T) - len(token_T)):
        part = slice(start, start + len(token_T))
        if torch.equal(row_T[part], token_T) and (mask_T is None or mask_T[part].sum() == mask_T.sum()):
            return part
    raise DataError("data_collator", "it changes input_ids; give one that only pads them or puts samples in one row")


def _check_data(data: Any) -> Dataset:
    if not isinstance(data, Dataset) or data.format["type"] == "custom":
        given = f"{type(data).__name__}{' with a transform' if isinstance(data, Dataset) else ''}"
        raise DataError("train_dataset", given, "a datasets.Dataset, whose tokens are known before the training")
    return data


def _find_candidates(least: float, greatest: float, batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    keys = []
    for sample, entropy, place in zip(batch.get(_SAMPLE, rows), batch["entropy"], batch["place"], strict=True):
        entropy_T, place_T = torch.tensor(entropy), torch.tensor(place, dtype=torch.int64)
        others_T = torch.where(place_T < 0, _NO_TOKEN, _KEPT)
        candidate_T = candidates(entropy_T, ~entropy_T.isnan(), least, greatest)
        keys.append(torch.where(candidate_T, (sample << _PLACE_BITS) | place_T, others_T).numpy())
    return {COLUMN: keys}


def _packed_by_trl(data: Dataset, args: Any) -> Dataset:
    """Rows of several samples, as SFTTrainer makes them."""
    from trl import pack_dataset

    columns = data.select_columns(["input_ids", "labels", COLUMN])
    rows = pack_dataset(columns, args.max_length, args.packing_strategy, {"num_proc": args.dataset_num_proc})
    if args.packing_strategy != "bfd":
        rows = rows.map(_keep_starts, desc="starts")
    return rows.shuffle(seed=args.seed) if args.shuffle_dataset else rows


def _keep_starts(row: dict[str, Any]) -> dict[str, Any]:
    """A sample may have been cut, and the first token that a model sees is never dropped."""
    key_T = torch.tensor(row[COLUMN])
    key_T[torch.tensor([0, *row.get("seq_lengths", [0])[:-1]]).cumsum(0)] = _KEPT
    return {COLUMN: key_T.numpy()}
