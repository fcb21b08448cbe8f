"""Documents and their splits by content: the order of a file does not matter, and nothing stands in two splits."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, Protocol

from trainables.errors import DataError, one_line

# A count; a share of the source's documents; or all that the other splits leave.
Size = int | float | Literal["all"]
# Characters of a document that a note shows.
_SHOWN = 60


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

    train: Size
    validation: Size
    test: Size

    def counts(self) -> dict[str, int]:
        """Of splits that all have a count."""
        counts = {name: size for name, size in asdict(self).items() if isinstance(size, int)}
        assert len(counts) == 3, self
        return counts


@dataclass(frozen=True)
class Splits:
    """The domain's documents, and those of a general split, which measures what is forgotten.

    Attributes:
        notes: lines for a person on documents that were left out: they stand in another split, or are empty.
    """

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    general: tuple[Document, ...] = ()
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """What turns records into documents."""

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the columns that are read of it."""

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


def describe_splits(splits: Splits) -> list[str]:
    """Lines for a person: how many documents the splits have, and what was left out."""
    sizes = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return [f"documents {', '.join(f'{len(part)} {name}' for name, part in sizes.items())}", *splits.notes]


def read_splits(source: Source, own: Mapping[str, tuple[Source, str]], seed: int) -> Splits:
    """The splits of `source`, and those that have a source of their own.

    What stands in two sources stays in the test split, or else in the validation split: these say how good a model is.

    Args:
        source: it has no documents in the splits of `own`.
        own: for validation or test, a source whose training split it is, and the key that names the source's place in
            the block, such as path in data.test.path.

    Raises:
        DataError: too few documents, or unreadable ones.
    """
    held_out = Splits((), (), ())
    for name in ("test", "validation"):
        if name not in own:
            continue
        its_source, key = own[name]
        try:
            read = its_source.splits(seed, held_out)
        except DataError as error:
            renamed = {f"data.{key}": f"data.{name}.{key}", "data.train": f"data.{name}.documents"}
            field = renamed.get(error.field, error.field)
            raise DataError(field, error.given, error.allowed, error.nearest) from None
        held_out = replace(held_out, **{name: read.train}, notes=held_out.notes + read.notes)
    rest = source.splits(seed, held_out)
    return Splits(
        rest.train,
        held_out.validation or rest.validation,
        held_out.test or rest.test,
        notes=held_out.notes + rest.notes,
    )


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


