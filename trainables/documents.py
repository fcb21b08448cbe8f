"""Documents and their splits, and what is wrong with data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One training example: a prompt, if it has one, and a text. Documents of one `group` never stand in two splits.

    Attributes:
        answer: what a generated text is compared with.
    """

    text: str
    group: str
    prompt: str = ""
    answer: str | None = None


@dataclass(frozen=True)
class SplitSizes:
    """Documents in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Splits:
    """The domain's documents, and those of a general split, which measures what is forgotten."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    general: tuple[Document, ...] = ()
