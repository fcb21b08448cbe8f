"""What all trials of a model share, computed once: tokens, entropies, the frozen evaluation set.

Everything is cached by content hash, that of the code that computes it included, and only read by the trials.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainables.data.chat_tokens import ChatTokenizer
from trainables.data.documents import Document, Splits, of_general
from trainables.data.packing import Packed, pack
from trainables.data.text_tokens import encode
from trainables.entropy import evaluation_groups
from trainables.errors import DataError, ModelError
from trainables.models.loading import chat_templates, context_length, load_tokenizer, tokenizer_files, words_of
from trainables.models.resolve import model_digest, model_files, model_folder
from trainables.preparation.checks import (
    check_learnable,
    check_length,
    check_mask_token,
    mask_token_of,
    of_reference,
    ordinary_tokens,
    other_tokenizer,
)
from trainables.preparation.prepared import Preparation, Prepared, read_about, read_packed
from trainables.preparation.scoring import check_finite, score_folder
from trainables.storage.cache import cached, code_digest, content_digest, contents
from trainables.storage.manifest import digest, file_hash

SPLITS = ("train", "validation", "test")

Scorer = Callable[[Path, Packed, bool, Callable[[float], None]], tuple[Tensor, Tensor]]


def prepare(
    model: str,
    models: Sequence[str],
    what: Preparation,
    progress: Callable[[str], None] = lambda _: None,
    scorer: Scorer = score_folder,
) -> Prepared:
    """Prepares one model's data, from the cache as far as possible.

    Args:
        models: all models of the search, in its order: those that share a tokenizer share an evaluation set.
        progress: called with a line for a person.
        scorer: `score_folder`, or what spreads its work over devices.

    Raises:
        DataError: documents, a model or a reference that cannot be used.
    """
    entries = _Entries(what, progress, scorer)
    folder = entries.weights(model)
    progress(f"tokens of {model}")
    tokens = entries.tokens(model)
    own = entries.entropies(model, tokens)
    reference, judged_by = _references(entries, model, models, tokens, own)
    evaluation = _evaluation(judged_by, what)
    train = read_packed(tokens, "train")
    return Prepared(
        model=model,
        folder=folder,
        tokens=tokens,
        entropies=reference,
        base=own,
        evaluation=evaluation,
        layout=what.layout,
        base_hash=digest([model_digest(folder), content_digest(reference)]),
        data_hash=content_digest(tokens),
        evaluation_hash=content_digest(evaluation),
        train_tokens=train.tokens,
        train_rows=len(train.token_RT),
        cut={split: count for split, count in read_about(tokens)["cut"].items() if count},
        notices=read_about(tokens)["notices"],
        base_losses=_base_losses(own, evaluation),
        files={
            "folder": model_files(folder),
            "tokens": contents(tokens),
            "entropies": contents(reference),
            "base": contents(own),
            "evaluation": contents(evaluation),
        },
    )


@dataclass(frozen=True)
class _Entries:
    """The entries of any model of the search, made where they are missing."""

    what: Preparation
    progress: Callable[[str], None]
    scorer: Scorer

    def weights(self, model: str) -> Path:
        return model_folder(
            model, self.what.cache, lambda share: self.progress(f"base weights of {model}: {share:.0%}")
        )

    def tokens(self, model: str) -> Path:
        return _tokens(model, self.weights(model), self.what)

    def entropies(self, model: str, tokens: Path) -> Path:
        def progress(share: float) -> None:
            self.progress(f"entropies under {model}: {share:.0%}")

        return _entropies(self.weights(model), tokens, self.what, self.scorer, progress)


def _references(entries: _Entries, model: str, models: Sequence[str], tokens: Path, own: Path) -> tuple[Path, Path]:
    """The entropies that say which training tokens are low, and those that say which held-out ones are high or low.

    Args:
        tokens, own: the tokens of `model`, and the entropies under it.
    """
    reference = entries.what.reference
    if reference is None:
        alike = (name for name in models if content_digest(entries.tokens(name)) == content_digest(tokens))
        return own, entries.entropies(next(alike), tokens)
    try:
        if content_digest(entries.tokens(reference)) != content_digest(tokens):
            raise other_tokenizer(reference, model)
        entropies = entries.entropies(reference, tokens)
    except ModelError as error:
        raise of_reference(error) from error
    return entropies, entropies


def _base_losses(own: Path, evaluation: Path) -> dict[str, float]:
    scores = load_file(own / "scores.safetensors")
    groups = load_file(evaluation / "groups.safetensors")
    loss_RT = scores["validation.loss"].double()
    losses = {
        "loss": loss_RT[torch.isfinite(scores["validation.entropy"])],
        "high_entropy_loss": loss_RT[groups["validation.high"]],
        "low_entropy_loss": loss_RT[groups["validation.low"]],
    }
    if "general.loss" in scores:
        losses["general_loss"] = scores["general.loss"].double()[torch.isfinite(scores["general.entropy"])]
    return {name: float(values.mean()) for name, values in losses.items()}


def _splits(what: Preparation) -> list[str]:
    return [*SPLITS, *(["general"] if what.splits.general else [])]


def _without_place(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The order of a file does not matter."""
    return {name: value for name, value in items if name != "place"}


