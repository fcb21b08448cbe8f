"""Where a prompt ends in tokens: one suite over tokenizers and boundaries, against a count of characters by hand.

A new kind of tokenizer joins TOKENIZERS, a new boundary joins BOUNDARIES.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainables.data.documents import Document
from trainables.data.packing import pack
from trainables.data.text_tokens import encode

BOUNDARIES = [
    ("Is it so? Answer:", "yes"),
    ("Is it so? Answer: ", "yes"),
    ("Is it so? Answer:", " yes"),
    ("Is it so?   ", "  yes yes"),
    ("Is it so?\n", "\nyes"),
    ("un", "til yes"),
    ("so", "y"),
    ("so:", "\n"),
    ("über é", "é 🎉"),
    ("", "yes"),
    (" ", "yes"),
    ("Answer: ", "yes<end>"),
    ("<end>", "yes"),
    ("Answer: ", ""),
]
TEXT = ["Is it so? Answer: yes", "until so yes  yes", "über é é \n\n"] * 3
# What the tokenizer adds before and after a text.
ADDED = {"none": ("", ""), "opening": ("<begin>", ""), "closing": ("", "<end>"), "both": ("<begin>", "<end>")}


def fast(kind: str, before: str, after: str) -> PreTrainedTokenizerBase:
    special = ["<end>", "<begin>", "<unknown>"]
    own = Tokenizer(models.BPE(unk_token=None if kind == "bytes" else "<unknown>"))
    if kind == "bytes":
        own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        alphabet = list("".join(TEXT))
    own.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    added = processors.TemplateProcessing(
        single=" ".join(filter(None, (before, "$A", after))), special_tokens=[("<end>", 0), ("<begin>", 1)]
    )
    # As Llama 3 does: the byte-level part takes the spaces out of the offsets.
    own.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), added])
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>", bos_token="<begin>", unk_token="<unknown>")


class WithoutOffsets:
    """A tokenizer as those in Python are."""

    def __init__(self, own: PreTrainedTokenizerBase) -> None:
        self._own = own

    def __call__(self, text: list[str], **options: Any) -> Any:
        if options:
            raise NotImplementedError
        return self._own(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    **{f"{k}, {name}": lambda k=k, a=a: fast(k, *a) for k in ("bytes", "pieces") for name, a in ADDED.items()},
    **{
        f"bytes, {name}, without offsets": lambda a=a: cast(PreTrainedTokenizerBase, WithoutOffsets(fast("bytes", *a)))
        for name, a in ADDED.items()
    },
    # In Python alone; it closes each text.
    "ByT5": lambda: ByT5Tokenizer(eos_token="<end>"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def by_hand(tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int]) -> int:
    """How many tokens hold nothing but the prompt's bytes, by the lengths of what the tokens stand for."""
    end, reached = len(prompt.encode()), 0
    pieces = getattr(getattr(tokenizer, "backend_tokenizer", None), "pre_tokenizer", None)
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if token == "<begin>":
            continue
        if token == "<end>":
            # As text of the prompt, or added by the tokenizer behind all of it.
            reached += len(token) if prompt == token and reached == 0 else end + 1
        elif isinstance(pieces, pre_tokenizers.Metaspace):
            # The first piece has a space that no text has, unless the text begins with one.
            reached += len(token.replace("▁", " ").encode()) - (reached == 0 and not prompt.startswith(" "))
        else:
            # A byte is one character, of GPT-2's alphabet or of ByT5's.
            reached += len(token)
        if reached > end:
            return index if prompt else 0
    return len(ids) if prompt else 0


@pytest.mark.parametrize(("prompt", "text"), BOUNDARIES)
def test_all_of_a_text_is_learned_and_nothing_of_a_prompt_alone(
    tokenizer: PreTrainedTokenizerBase, prompt: str, text: str
) -> None:
    ((ids, count),) = encode([Document(text, "", prompt)], tokenizer)
    assert ids == tokenizer([prompt + text])["input_ids"][0]
    assert count == by_hand(tokenizer, prompt, ids)
    rows, _ = pack([Document(text, "", prompt)], tokenizer, 64, train_on_prompt=False)
    length = rows.tokens
    stored = rows.token_RT[0, :length].tolist()
    end = tokenizer.eos_token_id
    closing = next(i for i, token in enumerate(reversed(ids)) if token != end)
    # Closed once, by the text, by the tokenizer or here.
    assert stored == [*ids[: len(ids) - closing], end]
    assert rows.trained_RT[0, :length].tolist() == [False] * count + [True] * (length - count)


@pytest.mark.parametrize(("prompt", "text"), BOUNDARIES)
def test_a_prompt_alone_is_asked_without_what_closes_it(
    tokenizer: PreTrainedTokenizerBase, prompt: str, text: str
) -> None:
    ((ids, count),) = encode([Document("", "", prompt)], tokenizer)
    assert count == by_hand(tokenizer, prompt, ids)
    assert ids[count:] in ([], [tokenizer.eos_token_id]) or not prompt


def test_documents_of_all_kinds_together(tokenizer: PreTrainedTokenizerBase) -> None:
    documents = [Document(text, "", prompt) for prompt, text in BOUNDARIES]
    alone = [one for document in documents for one in encode([document], tokenizer)]
    assert list(encode(documents, tokenizer)) == alone