# Joiners, marks of order and of byte order, soft hyphens: they have no width.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def alike(text: str) -> str:
    """The hash of a text that is the same for texts which differ in line ends, white space, invisible characters or
    Unicode form alone."""
    return content_hash(" ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).split()))


def unseen(
    documents: Iterable[Document], apart: Splits | None, left_out: dict[str, list[Document]] | None = None
) -> Iterator[Document]:
    """The documents without repetitions, and without those of a group or a text that is in `apart`.

    Args:
        left_out: takes the latter, by the name of the split that they stand in.
    """
    seen: set[str] = set()
    apart_from: dict[str, str] = {}
    for name in ("general", "test", "validation", "train") if apart is not None else ():
        for document in getattr(apart, name):
            apart_from |= dict.fromkeys(_marks(document), name)
    for document in documents:
        whole = content_hash(document.prompt + document.text)
        if whole in seen:
            continue
        seen.add(whole)
        held = [apart_from[mark] for mark in _marks(document) if mark in apart_from] if apart_from else []
        if not held:
            yield document
        elif left_out is not None:
            left_out.setdefault(held[0], []).append(document)


def _marks(document: Document) -> tuple[str, str, str]:
    """What another document has one of, if it may not stand in another split."""
    return document.group, alike(document.prompt or document.text), alike(document.prompt + document.text)


def split(
    documents: Iterable[Document], sizes: SplitSizes, seed: int, where: str, apart: Splits | None = None
) -> Splits:
    """Splits by rank of content hash; a group that reaches over the end of a split is cut there.

    Of documents that differ in white space or Unicode form alone one is used, and prompts that do are one group. Splits
    that have a share have it to a group, which is not cut.

    Args:
        where: what they come from, for an error.
        apart: what has no document in these splits.

    Raises:
        DataError: too few documents.
    """

    def rank(document: Document) -> tuple[bytes, str]:
        drawn = hashlib.sha256(f"{seed}\0{document.group}".encode()).digest()
        return drawn, content_hash(document.prompt + document.text)

    left_out: dict[str, list[Document]] = {}
    read = list(documents)
    # A chat always has an answer.
    written = [document for document in read if document.text.strip()]
    ordered = sorted(_remove_duplicates(unseen(written, apart, left_out)), key=rank)
    given: dict[str, Size] = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    if not ordered:
        if left_out:
            splits = " or ".join(f"data.{name}" for name in sorted(left_out))
            raise DataError("data.path", f"all documents {where} are in {splits} too; name others")
        least = "three" if sum(size != 0 for size in given.values()) == 3 else "one"
        raise DataError("data.path", f"there are no documents {where}; give at least {least}")
    wanted = _counts(given, len(ordered), f"{where}{' that are in no other split' if left_out else ''}")
    groups = (list(group) for _, group in groupby(ordered, lambda document: document.group))
    parts: dict[str, Any] = {}
    # Counts first, as they are exact; then held-out shares: another share to train on leaves them as they are.
    for name in sorted(given, key=lambda name: 0 if isinstance(given[name], int) else 1 + (name == "train")):
        part: list[Document] = []
        while len(part) < wanted[name] and (group := next(groups, None)) is not None:
            part += group
        exact = isinstance(given[name], int)
        if len(part) < (wanted[name] if exact else 1):
            alike_are = (
                "chats that begin with the same question" if ordered[0].chat else "documents with the same prompt"
            )
            allowed = f"at most {len(part)}, as {alike_are} stand in one split"
            raise DataError(f"data.{name}", str(given[name]), allowed)
        parts[name] = tuple(part[: wanted[name]] if exact else part)
    notes = []
    if twice := len(written) - sum(map(len, left_out.values())) - len(ordered):
        repeat = "is left out, as it repeats another" if twice == 1 else "are left out, as they repeat others"
        notes.append(f"{twice} of {len(read)} documents {where} {repeat}")
    notes += [_overlap(found, name, where) for name, found in sorted(left_out.items())]
    if empty := len(read) - len(written):
        notes.append(f"{empty} of {len(read)} documents {where} are left out, as they have no text to learn")
    return Splits(**parts, notes=tuple(notes))


def _counts(given: Mapping[str, Size], total: int, where: str) -> dict[str, int]:
    """How many of `total` documents each split gets.

    Raises:
        DataError: there are too few.
    """
    # A product such as 0.29 * 100 may be a little below the number.
    counts = {
        name: int(size * total + 1e-9) if isinstance(size, float) else size
        for name, size in given.items()
        if size != "all"
    }
    for name, size in given.items():
        if isinstance(size, float) and not counts[name]:
            given_share = f"{size:g}, which is less than one of {total} documents {where}"
            raise DataError(f"data.{name}", given_share, f"at least {math.ceil(1e4 / total) / 1e4:g}, or a count")
    taken = sum(counts.values())
    if "all" in given.values() and taken >= total:
        problem = f"data.validation and data.test take {taken} of {total} documents {where}; lower one of them"
        raise DataError("data.train", problem)
    if taken > total:
        shown = [str(count) for count in counts.values() if count]
        given_counts = f"splits of {' + '.join(shown)} documents" if len(shown) > 1 else shown[0]
        together = " together" if len(shown) > 1 else ""
        raise DataError("data.train", given_counts, f"at most {total}{together}, the distinct documents {where}")
    return {name: counts.get(name, total - taken) for name in given}


def _overlap(found: list[Document], name: str, where: str) -> str:
    count, are, their = ("1 document", "is", "its") if len(found) == 1 else (f"{len(found)} documents", "are", "their")
    begins = one_line((found[0].prompt + found[0].text).strip(), _SHOWN)
    return f"{count} {where} {are} left out, as {their} text or prompt is in data.{name}; the first: '{begins}'"


def _remove_duplicates(documents: Iterable[Document]) -> list[Document]:
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
