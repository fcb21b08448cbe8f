"""From rows of tokens to the loss and entropy of each label: what scoring, training and evaluation share.

Shapes: B rows, T positions, N = B T.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainables.data.packing import Packed
from trainables.loss import TokenLoss, token_loss
from trainables.masking import zero_inputs
from trainables.models.loading import embed, hidden_states, logits_of, output_matrix
from trainables.noise import Noise

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Forward(nn.Module):
    """A causal language model, from tokens to `TokenLoss`: what DistributedDataParallel and FSDP wrap."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
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
    ) -> TokenLoss:
        """The loss of each label; see `token_loss`.

        Args:
            label_BT: as `Packed.label_RT`.
            precision: bfloat16 for autocast.
            entropy, likeliest: see `token_loss`.
            zeroed_BT: the tokens whose embedding is replaced by zeros.
            noise: adds NEFTune's noise to the embeddings.
            most_labels: see `token_loss`.
        """
        with torch.autocast(label_BT.device.type, dtype=precision, enabled=precision != torch.float32):
            embedding_BTD = embed(self.model, rows.token_RT)
            if noise is not None:
                embedding_BTD = noise.neftune(embedding_BTD, rows.document_RT)
            if zeroed_BT is not None:
                embedding_BTD = zero_inputs(embedding_BTD, zeroed_BT)
            hidden_BTD = hidden_states(self.model, embedding_BTD, rows.position_RT)
        return token_loss(
            hidden_BTD.flatten(0, 1).to(precision),
            output_matrix(self.model).to(precision),
            label_BT.flatten(),
            entropy=entropy,
            likeliest=likeliest,
            label_smoothing=label_smoothing,
            logits=self._logits,
            most_labels=most_labels,
        )