def _tokens(name: str, folder: Path, what: Preparation) -> Path:
    key = {
        "code": code_digest(__name__),
        "tokenizer": digest([file_hash(path) for path in tokenizer_files(folder)]),
        # The order of a file does not matter.
        "documents": digest(asdict(replace(what.splits, notes=()), dict_factory=_without_place)),
        "sequence_length": what.sequence_length,
        "layout": what.layout,
        "train_on_prompt": what.train_on_prompt,
        "mask_token": what.mask_token,
        "chat_template": [what.chat_template, [file_hash(path) for path in chat_templates(folder)]],
    }
    check_length(what.sequence_length, context_length(folder), name)

    def build(entry: Path) -> None:
        tokenizer = load_tokenizer(folder)
        chats = ChatTokenizer(tokenizer, what.chat_template, name)
        packed, cut = pack_splits(
            what.splits,
            tokenizer,
            what.sequence_length,
            layout=what.layout,
            train_on_prompt=what.train_on_prompt,
            chats=chats,
        )
        save_file(
            {f"{split}.{name}": tensor for split in packed for name, tensor in packed[split].to_stored().items()},
            entry / "tokens.safetensors",
        )
        about = {
            "cut": cut,
            "notices": chats.notices(),
            "vocabulary": {
                "ordinary": ordinary_tokens(tokenizer),
                "mask_token": mask_token_of(tokenizer, what.mask_token, what.needs_mask_token, words_of(folder)),
            },
            "questions": list(filter(None, _questions(what.splits.validation, tokenizer, chats))),
            "test_questions": list(_questions(what.splits.test, tokenizer, chats)),
            "stops": sorted(chats.stops),
            "chat_template": what.chat_template,
        }
        (entry / "about.json").write_text(json.dumps(about), encoding="utf-8")

    entry = cached(what.cache, "tokens", key, build)
    mask_token = read_about(entry)["vocabulary"]["mask_token"]
    check_mask_token(mask_token, what.mask_token, what.needs_mask_token, words_of(folder))
    return entry


def _questions(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, chats: ChatTokenizer
) -> Iterator[dict[str, Any] | None]:
    for document in documents:
        if document.answer is None:
            yield None
            continue
        if document.chat is not None:
            tokens = chats.prompt(document.chat)
        else:
            # A word of the text may take a space from the prompt's end.
            ((ids, prompt),) = encode([document], tokenizer)
            tokens = ids[:prompt]
        yield {"tokens": tokens, "answer": document.answer}


def pack_splits(
    splits: Splits, tokenizer: PreTrainedTokenizerBase, sequence_length: int, *, train_on_prompt: bool, **how: Any
) -> tuple[dict[str, Packed], dict[str, int]]:
    """The rows of each split, and how many of its documents were cut; `pack` has the arguments.

    Raises:
        DataError: a chat that its template does not take, or a split without a token to predict.
    """
    packed: dict[str, Packed] = {}
    cut: dict[str, int] = {}
    for split in (*SPLITS, *(["general"] if splits.general else [])):
        documents = getattr(splits, split)
        try:
            packed[split], cut[split] = pack(
                documents, tokenizer, sequence_length, train_on_prompt=train_on_prompt, **how
            )
        except DataError as error:
            raise of_general(error) if split == "general" and error.field == "data.messages" else error from None
        check_learnable(packed[split], split, train_on_prompt)
    return packed, cut


def _entropies(
    folder: Path, tokens: Path, what: Preparation, scorer: Scorer, progress: Callable[[float], None]
) -> Path:
    key = {"code": code_digest(__name__), "weights": model_digest(folder), "tokens": content_digest(tokens)}

    def build(entry: Path) -> None:
        progress(0.0)
        # All splits at once: one load of the weights.
        splits = {split: read_packed(tokens, split) for split in _splits(what)}
        together = Packed.concatenate(list(splits.values()))
        entropy_RT, loss_RT = scorer(folder, together, what.layout == "padded", progress)
        check_finite(loss_RT, folder)
        tensors: dict[str, Tensor] = {}
        start = 0
        for split, packed in splits.items():
            rows = slice(start, start + len(packed.token_RT))
            # Half precision: which of two tokens is the more predictable does not hang on the fourth digit.
            tensors[f"{split}.entropy"] = entropy_RT[rows].half().contiguous()
            tensors[f"{split}.loss"] = loss_RT[rows].contiguous()
            start = rows.stop
        save_file(tensors, entry / "scores.safetensors")

    return cached(what.cache, "entropies", key, build)


def _evaluation(reference: Path, what: Preparation) -> Path:
    key = {
        "code": code_digest(__name__),
        "entropies": content_digest(reference),
        "high": what.high_entropy,
        "low": what.low_entropy,
    }

    def build(entry: Path) -> None:
        scores = load_file(reference / "scores.safetensors")
        tensors: dict[str, Tensor] = {}
        for split in SPLITS[1:]:
            high_RT, low_RT = evaluation_groups(scores[f"{split}.entropy"].float(), what.high_entropy, what.low_entropy)
            tensors |= {f"{split}.high": high_RT, f"{split}.low": low_RT}
        save_file(tensors, entry / "groups.safetensors")

    return cached(what.cache, "evaluation", key, build)
