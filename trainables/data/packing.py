"""From documents to rows of tokens.

Shapes: R packed rows, T positions (the sequence length).
"""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from heapq import heappop, heappush

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainables.data.chat_tokens import ChatTokenizer
from trainables.data.documents import Document
from trainables.data.text_tokens import encode, special_ids


@dataclass(frozen=True)
class Packed:
    """Documents in rows, without attention from one document to another.

    Attributes:
        token_RT: token ids, int64; 0 where there is none.
        document_RT: index of the token's document in its split, int64; -1 where there is no token.
        position_RT: index of the token in its document, int64; 0 where there is no token.
        special_RT: bool, a special token such as the end of the document.
        trained_RT: bool, a token whose prediction is in the loss.
    """

    token_RT: Tensor
    document_RT: Tensor
    position_RT: Tensor
    special_RT: Tensor
    trained_RT: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __getitem__(self, rows: slice | Tensor) -> "Packed":
        return Packed(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def to(self, device: torch.device) -> "Packed":
        return Packed(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def with_tokens(self, token_RT: Tensor) -> "Packed":
        return replace(self, token_RT=token_RT)

    @classmethod
    def concatenate(cls, parts: Sequence["Packed"]) -> "Packed":
        """The rows of all parts, one after the other."""
        return cls(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()})

    def to_stored(self) -> dict[str, Tensor]:
        """The tensors as they lie on disk: int32 for int64."""
        return {n: t.int() if t.dtype == torch.int64 else t for n, t in self.tensors().items()}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> "Packed":
        """Copies them: tensors of safetensors are read from the file when they are used, and it may have changed."""
        return cls(**{n: t.long() if t.dtype == torch.int32 else t.clone() for n, t in tensors.items()})

    @property
    def label_RT(self) -> Tensor:
        """Label of position i: token i + 1 of the same document; -100 where there is none that is trained on."""
        label_RT = torch.full_like(self.token_RT, -100)
        same_RT = self.document_RT[:, 1:] == self.document_RT[:, :-1]
        same_RT &= self.trained_RT[:, 1:]
        label_RT[:, :-1] = torch.where(same_RT, self.token_RT[:, 1:], -100)
        return label_RT

    @property
    def droppable_RT(self) -> Tensor:
        """True where a token may be dropped: trained on, not special, not the first of its document."""
        return self.trained_RT & (self.position_RT > 0) & ~self.special_RT

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.document_RT >= 0).sum())


def pack(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    *,
    layout: str = "packed",
    train_on_prompt: bool = True,
    chats: ChatTokenizer | None = None,
) -> tuple[Packed, int]:
    """Tokenizes documents, each closed by the end-of-sequence token or by a chat template, and lays them into rows.

    Args:
        layout: "packed" (best-fit decreasing) or "padded" (one document a row).
        train_on_prompt: False leaves the tokens of a document's prompt out of the loss (see `text_tokens.encode`).
        chats: for documents that are chats, of which only answers are in the loss.

    Returns:
        The rows, and how many documents were longer than one: they are cut there.
    """
    special = special_ids(tokenizer)
    pieces, learned, cut = [], [], 0
    plain = encode([document for document in documents if document.chat is None], tokenizer)
    for document in documents:
        if document.chat is not None:
            assert chats is not None
            piece, trained, is_cut = chats.encode(document.chat, sequence_length)
        else:
            ids, prompt = next(plain)
            # Some tokenizers close a text by themselves, some open it; here every text ends in one and the same way.
            body = [*ids, tokenizer.eos_token_id]
            while body[-2:-1] == body[-1:]:
                body.pop()
            piece, is_cut = body[:sequence_length], len(body) > sequence_length
            trained = [train_on_prompt or i >= prompt for i in range(len(piece))]
        pieces.append(piece)
        learned.append(trained)
        cut += is_cut
    lengths = [len(piece) for piece in pieces]
    rows = _best_fit(lengths, sequence_length) if layout == "packed" else [[i] for i in range(len(pieces))]
    shape = len(rows), sequence_length
    token_RT, position_RT = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    document_RT = torch.full(shape, -1)
    special_RT, trained_RT = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            end = start + lengths[index]
            token_RT[r, start:end] = torch.tensor(pieces[index])
            document_RT[r, start:end] = index
            position_RT[r, start:end] = torch.arange(end - start)
            special_RT[r, start:end] = torch.tensor([token in special for token in pieces[index]])
            trained_RT[r, start:end] = torch.tensor(learned[index])
            start = end
    return Packed(token_RT, document_RT, position_RT, special_RT, trained_RT), cut


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices: longest first, each into the fullest row that still has room; of two such, into the older."""
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, in order
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(rooms, lengths[index])
        if at < len(rooms):
            room = rooms[at]
            row = heappop(by_room[room])
            if not by_room[room]:
                del by_room[room], rooms[at]
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        room -= lengths[index]
        if room not in by_room:
            by_room[room] = []
            insort(rooms, room)
        heappush(by_room[room], row)
    return rows
