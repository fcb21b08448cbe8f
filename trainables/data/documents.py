"""Documents and their splits by content: the order of a file does not matter, and nothing stands in two splits."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from trainables.errors import DataError


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        messages: as chat templates take them, with role and content.
        learned: of each message, whether it is learned.
        tools: functions that the assistant may call, as JSON schemas.
        place: where it stands, as in "line 3 of data.jsonl".
    """

    messages: tuple[dict[str, Any], ...]
    learned: tuple[bool, ...]
    tools: tuple[dict[str, Any], ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Document:
    """One training example: a prompt, if it has one, and a text. Documents of one `group` never stand in two splits.

    Attributes:
        answer: what a generated text is compared with.
        chat: what is learned instead of the text, which only tells documents apart.
    """

    text: str
    group: str
    prompt: str = ""
    answer: str | None = None
    chat: Chat | None = None


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


class Reader(Protocol):
    """What turns records into documents."""

    def documents(self, records: Iterable[tuple[str, Mapping[str, Any]]], where: str) -> Iterator[Document]:
        """The documents of records, each with where it stands, as in "line 3 of data.jsonl".

        Raises:
            DataError: a record that cannot be read.
        """


class Source(Protocol):
    """A place that documents come from."""

    @property
    def sizes(self) -> SplitSizes: ...

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        """The documents of each split, the same for the same seed; none of a group or a text that is in `apart`.

        Raises:
            DataError: too few documents, or unreadable ones.
        """


def general_documents(source: Source, seed: int, splits: Splits) -> tuple[Document, ...]:
    """The training split of `source`, a second source: none of these documents stands in `splits`.

    Raises:
        DataError: too few documents, or unreadable ones; its field is one of the block general.
    """
    try:
        return source.splits(seed, splits).train
    except DataError as error:
        raise of_general(error) from None


def of_general(error: DataError) -> DataError:
    """An error of the block data as one of the block general."""
    setting = error.field.removeprefix("data.")
    setting = "documents" if setting == "train" else setting
    return DataError(f"general.{setting}", error.given, error.allowed, error.nearest)


def number_groups(documents: Iterable[Document]) -> list[int]:
    """Of each document the number of its group, in the order in which they occur."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(document.group, len(numbers)) for document in documents]


def content_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def alike(text: str) -> str:
    """The hash of a text that is the same for texts which differ in line ends, white space or Unicode form alone."""
    return content_hash(" ".join(unicodedata.normalize("NFC", text).split()))


def unseen(documents: Iterable[Document], apart: Splits | None) -> Iterator[Document]:
    """The documents without repetitions, and without those of a group or a text that is in `apart`."""
    seen, apart_from = set(), set()
    if apart is not None:
        for document in (*apart.train, *apart.validation, *apart.test, *apart.general):
            apart_from |= {document.group, alike(document.prompt or document.text)}
            apart_from.add(alike(document.prompt + document.text))
    for document in documents:
        whole = content_hash(document.prompt + document.text)
        if whole in seen:
            continue
        seen.add(whole)
        if apart_from and not apart_from.isdisjoint(
            (document.group, alike(document.prompt or document.text), alike(document.prompt + document.text))
        ):
            continue
        yield document


def split(documents: Iterable[Document], sizes: SplitSizes, seed: int, where: str) -> Splits:
    """Splits by rank of content hash; a group that reaches over the end of a split is cut there.

    Of documents that differ in white space or Unicode form alone one is used, and prompts that do are one group.

    Args:
        documents: each only once.
        where: what they come from, for an error.

    Raises:
        DataError: too few documents.
    """

    def rank(document: Document) -> tuple[bytes, str]:
        drawn = hashlib.sha256(f"{seed}\0{document.group}".encode()).digest()
        return drawn, content_hash(document.prompt + document.text)

    ordered = sorted(_distinct(documents), key=rank)
    if not ordered:
        raise DataError("data.path", f"there are no documents {where}; give at least three")
    wanted = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    if len(ordered) < sum(wanted.values()):
        counts = [count for count in wanted.values() if count]
        raise DataError(
            "data.train",
            f"splits of {' + '.join(map(str, counts))} documents",
            f"at most {len(ordered)} together, the distinct documents {where}",
        )
    groups = (list(group) for _, group in groupby(ordered, lambda document: document.group))
    parts = {}
    for name, count in wanted.items():
        part: list[Document] = []
        while len(part) < count and (group := next(groups, None)) is not None:
            part += group
        if len(part) < count:
            allowed = f"at most {len(part)}, as documents with the same prompt stand in one split"
            raise DataError(f"data.{name}", str(count), allowed)
        parts[name] = tuple(part[:count])
    return Splits(**parts)


def _distinct(documents: Iterable[Document]) -> list[Document]:
    """One of the documents that are alike each, with one group for all prompts that are alike: the least of theirs."""
    by_text: dict[str, Document] = {}
    by_prompt: dict[str, str] = {}
    for document in sorted(documents, key=lambda document: content_hash(document.prompt + document.text)):
        by_text.setdefault(alike(document.prompt + document.text), document)
        prompt = alike(document.prompt or document.text)
        by_prompt[prompt] = min(by_prompt.get(prompt, document.group), document.group)
    groups: dict[str, str] = {}
    for document in by_text.values():
        least = by_prompt[alike(document.prompt or document.text)]
        groups[document.group] = min(groups.get(document.group, least), least)
    return [replace(document, group=groups[document.group]) for document in by_text.values()]
