"""Tokens of conversations: six public chat templates times ten conversations, against transformers and by hand."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainables.data.chat_tokens import ChatTokenizer
from trainables.data.documents import Chat
from trainables.errors import DataError

ASSETS = Path(__file__).parents[2] / "assets" / "chat_templates"
LONG = 100_000

# Tokens that the templates name: opening, closing, and other special ones; and those that are not special.
TOKENS = {
    "qwen3": (None, "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], ["<think>", "</think>", "<tool_call>"]),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"], []),
    "gemma3": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], []),
    "smollm2": ("<|im_start|>", "<|im_end|>", ["<|endoftext|>"], []),
    "mistral": ("<s>", "</s>", [], []),
    "phi3": ("<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], []),
}
MARKED = ("qwen3_training", "llama3_training", "gemma3_training", "phi3_training")

Messages = list[dict[str, Any]]


def said(*contents: str, system: str | None = None) -> Messages:
    opening = [] if system is None else [{"role": "system", "content": system}]
    return opening + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


CONVERSATIONS: dict[str, Messages] = {
    "one turn": said("What is 2 + 3?", "2 + 3 = 5."),
    "a system prompt": said("Who are you?", "I am a teacher.", system="You are a teacher."),
    "three turns": said("Hi", "Hello!", "How are you?", "I am well.", "Good.", "Yes, good."),
    "a system prompt and turns": said("a", "b", "c", "d", system="Answer with the next letter."),
    "white space around": said("  What?\n", "  So.\n\n", "\n\nWhy?  ", "\n Because.  "),
    "not ASCII": said("Größe von 🎉?", "Drei Größen 🎉é — 漢字", "日本語?", "はい、🎉"),
    "tokens of templates": said("What is [/INST] and <|im_end|> and </s>?", "It is <|end|>[INST], <end_of_turn>."),
    "code": said("Write it.", "```python\nfor i in range(3):\n    print(i)\n```\nThat is all.", "Thanks", "Welcome"),
    "thoughts": said("2+2?", "<think>\nTwo and two.\n</think>\n\n4", "3+3?", "<think>\nThree\n</think>\n\n6"),
    "the same again": said("So?", "So.", "So?", "So.", "So?", "So."),
}


@cache
def tokenizer(name: str, trim: bool = False) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with the special tokens that a template names.

    Args:
        trim: whether offsets are without white space, as those of Llama 3 and GPT-2 are.
    """
    opening, closing, special, others = TOKENS[name.removesuffix("_training")]
    own = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own.post_processor = processors.ByteLevel(trim_offsets=trim)
    texts = [message["content"] for messages in CONVERSATIONS.values() for message in messages] + ["\n\n"] * 9
    own.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    made = PreTrainedTokenizerFast(tokenizer_object=own, bos_token=opening, eos_token=closing)
    made.add_tokens(special, special_tokens=True)
    made.add_tokens(others)
    made.chat_template = (ASSETS / f"{name}.jinja").read_text(encoding="utf-8")
    return made


def chat(messages: Messages, learned: str = "all") -> Chat:
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    chosen = answers if learned == "all" else answers[-1:]
    return Chat(tuple(messages), tuple(i in chosen for i in range(len(messages))), place="line 7 of a.jsonl")


def tokens(name: str, messages: Messages, **changes: Any) -> tuple[list[int], list[bool]]:
    ids, learned, cut = ChatTokenizer(tokenizer(name), None, "tiny").encode(replace(chat(messages), **changes), LONG)
    assert not cut
    return ids, learned


