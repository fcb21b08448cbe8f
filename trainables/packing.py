"""From documents to rows of tokens.

Shapes: R packed rows, T positions (the sequence length).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.documents import Document


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
