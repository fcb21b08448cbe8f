"""A random Qwen3 model of some 6,000 parameters, and short documents for it: a run takes a tenth of a second."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trainables.curriculum import Constant, Curriculum
from trainables.data.documents import Chat, Document, Splits
from trainables.data.packing import Packed
from trainables.entropy import entropy_of_logits
from trainables.preparation.prepare import Scorer, prepare
from trainables.preparation.prepared import Preparation, Prepared
from trainables.preparation.scoring import score_folder
from trainables.settings import EntroDrop, Settings
from trainables.storage.cache import cached

_NAMES = ("anna", "ben", "carla", "dmitri")
_THINGS = ("apples", "books", "coins", "stamps")
_WORDS = ("has", "buys", "more", "loses", "then", "now", ".", *_NAMES, *_THINGS, *map(str, range(40)))
_SEEDS = {"tiny": 0, "other": 1}

CPU = torch.device("cpu")


def folder(name: str, cache: Path, progress: Any = None) -> Path:
    """Stands in for `trainables.models.resolve.model_folder`; the models "tiny" and "other" share their tokenizer."""

    return cached(cache, "base", {"tiny": name}, lambda entry: save(name, entry))


def save(name: str, folder: Path) -> None:
    """Writes the model "tiny" or "other", with its tokenizer."""
    _model(_SEEDS[name]).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def space(folder: Path, **changes: Any) -> dict[str, Any]:
    """A small space for the models "tiny" and "other", which it writes into `folder` with their data."""
    for name in _SEEDS:
        save(name, folder / name)
    documents = splits()
    texts = [document.text for document in (*documents.train, *documents.validation, *documents.test)]
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = {"source": "files", "path": "data.jsonl", "template": "{text}"}
    return {
        "name": "tiny",
        "models": ["./tiny"],
        "data": {**files, "train": 24, "validation": 10, "test": 9},
        "budget": {"trials": 2, "epochs": 3},
        "training": {"batch_size": 2, "sequence_length": 48},
        "early_stopping": {"pruner": "none", "patience": None},
        "confirmation": None,
        **changes,
    }


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(("<end>", "<unknown>", *_WORDS, "<mask>"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>", mask_token="<mask>"
    )


def _model(seed: int) -> Qwen3ForCausalLM:
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(_WORDS) + 3,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            intermediate_size=32,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            eos_token_id=0,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                # Wide enough that the entropies of the untrained model differ.
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def splits(seed: int = 0) -> Splits:
    """24, 10 and 10 documents of 8 to 23 tokens."""
    draw = random.Random(seed)

    def document() -> Document:
        name, thing, count = draw.choice(_NAMES), draw.choice(_THINGS), draw.randrange(10)
        words = [name, "has", str(count), thing, "."]
        for _ in range(draw.randrange(3)):
            change = draw.randrange(1, 10)
            words += [*("then", name, "buys", str(change)), *("more", ".")]
            count += change
        text = " ".join([*words, "now", name, "has", str(count), thing, "."])
        return Document(text, text)

    return Splits(*(tuple(document() for _ in range(size)) for size in (24, 10, 10)))


# A chat template for the tokenizer of the models.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def chats() -> Splits:
    """The documents of `splits` as chats: a question of four words, and what follows it as the answer."""

    def chat(document: Document, number: int) -> Document:
        words = document.text.split()
        asked, answer = " ".join(words[:4]), " ".join(words[4:])
        messages = {"role": "user", "content": asked}, {"role": "assistant", "content": answer}
        own = Chat(messages, (False, True), place=f"line {number} of chats.jsonl")
        return Document(answer, document.group, asked, answer, own)

    own = splits()
    parts = (own.train, own.validation, own.test)
    return Splits(*(tuple(chat(document, n) for n, document in enumerate(part, 1)) for part in parts))


def preparation(cache: Path, **changes: Any) -> Preparation:
    values = {"splits": splits(), "sequence_length": 48, "high_entropy": 0.2, "low_entropy": 0.5, "cache": cache}
    return Preparation(**(values | changes))


def prepared(
    cache: Path, model: str = "tiny", models: Sequence[str] = ("tiny",), scorer: Scorer = score_folder, **changes: Any
) -> Prepared:
    with mock.patch("trainables.preparation.prepare.model_folder", folder):
        return prepare(model, models, preparation(cache, **changes), scorer=scorer)


def settings(**changes: Any) -> Settings:
    """Three epochs without dropout."""
    values: dict[str, Any] = {
        "entrodrop": None,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "warmup": 0.1,
        "batch_size": 4,
        "accumulation": 1,
        "gradient_clip": 1.0,
        "precision": "fp32",
        "epochs": 3,
        "evaluations_per_epoch": 1,
        "seed": 0,
    }
    return Settings(**(values | changes))


def entrodrop(
    curriculum: Curriculum | None = None, quantile: float = 0.5, mask_ratio: float = 0.5, presentation: str = "input"
) -> EntroDrop:
    """Constant strength unless a curriculum is given."""
    return EntroDrop(mask_ratio, curriculum or Constant(), quantile=quantile, presentation=presentation)


@torch.no_grad()
def dense(model: PreTrainedModel, packed: Packed) -> tuple[Tensor, Tensor]:
    """The slow reference: (entropy_RT, loss_RT) in float64 from full logits, each document alone in its row."""
    entropy_RT = torch.full(packed.token_RT.shape, torch.inf, dtype=torch.float64)
    loss_RT = torch.zeros(packed.token_RT.shape, dtype=torch.float64)
    for document in packed.document_RT.unique().tolist():
        if document < 0:
            continue
        rows, columns = torch.nonzero(packed.document_RT == document, as_tuple=True)
        token_T = packed.token_RT[rows, columns]
        logit_TV = model(input_ids=token_T.unsqueeze(0), use_cache=False).logits[0].double()
        log_p_TV, entropy_T = logit_TV.log_softmax(-1), entropy_of_logits(logit_TV)
        for t in range(1, len(token_T)):
            entropy_RT[rows[t], columns[t]] = entropy_T[t - 1]
            loss_RT[rows[t], columns[t]] = -log_p_TV[t - 1, token_T[t]]
    return entropy_RT, loss_RT
