"""The tokens of a prompt and a text: which of them are the prompt's, and which are special."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from trainables.data.documents import Document


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special tokens; many tokenizers have some that no setting of theirs names, such as those of a chat."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def encode(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], int]]:
    """The tokens of each document as the tokenizer gives them, and how many of them are the prompt's.

    A token that holds any of the text is the text's, so that all of it is learned; what opens a document belongs to its
    prompt, if there is one, and what closes it never does.
    """
    whole = [d.prompt + d.text for d in documents]
    try:
        encoded = tokenizer(whole, return_offsets_mapping=True)
        offsets_of = encoded["offset_mapping"]
    # Tokenizers in Python have no offsets: what the prompt alone begins with too is the prompt's.
    except (NotImplementedError, KeyError):
        alone = tokenizer([d.prompt for d in documents])["input_ids"]
        # Before another word: what closes the prompt alone is not shared then.
        longer = tokenizer([d.prompt + (d.text or " x") for d in documents])["input_ids"]
        for document, ids, *two in zip(documents, tokenizer(whole)["input_ids"], alone, longer, strict=True):
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*two, strict=False)))
            yield ids, shared if document.prompt else 0
        return
    special = special_ids(tokenizer)
    for document, ids, offsets in zip(documents, encoded["input_ids"], offsets_of, strict=True):
        end = len(document.prompt)
        closed = len(ids)
        # What closes a text has the offsets (0, 0).
        while closed and offsets[closed - 1][1] == 0 and ids[closed - 1] in special:
            closed -= 1
        count = next((i for i, (_, last) in enumerate(offsets) if last > end), closed)
        yield ids, count if document.prompt else 0
