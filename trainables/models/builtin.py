"""The built-in tiny models: Qwen3 architecture, pretrained on first use on trainables/models/pretraining_text.py.

They need no hub and no GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trainables.loss import token_loss
from trainables.models.architectures import ARCHITECTURES, Architecture
from trainables.models.pretraining_text import texts as pretraining_texts
from trainables.storage.cache import cached, code_digest
from trainables.storage.manifest import digest

END = "<|endoftext|>"


_ROWS, _LENGTH, _PEAK_RATE = 8, 128, 3e-3
# A fixed number of threads gives the same weights on every machine of one kind; one, because two beside the slots of a
# search on two cores were several times slower.
_THREADS = 1


def base_folder(name: str, root: Path, progress: Callable[[float], None] = lambda _: None) -> Path:
    """The Hugging Face folder with a built-in model's base weights and tokenizer, made on first use.

    Args:
        progress: called with the share of the pretraining that is done.

    Raises:
        KeyError: no such built-in model.
    """
    architecture = ARCHITECTURES[name]
    key = {
        "architecture": asdict(architecture),
        "text": digest(pretraining_texts()),
        "code": code_digest(__name__),
        "torch": torch.__version__,
    }
    return cached(root, "base", key, lambda folder: _build(architecture, folder, progress))


def _build(architecture: Architecture, folder: Path, progress: Callable[[float], None]) -> None:
    tokenizer = _make_tokenizer(architecture.vocabulary)
    torch.manual_seed(0)
    model = _new_model(architecture, tokenizer.eos_token_id)
    _pretrain(model, architecture, tokenizer, pretraining_texts(), progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(_train_tokenizer(vocabulary))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


@cache
def _train_tokenizer(vocabulary: int) -> str:
    """A tokenizer of the pretraining text, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pretraining_texts(), trainer)
    text: str = tokenizer.to_str()
    return text


def unweighted(name: str) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A built-in model with random weights, and its tokenizer: enough to plan a search, without the pretraining."""
    architecture = ARCHITECTURES[name]
    tokenizer = _make_tokenizer(architecture.vocabulary)
    return _new_model(architecture, tokenizer.eos_token_id), tokenizer


def _new_model(architecture: Architecture, end: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=architecture.vocabulary,
            hidden_size=architecture.hidden_size,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            num_key_value_heads=architecture.heads // 2,
            head_dim=architecture.head_dim,
            intermediate_size=architecture.intermediate_size,
            max_position_embeddings=architecture.context,
            tie_word_embeddings=True,
            eos_token_id=end,
        )
    )


def _pretrain(
    model: Qwen3ForCausalLM,
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    progress: Callable[[float], None],
) -> None:
    order = torch.randperm(len(texts)).tolist()
    stream = [i for n in order for i in [*tokenizer(texts[n])["input_ids"], tokenizer.eos_token_id]]
    steps = architecture.pretrain_tokens // (_ROWS * _LENGTH)
    token_N = torch.tensor(stream)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps, pct_start=0.05)
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        for step in range(steps):
            start_B = torch.randint(len(token_N) - _LENGTH - 1, (_ROWS, 1))
            token_BT = token_N[start_B + torch.arange(_LENGTH + 1)]
            hidden_BTD = model.model(input_ids=token_BT[:, :-1], use_cache=False).last_hidden_state
            label_N = token_BT[:, 1:].flatten()
            loss_N, _, _ = token_loss(hidden_BTD.flatten(0, 1), model.lm_head.weight, label_N)
            loss_N.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            progress((step + 1) / steps)
    finally:
        torch.set_num_threads(threads)
