"""What is to be prepared for a model's trials, and where it lies once it is.

The process of a search has these without torch, which takes seconds to import: whoever reads tensors imports it.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.data.documents import Splits

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.packing import Packed


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

    def packed(self, split: str) -> "Packed":
        return read_packed(self.tokens, split)

    def general(self) -> "Packed | None":
        """The general split, if there is one."""
        return read_packed(self.tokens, "general") if "general" in read_about(self.tokens)["cut"] else None

    def entropy(self, split: str) -> "Tensor":
        """Entropy under the reference model, in nats, float32, RT."""
        from safetensors.torch import load_file

        return load_file(self.entropies / "scores.safetensors")[f"{split}.entropy"].float()

    def base_loss(self, split: str) -> "Tensor":
        """Loss of each token under the model before training, in nats, float32, RT; 0 where it has no prediction."""
        from safetensors.torch import load_file

        return load_file(self.base / "scores.safetensors")[f"{split}.loss"]

    def groups(self, split: str) -> "tuple[Tensor, Tensor]":
        """Masks (high_RT, low_RT) of a held-out split."""
        from safetensors.torch import load_file

        masks = load_file(self.evaluation / "groups.safetensors")
        return masks[f"{split}.high"].clone(), masks[f"{split}.low"].clone()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        from trainables.models.loading import words_of

        known = Vocabulary(**read_about(self.tokens)["vocabulary"])
        words = words_of(self.folder)
        # Tokens may have been added to the tokenizer alone.
        return known if words is None else replace(known, ordinary=[i for i in known.ordinary if i < words])

    @property
    def questions(self) -> list[Question]:
        """The validation documents that have an answer."""
        return [Question(**question) for question in read_about(self.tokens)["questions"]]

    @property
    def test_questions(self) -> list[Question | None]:
        """Of each test document; None of one that has no answer."""
        return [question and Question(**question) for question in read_about(self.tokens)["test_questions"]]

    @property
    def stops(self) -> set[int]:
        """The special tokens that end the answers of chats."""
        return set(read_about(self.tokens)["stops"])

    @property
    def chat_template(self) -> str | None:
        """The one that the space gives for chats; None: the tokenizer's own."""
        template: str | None = read_about(self.tokens)["chat_template"]
        return template


def read_packed(tokens: Path, split: str) -> "Packed":
    """The rows of a split, from the folder of the tokens."""
    from safetensors.torch import load_file

    from trainables.data.packing import Packed

    stored = load_file(tokens / "tokens.safetensors")
    return Packed.from_stored({n.partition(".")[2]: t for n, t in stored.items() if n.startswith(f"{split}.")})


def read_about(tokens: Path) -> dict[str, Any]:
    """What is kept beside the tokens: how many documents were cut, the vocabulary, the questions."""
    about: dict[str, Any] = json.loads((tokens / "about.json").read_text(encoding="utf-8"))
    return about
