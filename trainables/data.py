"""Documents, splits and packing: from a data source to rows of tokens.

Shapes: R packed rows, T positions (the sequence length).
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class DataError(ValueError):
    """Data that cannot be used. `field` names the setting to mend (as in data.train)."""

    def __init__(self, field: str, given: str, allowed: str) -> None:
        # All arguments in `args`: the error travels from a Ray worker to the driver.
        super().__init__(field, given, allowed)
        self.field, self.given, self.allowed = field, given, allowed

    def __str__(self) -> str:
        return f"{self.field}: given {self.given}; allowed: {self.allowed}"


@dataclass(frozen=True)
class Document:
    """One training example. Documents of one `group` never stand in two splits."""

    text: str
    group: str


@dataclass(frozen=True)
class SplitSizes:
    """Documents in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Splits:
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


class Source(Protocol):
    """A place that documents come from."""

    @property
    def sizes(self) -> SplitSizes: ...

    def splits(self, seed: int) -> Splits:
        """The documents of each split, the same for the same seed.

        Raises:
            DataError: too few documents, or unreadable ones.
        """


# More than anybody fine-tunes on as "little data"; generating them takes ten seconds.
_MOST_GENERATED = 20_000


@dataclass(frozen=True)
class ReasoningGym:
    """Problems with worked solutions that the package reasoning-gym generates from templates."""

    task: str
    sizes: SplitSizes

    # A constant tail of every question; it speaks to an answer checker, not to a reader.
    _TAIL = " Give the result as your final answer. Do not include units."

    def splits(self, seed: int) -> Splits:
        """Splits share no template; the templates of a split take turns."""
        import reasoning_gym

        wanted = [self.sizes.train, self.sizes.validation, self.sizes.test]
        if sum(wanted) > _MOST_GENERATED:
            given = f"splits of {' + '.join(map(str, wanted))} documents"
            raise DataError("data.train", given, f"at most {_MOST_GENERATED} together")
        dataset = reasoning_gym.create_dataset(self.task, size=1000 + 4 * sum(wanted), seed=seed)
        by_template: dict[int, dict[str, None]] = {}
        for index, template in enumerate(dataset.task_indices):
            item = dataset[index]
            question = item["question"].removesuffix(self._TAIL)
            text = f"{question}\n{item['metadata']['answer_cot']}"
            by_template.setdefault(template, {})[text] = None
        documents = [
            [Document(text, f"{self.task}/{template}") for text in texts]
            for template, texts in sorted(by_template.items())
        ]
        random.Random(seed).shuffle(documents)
        shares = _shares(len(documents), wanted)
        parts = []
        for name, count in zip(("train", "validation", "test"), wanted, strict=True):
            templates = [documents.pop() for _ in range(shares[name])]
            turns = [d for turn in range(max(map(len, templates))) for t in templates for d in t[turn : turn + 1]]
            if len(turns) < count:
                raise DataError(f"data.{name}", str(count), f"at most {len(turns)} distinct problems")
            parts.append(tuple(turns[:count]))
        return Splits(*parts)


