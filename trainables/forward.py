"""From rows of tokens to the loss and entropy of each label: what scoring, training and evaluation share.

Shapes: B rows, T positions, N = B T, M of them with a token, D hidden width.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainables.data.packing import Packed
from trainables.loss import TokenLoss, token_loss
from trainables.masking import zero_inputs
from trainables.models.document_attention import KERNEL_ON, attend_by_document, bounds_mask, lengths_mask
from trainables.models.loading import embed, hidden_states, logits_of, output_matrix
from trainables.noise import Noise

# Rows of a forward pass without a backward one.
ROWS = 8
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Forward(nn.Module):
    """A causal language model, from tokens to `TokenLoss`: what DistributedDataParallel and FSDP wrap.

    Args:
        by_document: whether the model may leave out padding, and attend document by document.
    """

    def __init__(self, model: PreTrainedModel, by_document: bool = True) -> None:
        super().__init__()
        self.model = model
        self.by_document = by_document and attend_by_document(model)
        self._logits = logits_of(model)

    def forward(
        self,
        rows: Packed,
        label_BT: Tensor,
        precision: torch.dtype = torch.float32,
        *,
        entropy: bool = False,
        likeliest: int | None = None,
        label_smoothing: float = 0.0,
        zeroed_BT: Tensor | None = None,
        noise: Noise | None = None,
        most_labels: int | None = None,
        most_documents: int | None = None,
    ) -> TokenLoss:
        """The loss of each label; see `token_loss`.

        Args:
            label_BT: as `Packed.label_RT`.
            precision: bfloat16 for autocast.
            entropy, likeliest: see `token_loss`.
            zeroed_BT: the tokens whose embedding is replaced by zeros.
            noise: adds NEFTune's noise to the embeddings.
            most_labels: see `token_loss`.
            most_documents: see `bounds_mask`.
        """
        with torch.autocast(label_BT.device.type, dtype=precision, enabled=precision != torch.float32):
            embedding_BTD = embed(self.model, rows.token_RT)
            if noise is not None:
                embedding_BTD = noise.neftune(embedding_BTD, rows.document_RT)
            if zeroed_BT is not None:
                embedding_BTD = zero_inputs(embedding_BTD, zeroed_BT)
            hidden_ND = self._hidden(embedding_BTD, rows, noise, most_documents)
        return token_loss(
            hidden_ND.to(precision),
            output_matrix(self.model).to(precision),
            label_BT.flatten(),
            entropy=entropy,
            likeliest=likeliest,
            label_smoothing=label_smoothing,
            logits=self._logits,
            most_labels=most_labels,
        )

    def _hidden(self, embedding_BTD: Tensor, rows: Packed, noise: Noise | None, most_documents: int | None) -> Tensor:
        """The final hidden states, ND; where there is no token, they may be zeros."""
        device = embedding_BTD.device.type
        # Dropout of attention weights is drawn for whole rows, so that a run does not depend on how its model attends.
        by_document = self.by_document and not (noise and noise.on_attention)
        if not by_document or device in KERNEL_ON:
            kernel = by_document and torch.is_autocast_enabled(device)
            mask = bounds_mask(rows.document_RT, most_documents) if kernel else None
            return hidden_states(self.model, embedding_BTD, rows.position_RT, mask).flatten(0, 1)
        token_M = torch.nonzero(rows.document_RT.flatten() >= 0).flatten()
        # Of rows without any token one position stays: each rank needs a forward and a backward pass.
        token_M = token_M if len(token_M) else token_M.new_zeros(1)
        position_M = rows.position_RT.flatten()[token_M]
        if noise is not None:
            noise.place(rows.token_RT.shape, token_M)
        embedding_ND = embedding_BTD.flatten(0, 1)
        embedding_1MD = embedding_ND.index_select(0, token_M).unsqueeze(0)
        hidden_1MD = hidden_states(self.model, embedding_1MD, position_M.unsqueeze(0), lengths_mask(position_M))
        return torch.zeros_like(embedding_ND, dtype=hidden_1MD.dtype).index_copy(0, token_M, hidden_1MD[0])
