"""Causal language models, and the one forward pass that scoring, training and evaluation share.

Shapes: B rows, T positions, D hidden width, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trainables.builtin import ARCHITECTURES, base_folder

BUILTIN = tuple(ARCHITECTURES)


def model_folder(name: str, cache: Path, progress: Callable[[float], None] = lambda _: None) -> Path:
    """The folder with a model's weights (safetensors) and tokenizer.

    Args:
        name: a built-in model's name.
        progress: called with the share of the work that is done.

    Raises:
        KeyError: an unknown name.
    """
    return base_folder(name, cache, progress)


def load_model(folder: Path, device: torch.device) -> PreTrainedModel:
    """The model in `folder`, in float32, without running code from it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    model.to(device)  # type: ignore[arg-type]
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, without running code from it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return tokenizer


def embed(model: PreTrainedModel, token_BT: Tensor) -> Tensor:
    """Input embeddings, BTD."""
    embeddings: Tensor = model.get_input_embeddings()(token_BT)
    return embeddings


def output_matrix(model: PreTrainedModel) -> Tensor:
    """The unembedding matrix, VD."""
    output = model.get_output_embeddings()
    assert isinstance(output, nn.Linear)
    return output.weight


def hidden_states(model: PreTrainedModel, embedding_BTD: Tensor, document_BT: Tensor, position_BT: Tensor) -> Tensor:
    """Final hidden states, BTD, where each token attends only to its own document's tokens up to itself.

    Args:
        document_BT: each token's document; tokens of one row with the same number attend to one another.
        position_BT: each token's index in its document.
    """
    length = document_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=document_BT.device).tril()
    allowed_B1TT = ((document_BT.unsqueeze(2) == document_BT.unsqueeze(1)) & causal_TT).unsqueeze(1)
    output: Tensor = model.base_model(
        inputs_embeds=embedding_BTD, attention_mask=allowed_B1TT, position_ids=position_BT, use_cache=False
    ).last_hidden_state
    return output
