"""What all trials of a model share, computed once: tokens, entropies, the frozen evaluation set.

Everything is cached by content hash, that of the code that computes it included, and only read by the trials.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainables.data.chat_tokens import ChatTokenizer
from trainables.data.documents import Document, Splits, of_general
from trainables.data.packing import Packed, encode, pack
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
from trainables.preparation.scoring import check_finite, score_folder
from trainables.storage.cache import cached, code_digest, content_digest, contents
from trainables.storage.manifest import digest, file_hash

SPLITS = ("train", "validation", "test")

Scorer = Callable[[Path, Packed, bool, Callable[[float], None]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Preparation:
    """What is to be prepared.

    Attributes:
        sequence_length: tokens in a row.
        high_entropy, low_entropy: shares of the held-out tokens in the two groups.
        cache: folder of the cache.
        layout: "packed" (documents share rows) or "padded" (one document a row).
        train_on_prompt: whether the prompts' tokens are in the loss.
        chat_template: of chats; None: the tokenizer's own.
        reference: the model whose entropies say which training and held-out tokens are low or high; None: each model
            itself says it of its training tokens, and the first model with the same tokenizer of the held-out ones.
        mask_token: the text of the token that stands for a dropped one; None: the tokenizer's own mask token.
        needs_mask_token: whether one is needed.
    """

    splits: Splits
    sequence_length: int
    high_entropy: float
    low_entropy: float
    cache: Path
    layout: str = "packed"
    train_on_prompt: bool = True
    chat_template: str | None = None
    reference: str | None = None
    mask_token: str | None = None
    needs_mask_token: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """What a run needs to know of the tokenizer.

    Attributes:
        ordinary: ids of the tokens that are not special.
        mask_token: id of the mask token, if there is one.
    """

    ordinary: list[int]
    mask_token: int | None


@dataclass(frozen=True)
class Question:
    """The tokens of a held-out document's prompt, and the answer that is expected."""

    tokens: list[int]
    answer: str


@dataclass(frozen=True)
class Prepared:
    """Where a model's prepared data lies, and what is known of it.

    Attributes:
        model: its name.
        folder: its base weights and tokenizer.
        tokens, entropies, evaluation: folders in the cache, by content.
        base: the folder of the losses under the model itself, before training; often that of the entropies.
        layout: "packed" or "padded".
        base_hash: SHA-256 of the base weights and of the training entropies.
        data_hash, evaluation_hash: SHA-256 of the tokens and of the frozen evaluation set.
        train_tokens, train_rows: tokens and rows of an epoch.
        cut: documents that are longer than a row, and so were cut; splits without any are left out.
        notices: what a person should know of the data, a line each.
        base_losses: validation loss before training, in nats: loss, high_entropy_loss, low_entropy_loss, general_loss.
        files: the SHA-256 of the files in each of the five folders, by the folder's attribute and the file's name.
    """

    model: str
    folder: Path
    tokens: Path
    entropies: Path
    base: Path
    evaluation: Path
    layout: str
    base_hash: str
    data_hash: str
    evaluation_hash: str
    train_tokens: int
    train_rows: int
    cut: dict[str, int]
    notices: list[str]
    base_losses: dict[str, float]
    files: dict[str, dict[str, str]]

    def packed(self, split: str) -> Packed:
        return _packed(self.tokens, split)

    def general(self) -> Packed | None:
        """The general split, if there is one."""
        return _packed(self.tokens, "general") if "general" in _about(self.tokens)["cut"] else None

    def entropy(self, split: str) -> Tensor:
        """Entropy under the reference model, in nats, float32, RT."""
        return load_file(self.entropies / "scores.safetensors")[f"{split}.entropy"].float()

    def base_loss(self, split: str) -> Tensor:
        """Loss of each token under the model before training, in nats, float32, RT; 0 where it has no prediction."""
        return load_file(self.base / "scores.safetensors")[f"{split}.loss"]

    def groups(self, split: str) -> tuple[Tensor, Tensor]:
        """Masks (high_RT, low_RT) of a held-out split."""
        masks = load_file(self.evaluation / "groups.safetensors")
        return masks[f"{split}.high"].clone(), masks[f"{split}.low"].clone()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        known = Vocabulary(**_about(self.tokens)["vocabulary"])
        words = words_of(self.folder)
        # Tokens may have been added to the tokenizer alone.
        return known if words is None else replace(known, ordinary=[i for i in known.ordinary if i < words])

    @property
    def questions(self) -> list[Question]:
        """The validation documents that have an answer."""
        return [Question(**question) for question in _about(self.tokens)["questions"]]

    @property
    def stops(self) -> set[int]:
        """The special tokens that end the answers of chats."""
        return set(_about(self.tokens)["stops"])

    @property
    def chat_template(self) -> str | None:
        """The one that the space gives for chats; None: the tokenizer's own."""
        template: str | None = _about(self.tokens)["chat_template"]
        return template


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
    train = _packed(tokens, "train")
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
        cut={split: count for split, count in _about(tokens)["cut"].items() if count},
        notices=_about(tokens)["notices"],
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


def _packed(tokens: Path, split: str) -> Packed:
    stored = load_file(tokens / "tokens.safetensors")
    return Packed.from_stored({n.partition(".")[2]: t for n, t in stored.items() if n.startswith(f"{split}.")})


def _about(tokens: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((tokens / "about.json").read_text(encoding="utf-8"))
    return about


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
            {f"{split}.{name}": tensor for split in packed for name, tensor in packed[split].stored().items()},
            entry / "tokens.safetensors",
        )
        about = {
            "cut": cut,
            "notices": chats.notices(),
            "vocabulary": {
                "ordinary": ordinary_tokens(tokenizer),
                "mask_token": mask_token_of(tokenizer, what.mask_token, what.needs_mask_token, words_of(folder)),
            },
            "questions": list(_questions(what.splits.validation, tokenizer, chats)),
            "stops": sorted(chats.stops),
            "chat_template": what.chat_template,
        }
        (entry / "about.json").write_text(json.dumps(about), encoding="utf-8")

    entry = cached(what.cache, "tokens", key, build)
    mask_token = _about(entry)["vocabulary"]["mask_token"]
    check_mask_token(mask_token, what.mask_token, what.needs_mask_token, words_of(folder))
    return entry


def _questions(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, chats: ChatTokenizer
) -> Iterator[dict[str, Any]]:
    for document in documents:
        if document.answer is None:
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
        splits = {split: _packed(tokens, split) for split in _splits(what)}
        together = Packed.concatenated(list(splits.values()))
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
