"""Entropies of a datasets.Dataset, for training in another trainer: computed once, and kept in the cache.

Shapes: R samples, B rows of a batch, T positions.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from pyarrow.compute import list_value_length
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainables.data.packing import Packed
from trainables.errors import DataError
from trainables.forward import ROWS, Forward
from trainables.models.loading import check_forward, embeddings_of
from trainables.preparation.scoring import check_finite, check_words, score_batch
from trainables.storage.cache import code_digest, default_root
from trainables.storage.manifest import digest

# Columns of training data that say what its tokens are.
_READ = ("input_ids", "labels", "attention_mask", "position_ids", "seq_lengths")


def score_under_model(data: Dataset, model: Any, special: Sequence[int]) -> tuple[Dataset, str]:
    """`score_dataset` under a model as it is now, without its adapters."""
    adapted = hasattr(model, "disable_adapter")
    base = model.get_base_model() if adapted else model
    weights = hashlib.blake2b()
    for name, tensor in base.state_dict().items():
        if not (adapted and "lora_" in name):
            weights.update(name.encode())
            weights.update(memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    with model.disable_adapter() if adapted else nullcontext():
        return score_dataset(data, lambda: base, weights.hexdigest(), special, base.config.to_dict())


def score_dataset(
    data: Dataset, model: Callable[[], Any], weights: str, special: Sequence[int], config: Mapping[str, Any] = {}
) -> tuple[Dataset, str]:
    """The columns entropy (of each token, in nats; NaN where it cannot be dropped) and place (of each token in its
    sample; -1 for padding), a row for each sample, from the cache if they are there; and what they depend on, as a
    digest that stays the same from version to version.

    Args:
        model: gives the model, if it is needed.
        weights, config: say which model it is.

    Raises:
        ModelError: the model cannot be used.
    """
    read = [name for name in _READ if name in data.column_names]
    if "input_ids" not in read:
        raise DataError("train_dataset", f"the columns {', '.join(data.column_names)}", "input_ids among them")
    data = data.select_columns(read).with_format(None)
    content = hashlib.blake2b()
    for table in data.with_format("arrow").iter(1000):
        for name in read:
            column = table[name].combine_chunks()
            content.update(name.encode())
            content.update(np.asarray(list_value_length(column)).tobytes())
            content.update(np.asarray(column.flatten()).tobytes())
    identity = digest([weights, content.hexdigest(), list(special)])[:32]
    key = digest([code_digest(__name__), identity, config])[:32]
    folder = default_root() / "trainer"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder that can be written ({error.strerror})"
        raise DataError("ENTRODROP_CACHE", str(folder.parent), allowed) from None
    path = folder / f"{key}.arrow"
    forward = None
    with ExitStack() as stack:
        if not path.is_file():
            one = model()
            check_forward(one, packed="position_ids" in read or "seq_lengths" in read)
            stack.callback(_restore_attention, one, one.config._attn_implementation)
            forward = Forward(one)
        entropies = data.map(
            partial(_score, forward, torch.tensor(special)),
            batched=True,
            batch_size=ROWS,
            remove_columns=read,
            new_fingerprint=key,
            cache_file_name=str(path),
            load_from_cache_file=True,
            desc="entropies",
        )
    return entropies, identity


def _restore_attention(model: Any, implementation: str) -> None:
    """The model is the user's: it goes on with its own attention."""
    if model.config._attn_implementation != implementation:
        model.set_attn_implementation(implementation)


def _score(forward: Forward | None, special: Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
    assert forward is not None
    rows, place_RT = _rows(batch, special)
    check_words(rows, embeddings_of(forward.model), "the model")
    training = forward.training
    entropy_RT, loss_RT = score_batch(forward.eval(), rows.to(next(forward.parameters()).device))
    forward.train(training)
    check_finite(loss_RT, "the model")
    # In half precision, as in this project's own cache.
    entropy_RT = entropy_RT.cpu().half().float().masked_fill(~rows.droppable_RT, math.nan)
    lengths = [len(tokens) for tokens in batch["input_ids"]]
    return {
        name: [values_T[:length].numpy() for values_T, length in zip(values_RT, lengths, strict=True)]
        for name, values_RT in (("entropy", entropy_RT), ("place", place_RT))
    }


def _rows(batch: Mapping[str, Any], special: Tensor) -> tuple[Packed, Tensor]:
    """Samples as rows, and the place of each token in its sample, -1 for padding."""

    def padded(name: str, fill: int) -> Tensor:
        return pad_sequence([torch.as_tensor(values, dtype=torch.int64) for values in batch[name]], True, fill)

    token_RT = padded("input_ids", 0)
    real_RT = torch.arange(token_RT.shape[1]) < torch.tensor([[len(tokens)] for tokens in batch["input_ids"]])
    if "attention_mask" in batch:
        real_RT &= padded("attention_mask", 0) > 0
    place_RT = real_RT.cumsum(1) - 1
    if "seq_lengths" in batch:
        starts_RT = torch.zeros_like(real_RT)
        for row, lengths in enumerate(batch["seq_lengths"]):
            starts_RT[row, torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    else:
        starts_RT = padded("position_ids", 1) == 0 if "position_ids" in batch else place_RT == 0
    starts_RT = (starts_RT | (place_RT == 0)) & real_RT
    started_RT = torch.where(starts_RT, place_RT, 0).cummax(1).values
    trained_RT = real_RT & (padded("labels", -100) != -100) if "labels" in batch else real_RT
    packed = Packed(
        token_RT,
        torch.where(real_RT, starts_RT.cumsum(1), -1),
        torch.where(real_RT, place_RT - started_RT, 0),
        torch.isin(token_RT, special),
        trained_RT,
    )
    return packed, torch.where(real_RT, place_RT, -1).int()