def _shares(total: int, wanted: list[int]) -> dict[str, int]:
    """Splits `total` templates in proportion to the documents wanted, at least one each."""
    shares = [max(1, total * count // sum(wanted)) for count in wanted]
    while sum(shares) > total:
        shares[shares.index(max(shares))] -= 1
    return dict(zip(("train", "validation", "test"), shares, strict=True))


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object a line, and a template such as "{question}\\n{answer}" that makes it text."""

    path: Path
    template: str
    sizes: SplitSizes

    def splits(self, seed: int) -> Splits:
        """Splits by rank of content hash: the file's order does not matter, and no text stands in two splits."""
        texts = dict.fromkeys(self._texts())
        wanted = [self.sizes.train, self.sizes.validation, self.sizes.test]
        if len(texts) < sum(wanted):
            raise DataError(
                "data.train",
                f"splits of {' + '.join(map(str, wanted))} documents",
                f"at most {len(texts)} together, the distinct documents in {self.path.name}",
            )
        ordered = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
        documents = [Document(text, hashlib.sha256(text.encode()).hexdigest()) for text in ordered]
        train, rest = documents[: wanted[0]], documents[wanted[0] :]
        return Splits(tuple(train), tuple(rest[: wanted[1]]), tuple(rest[wanted[1] : wanted[1] + wanted[2]]))

    def _texts(self) -> list[str]:
        try:
            # Not splitlines: a line separator such as U+2028 may stand in a JSON string as it is.
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise DataError("data.path", self.path.name, f"a readable UTF-8 file ({reason})") from None
        texts = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record: Any = json.loads(line)
                texts.append(self.template.format_map(record))
            except KeyError as error:
                columns = ", ".join(record)
                raise DataError(
                    "data.template", f"the column {error}", f"the columns of {self.path.name}: {columns}"
                ) from None
            except (json.JSONDecodeError, TypeError, ValueError, AttributeError, IndexError) as error:
                allowed = f"a JSON object on each line ({error})"
                raise DataError("data.path", f"line {number} of {self.path.name}", allowed) from None
        if not any(text.strip() for text in texts):
            raise DataError("data.path", f"no documents in {self.path.name}", "at least three documents")
        return [text for text in texts if text.strip()]


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: int

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any: ...


@dataclass(frozen=True)
class Packed:
    """Documents packed into rows, without attention from one document to another.

    Attributes:
        token_RT: token ids, int64; 0 where there is none.
        document_RT: index of the token's document in its split, int64; -1 where there is no token.
        position_RT: index of the token in its document, int64.
        special_RT: bool, a special token such as the end of the document.
    """

    token_RT: Tensor
    document_RT: Tensor
    position_RT: Tensor
    special_RT: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> "Packed":
        return Packed(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @property
    def label_RT(self) -> Tensor:
        """Label of position i: token i + 1 of the same document; -100 where there is none."""
        label_RT = torch.full_like(self.token_RT, -100)
        same_RT = self.document_RT[:, 1:] == self.document_RT[:, :-1]
        same_RT &= self.document_RT[:, 1:] >= 0
        label_RT[:, :-1] = torch.where(same_RT, self.token_RT[:, 1:], -100)
        return label_RT

    @property
    def droppable_RT(self) -> Tensor:
        """True where a token may be dropped: not special, not padding, not the first of its document."""
        return (self.document_RT >= 0) & (self.position_RT > 0) & ~self.special_RT

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.document_RT >= 0).sum())


def pack(documents: Sequence[Document], tokenizer: Tokenizer, sequence_length: int) -> Packed:
    """Tokenizes documents, each closed by the end-of-sequence token, and packs them best-fit decreasing.

    A document longer than `sequence_length` is cut there.
    """
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"]
    pieces = [[*ids, tokenizer.eos_token_id][:sequence_length] for ids in encoded]
    rows = _best_fit([len(piece) for piece in pieces], sequence_length)
    token_RT = torch.zeros(len(rows), sequence_length, dtype=torch.int64)
    document_RT = torch.full_like(token_RT, -1)
    position_RT = torch.zeros_like(token_RT)
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            end = start + len(pieces[index])
            token_RT[r, start:end] = torch.tensor(pieces[index])
            document_RT[r, start:end] = index
            position_RT[r, start:end] = torch.arange(end - start)
            start = end
    special_RT = (token_RT == tokenizer.eos_token_id) & (document_RT >= 0)
    return Packed(token_RT, document_RT, position_RT, special_RT)


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices: longest first, each into the fullest row that still has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [r for r in range(len(rows)) if room[r] >= lengths[index]]
        if fits:
            best = min(fits, key=lambda r: (room[r], r))
        else:
            best = len(rows)
            rows.append([])
            room.append(capacity)
        rows[best].append(index)
        room[best] -= lengths[index]
    return rows
