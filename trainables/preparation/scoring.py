"""Entropy of each token under the model in a folder: the scoring loop, over all ranks.

Shapes: R rows, T positions.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trainables import parallel
from trainables.data.packing import Packed
from trainables.errors import ModelError
from trainables.forward import ROWS, Forward
from trainables.models.loading import check_forward, embeddings_of, load_model

CPU = torch.device("cpu")


@torch.no_grad()
def score(
    forward: nn.Module,
    packed: Packed,
    precision: torch.dtype = torch.float32,
    rows: int = ROWS,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Entropy and loss of each token under the model that `forward` runs, over all ranks, `rows` rows at a time.

    Args:
        packed: on the model's device.
        progress: called with the share of the rows that have been scored.

    Returns:
        (entropy_RT, loss_RT) in nats, float32, on the CPU; infinity and 0 where a token has no prediction.
    """
    forward.eval()
    entropy_RT = torch.zeros(packed.token_RT.shape, device=packed.token_RT.device)
    loss_RT = torch.zeros_like(entropy_RT)
    for part, mine in parallel.parts(len(entropy_RT), rows):
        scores_2BT = score_batch(forward, packed[part], precision)
        if mine:
            entropy_RT[part], loss_RT[part] = scores_2BT
        progress(min(part.stop / len(entropy_RT), 1.0))
    for values_RT in (entropy_RT, loss_RT):
        parallel.sum_over_ranks(values_RT)
    return entropy_RT.cpu(), loss_RT.cpu()


@torch.no_grad()
def score_batch(forward: nn.Module, batch: Packed, precision: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """What `score` gives, of a few rows, by one forward pass of this rank."""
    label_BT = batch.label_RT
    result = forward(batch, label_BT, precision, entropy=True)
    # Logits at i predict token i + 1: the one shift.
    entropy_BT, loss_BT, labelled_BT = (
        nn.functional.pad(values_BT[:, :-1], (1, 0))
        for values_BT in (result.entropy_N.view_as(label_BT), result.loss_N.view_as(label_BT), label_BT >= 0)
    )
    return entropy_BT.masked_fill(~labelled_BT, torch.inf), loss_BT


def check_words(packed: Packed, words: int, model: object, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raises ModelError if rows have tokens that a model with embeddings of so many words does not know.

    Args:
        model: its name or its folder, for the error.
        tokenizer: tells the text of such a token.
    """
    if int(packed.token_RT.max()) >= words:
        above = int(packed.token_RT.max())
        text = "" if tokenizer is None else f" ({tokenizer.convert_ids_to_tokens(above)})"
        allowed = (
            f"a model with its own tokenizer: this one has a token {above}{text}, and its embedding (vocab_size in "
            f"config.json) has {words} from 0 on"
        )
        raise ModelError("models", str(model), allowed)


def check_finite(loss: Tensor, model: object) -> None:
    """Raises ModelError if losses before training are not finite: no setting of a run mends that.

    Args:
        model: its name or its folder, for the error.
    """
    if not bool(torch.isfinite(loss).all()):
        allowed = "a model with finite weights: the loss of this one is not finite before training"
        raise ModelError("models", str(model), allowed)


class FolderModel:
    """The model in a folder, on a device, to score with.

    Args:
        one_document_a_row: False if documents share rows.

    Raises:
        ModelError: the model cannot score such rows.
    """

    def __init__(self, folder: Path, one_document_a_row: bool, device: torch.device) -> None:
        self._device = device
        model = load_model(folder, device)
        check_forward(model, packed=not one_document_a_row)
        self._folder, self._words = folder, embeddings_of(model)
        self._forward = Forward(model)

    def score(self, packed: Packed, progress: Callable[[float], None] = lambda _: None) -> tuple[Tensor, Tensor]:
        """See `score`.

        Raises:
            ModelError: the rows have tokens that the model does not know.
        """
        check_words(packed, self._words, self._folder)
        return score(self._forward, packed.to(self._device), progress=progress)


def score_folder(
    folder: Path,
    packed: Packed,
    one_document_a_row: bool,
    progress: Callable[[float], None] = lambda _: None,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:
    """`score` under the model in `folder`, on one device.

    Raises:
        ModelError: the model cannot score such rows.
    """
    return FolderModel(folder, one_document_a_row, device).score(packed, progress)