def fitting(name: str, messages: Messages) -> Messages:
    """Without a system prompt for the template that has none."""
    return [m for m in messages if m["role"] != "system"] if name == "mistral" else messages


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", MARKED)
def test_learned_tokens_are_those_of_transformers(name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    expected: Any = tokenizer(name).apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, learned = tokens(name, messages)
    assert ids == expected["input_ids"]
    assert learned == [bool(on) for on in expected["assistant_masks"]]
    assert any(learned)
    assert not all(learned)


Pieces = Iterator[tuple[str, bool]]


def chatml(messages: Messages, system: str | None = None) -> Pieces:
    if system is not None and messages[0]["role"] != "system":
        yield f"<|im_start|>system\n{system}<|im_end|>\n", False
    for message in messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield f"{message['content']}<|im_end|>\n", message["role"] == "assistant"


def smollm2(messages: Messages) -> Pieces:
    return chatml(messages, "You are a helpful AI assistant named SmolLM, trained by Hugging Face")


def qwen3(messages: Messages) -> Pieces:
    """Thoughts are taken out of what stands before the last question; the last answer always has some."""
    for message in messages[:-1]:
        text = message["content"]
        if message["role"] == "assistant":
            text = re.sub(r"<think>.*</think>\n*", "", text, flags=re.S)
        yield f"<|im_start|>{message['role']}\n{text}<|im_end|>\n", False
    thoughts = re.search(r"<think>\n(.*)\n</think>\n*", messages[-1]["content"], flags=re.S)
    answer = messages[-1]["content"][thoughts.end() if thoughts else 0 :].lstrip("\n")
    yield "<|im_start|>assistant\n", False
    yield f"<think>\n{thoughts[1] if thoughts else ''}\n</think>\n\n{answer}<|im_end|>\n", True


def llama3(messages: Messages) -> Pieces:
    yield "<|begin_of_text|>", False
    for message in messages:
        yield f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", False
        yield f"{message['content'].strip()}<|eot_id|>", message["role"] == "assistant"


def gemma3(messages: Messages) -> Pieces:
    yield "<bos>", False
    before = ""
    for message in messages:
        if message["role"] == "system":
            before = f"{message['content']}\n\n"
            continue
        role = {"user": "user", "assistant": "model"}[message["role"]]
        yield f"<start_of_turn>{role}\n{before}", False
        yield f"{message['content'].strip()}<end_of_turn>\n", role == "model"
        before = ""


def mistral(messages: Messages) -> Pieces:
    yield "<s>", False
    for message in messages:
        if message["role"] == "user":
            yield f"[INST] {message['content']} [/INST]", False
        else:
            yield f"{message['content']}</s> ", True


def phi3(messages: Messages) -> Pieces:
    for message in messages:
        yield f"<|{message['role']}|>\n", False
        yield f"{message['content']}<|end|>\n", message["role"] == "assistant"
    yield "<|endoftext|>", messages[-1]["role"] == "assistant"


BY_HAND: dict[str, Callable[[Messages], Pieces]] = {
    "qwen3": qwen3,
    "llama3": llama3,
    "gemma3": gemma3,
    "smollm2": smollm2,
    "mistral": mistral,
    "phi3": phi3,
}


def by_hand(name: str, messages: Messages) -> tuple[list[int], list[bool]]:
    """The ids, and of each whether any of its bytes is of an answer, by the bytes that the tokens stand for."""
    own = tokenizer(name)
    pieces = list(BY_HAND[name](messages))
    learned_by_byte = [on for text, on in pieces for _ in text.encode()]
    ids = own("".join(text for text, _ in pieces), add_special_tokens=False)["input_ids"]
    learned, start = [], 0
    for token in own.convert_ids_to_tokens(ids):
        # A byte is one character of GPT-2's alphabet; added tokens are written as they are.
        size = len(token.encode()) if token in own.added_tokens_encoder else len(token)
        learned.append(any(learned_by_byte[start : start + size]))
        start += size
    assert start == len(learned_by_byte)
    return ids, learned


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", BY_HAND)
def test_learned_tokens_are_those_by_hand(name: str, conversation: str) -> None:
    messages = fitting(name, CONVERSATIONS[conversation])
    expected: Any = tokenizer(name).apply_chat_template(messages, return_dict=True)
    ids, learned = tokens(name, messages)
    assert (ids, learned) == by_hand(name, messages)
    assert ids == expected["input_ids"]
