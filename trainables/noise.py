"""Regularizers by noise: hidden dropout, attention dropout, dropout before adapters, and NEFTune, the same whatever
interrupts a run.

All but attention dropout draw for each row of the data on its own, so they depend on neither the number of ranks nor
the micro-batches. That one draws inside the attention kernel, from torch's own generator: seeded for each
micro-batch, it is the same after an interruption, but not with another number of ranks.

Shapes: B rows, T positions, M tokens that are not padding, D width.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainables.errors import DataError
from trainables.models.loading import set_attention_dropout
from trainables.settings import Settings

# What transformers calls the two blocks of a decoder layer.
_BLOCKS = ("self_attn", "attn", "attention", "mlp", "feed_forward")
# Layers of noise that are no blocks: the embedding, and from there downwards the adapters.
_EMBEDDING, _ADAPTERS = -1, -2


class Noise(AbstractContextManager["Noise"]):
    """The noise of one run; it is on between `__enter__` and `__exit__`.

    Args:
        lora_dropout: of what goes into adapters, in [0, 1).

    Raises:
        DataError: the architecture has no block or no attention that the dropout could be put on.
    """

    def __init__(self, model: PreTrainedModel, settings: Settings, lora_dropout: float = 0.0) -> None:
        self._settings, self._lora_dropout = settings, lora_dropout
        self._model = model
        self._rows: Sequence[int] = ()
        self._placed: tuple[torch.Size, Tensor] | None = None
        self._epoch = 0
        self._hooks = ExitStack()
        self._blocks = [m for name, m in model.named_modules() if name.rpartition(".")[2] in _BLOCKS]
        # What goes into an adapter passes through a module of this name, which does nothing itself.
        self._adapters = [m for name, m in model.named_modules() if name.endswith(".lora_dropout.default")]
        problem = f"the architecture {model.config.model_type} has no such dropout; write 0"
        if settings.hidden_dropout > 0 and not self._blocks:
            raise DataError("training.hidden_dropout", problem)
        if settings.attention_dropout > 0 and not set_attention_dropout(model, 0.0):
            raise DataError("training.attention_dropout", problem)

    def __enter__(self) -> "Noise":
        if self._settings.hidden_dropout > 0:
            self._drop(self._blocks, self._settings.hidden_dropout, range(len(self._blocks)))
        if self._lora_dropout > 0:
            self._drop(self._adapters, self._lora_dropout, range(_ADAPTERS, _ADAPTERS - len(self._adapters), -1))
        if self._settings.attention_dropout > 0:
            set_attention_dropout(self._model, self._settings.attention_dropout)
            self._hooks.callback(set_attention_dropout, self._model, 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def begin(self, epoch: int, rows: Sequence[int], step: int, part: int) -> None:
        """Says what is computed next.

        Args:
            rows: indices of the micro-batch's rows in the data.
            step, part: of the run, and of this rank's micro-batches in it over all ranks.
        """
        self._epoch, self._rows = epoch, rows
        if self._settings.attention_dropout > 0:
            torch.manual_seed(_seed(self._settings.seed, step, part))

    @property
    def on_attention(self) -> bool:
        return self._settings.attention_dropout > 0

    def place(self, shape_BT: torch.Size, token_M: Tensor) -> None:
        """Says that the layers see only these tokens of the flattened rows, in a single row."""
        self._placed = shape_BT, token_M

    def neftune(self, embedding_BTD: Tensor, document_BT: Tensor) -> Tensor:
        """Adds noise in +-alpha / sqrt(L D), where L is the length of the token's document (arXiv 2310.05914)."""
        alpha = self._settings.neftune_alpha
        if alpha == 0:
            return embedding_BTD
        length_BT = (document_BT.unsqueeze(2) == document_BT.unsqueeze(1)).sum(dim=2)
        noise_BTD = 2 * self._uniform(_EMBEDDING, embedding_BTD) - 1
        scale_BT = alpha / (length_BT * embedding_BTD.shape[-1]).sqrt()
        return embedding_BTD + noise_BTD * scale_BT.unsqueeze(-1)

    def _drop(self, modules: Sequence[nn.Module], share: float, layers: Sequence[int]) -> None:
        for module, layer in zip(modules, layers, strict=True):
            self._hooks.callback(module.register_forward_hook(self._dropout(layer, share)).remove)

    def _dropout(self, layer: int, share: float) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            if not module.training:
                return output
            # An attention block gives a tuple, whose first part is what it adds.
            hidden_BTD: Tensor = output[0] if isinstance(output, tuple) else output
            kept_BTD = self._uniform_of_layer(layer, hidden_BTD) >= share
            dropped_BTD = hidden_BTD * kept_BTD / (1 - share)
            return (dropped_BTD, *output[1:]) if isinstance(output, tuple) else dropped_BTD

        # Compiled, it would be compiled again for each layer and each share.
        uncompiled: Callable[[nn.Module, Any, Any], Any] = torch.compiler.disable(hook)
        return uncompiled

    def _uniform_of_layer(self, layer: int, like_BTD: Tensor) -> Tensor:
        if self._placed is None:
            return self._uniform(layer, like_BTD)
        shape_BT, token_M = self._placed
        return self._uniform(layer, like_BTD.new_empty(*shape_BT, like_BTD.shape[-1])).flatten(0, 1)[token_M][None]

    def _uniform(self, layer: int, like_BTD: Tensor) -> Tensor:
        """Numbers in [0, 1), a pure function of (seed, epoch, layer, row)."""
        value_BTD = torch.empty_like(like_BTD, dtype=torch.float32)
        for value_TD, row in zip(value_BTD, self._rows, strict=True):
            generator = torch.Generator(like_BTD.device)
            generator.manual_seed(_seed(self._settings.seed, self._epoch, layer, row))
            value_TD.uniform_(generator=generator)
        return value_BTD


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())
