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


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", ["llama3", "gemma3", "phi3"])
def test_a_template_says_the_same_without_marks(name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    assert tokens(name, messages) == tokens(f"{name}_training", messages)


@pytest.mark.parametrize("name", ["llama3", "smollm2", "mistral", "phi3", "llama3_training", "phi3_training"])
def test_some_answers_are_learned(name: str) -> None:
    messages = CONVERSATIONS["three turns"]
    ids, every = tokens(name, messages)
    only = [tokens(name, messages, learned=tuple(i in (on, 5) for i in range(6)))[1] for on in (1, 3, 5)]
    assert [a + b - c for a, b, c in zip(*only, strict=True)] == every
    last = tokenizer(name).decode([i for i, on in zip(ids, only[2], strict=True) if on])
    assert last.startswith("Yes, good.")
    for text, learned in zip(("Hello!", "I am well."), only, strict=False):
        own = tokenizer(name).decode([i for i, on in zip(ids, learned, strict=True) if on]).removesuffix(last)
        assert own.startswith(text)
        assert own != text


@pytest.mark.parametrize("name", ["qwen3", "smollm2", "phi3", "llama3_training"])
def test_what_follows_the_last_answer_that_is_learned_is_left_out(name: str) -> None:
    messages = CONVERSATIONS["three turns"]
    switched_off = tuple(i == 3 for i in range(6))
    assert tokens(name, messages, learned=switched_off) == tokens(name, messages[:4], learned=switched_off[:4])
    assert tokens(name, [*messages, *said("Bye")]) == tokens(name, messages)


@pytest.mark.parametrize("name", ["llama3", "smollm2", "phi3", "llama3_training"])
def test_an_answer_may_open_a_conversation(name: str) -> None:
    messages = said("", "Hello, what is it?", "2 + 3?", "5")[1:]
    ids, learned = tokens(name, messages)
    own = tokenizer(name).decode([i for i, on in zip(ids, learned, strict=True) if on])
    assert own.startswith("Hello, what is it?")
    assert own.count("5") == 1
    assert "2 + 3" not in own


@pytest.mark.parametrize("name", ["smollm2", "mistral", "llama3_training"])
def test_offsets_without_white_space(name: str) -> None:
    for messages in CONVERSATIONS.values():
        fits = fitting(name, messages)
        trimmed = ChatTokenizer(tokenizer(name, trim=True), None, "tiny").encode(chat(fits), LONG)
        assert trimmed[:2] == tokens(name, fits)


@pytest.mark.parametrize("name", [*BY_HAND, *MARKED])
def test_the_last_answer_is_asked_with_the_generation_prompt(name: str) -> None:
    messages = CONVERSATIONS["three turns"]
    chats = ChatTokenizer(tokenizer(name), None, "tiny")
    expected: Any = tokenizer(name).apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
    assert chats.prompt(chat(messages)) == expected["input_ids"]
    ids, learned, _ = chats.encode(chat(messages, "last"), LONG)
    # White space before a word may be other tokens than at an end.
    asked = tokenizer(name).decode(expected["input_ids"])
    assert tokenizer(name).decode(ids[: learned.index(True)]) == asked
    ends = {"qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "gemma3": "<end_of_turn>", "phi3": "<|endoftext|>"}
    end = ends.get(name.removesuffix("_training"), tokenizer(name).eos_token)
    assert chats.stops == {tokenizer(name).convert_tokens_to_ids(end)}


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLED: Messages = [
    {"role": "user", "content": "2 + 3?"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "It is 5."},
]


def test_tool_calls_are_learned() -> None:
    expected: Any = tokenizer("qwen3_training").apply_chat_template(
        CALLED, tools=[TOOL], return_dict=True, return_assistant_tokens_mask=True
    )
    ids, learned = tokens("qwen3_training", CALLED, tools=(TOOL,))
    assert (ids, learned) == (expected["input_ids"], [bool(on) for on in expected["assistant_masks"]])
    own = tokenizer("qwen3_training").decode([i for i, on in zip(ids, learned, strict=True) if on])
    assert '{"name": "add", "arguments": {"a": 2}}' in own


def test_a_history_that_is_rewritten_is_noticed() -> None:
    chats = ChatTokenizer(tokenizer("qwen3"), None, "tiny")
    for messages in CONVERSATIONS.values():
        chats.encode(chat(messages), LONG)
    total = sum(m["role"] == "assistant" for messages in CONVERSATIONS.values() for m in messages)
    assert chats.notices() == [
        f"tiny: the chat template writes {total - 10} of {total} answers otherwise as the chat goes on (first in line "
        "7 of a.jsonl), and that is not learned; write data.train_on_answers: last, or give a data.chat_template that "
        "does not"
    ]
    last = ChatTokenizer(tokenizer("qwen3"), None, "tiny")
    for messages in CONVERSATIONS.values():
        last.encode(chat(messages, "last"), LONG)
    assert last.notices() == []


@pytest.mark.parametrize("name", ["llama3", "gemma3", "smollm2", "mistral", "phi3", *MARKED])
def test_nothing_is_noticed_of_templates_that_keep_the_history(name: str) -> None:
    chats = ChatTokenizer(tokenizer(name), None, "tiny")
    for messages in CONVERSATIONS.values():
        chats.encode(chat(fitting(name, messages)), LONG)
    assert chats.notices() == []


MARKS = "{% generation %}{{ m.content }}{% endgeneration %}"


def test_an_end_of_turn_that_is_not_marked_is_noticed() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + MARKS
        + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chats = ChatTokenizer(tokenizer("smollm2"), template, "tiny")
    chats.encode(chat(CONVERSATIONS["three turns"]), LONG)
    (notice,) = chats.notices()
    assert notice.startswith("tiny: {% generation %} in the chat template leaves out the token that ends 3 answers")


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKING = CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("name", "template", "told"),
    [
        ("smollm2", CHATML, "the chat template writes no generation prompt: what opens an answer is learned with it"),
        # Of whose tokens that of Mistral has none.
        ("mistral", ASKING, "no special token ends the answers, so that generated ones do not stop; give a data.chat_"),
    ],
)
def test_a_template_that_does_not_suit_generation_is_noticed(name: str, template: str, told: str) -> None:
    chats = ChatTokenizer(tokenizer(name), template, "tiny")
    chats.encode(chat(said("So?", "So.", "Why?", "Because.")), LONG)
    (notice,) = chats.notices()
    assert notice.startswith(f"tiny: {told}")


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_a_reasoning_that_is_left_out_is_noticed(key: str) -> None:
    messages = [*said("2+2?"), {"role": "assistant", "content": "4", key: "Two and two."}]
    chats = ChatTokenizer(tokenizer("llama3"), None, "tiny")
    chats.encode(chat(messages), LONG)
    (notice,) = chats.notices()
    assert notice.startswith("tiny: the chat template leaves out the reasoning of 1 answers (first in line 7 of a.jso")
    chats = ChatTokenizer(tokenizer("qwen3"), None, "tiny")
    ids, learned, _ = chats.encode(chat(messages), LONG)
    written = tokenizer("qwen3").decode([token for token, on in zip(ids, learned, strict=True) if on])
    assert "Two and two." in written
    assert chats.notices() == []


@pytest.mark.parametrize("call", ["strftime_now('%d %B %Y')", 'strftime_now("%d %B %Y")'])
def test_a_template_that_writes_the_date_makes_the_same_tokens_tomorrow(call: str) -> None:
    template = f"{{{{ {call} }}}}{ASKING}"
    ids, _, _ = ChatTokenizer(tokenizer("smollm2"), template, "tiny").encode(chat(said("a", "b")), LONG)
    assert str(tokenizer("smollm2").decode(ids)).startswith("01 January 2025<|im_start|>")


@pytest.mark.parametrize("length", [20, 40, 60, 100])
@pytest.mark.parametrize("name", ["smollm2", "qwen3", "phi3", "llama3_training"])
def test_a_long_chat_is_cut_between_turns(name: str, length: int) -> None:
    chats = ChatTokenizer(tokenizer(name), None, "tiny")
    messages = said("a", "b b b", "c", "d d d", "e", "f f f", system="x")
    ids, learned, cut = chats.encode(chat(messages), length)
    assert cut == (len(tokens(name, messages)[0]) > length)
    whole = [tokens(name, messages[:n]) for n in (3, 5, 7)]
    fitting_ones = [one for one in whole if len(one[0]) <= length]
    assert (ids, learned) == (fitting_ones or [(whole[0][0][:length], whole[0][1][:length])])[-1]


def test_the_oldest_turns_are_left_out_if_the_last_answer_is_learned() -> None:
    messages = said("a", "b b b", "c", "d d d", "e", "f f f", system="x")
    chats = ChatTokenizer(tokenizer("smollm2"), None, "tiny")
    for kept in ([*messages[:1], *messages[3:]], [*messages[:1], *messages[5:]]):
        expected = tokens("smollm2", kept, learned=chat(kept, "last").learned)
        assert chats.encode(chat(messages, "last"), len(expected[0])) == (*expected, True)
    assert chats.notices() == []
    ids, learned, cut = chats.encode(chat(messages, "last"), 5)
    assert (len(ids), any(learned), cut) == (5, False, True)
    (notice,) = chats.notices()
    assert notice.startswith("tiny: 1 chats have nothing to learn in training.sequence_length tokens (first line 7 of")


def test_an_answer_that_is_too_long_with_one_turn_before_it_is_cut_within() -> None:
    messages = said("a", "b b b", "c", "d d d", "e", "f " * 50, system="x")
    kept = [*messages[:1], *messages[5:]]
    expected = tokens("smollm2", kept, learned=chat(kept, "last").learned)
    ids, learned, cut = ChatTokenizer(tokenizer("smollm2"), None, "tiny").encode(chat(messages, "last"), 40)
    assert (ids, learned, cut) == (expected[0][:40], expected[1][:40], True)
    assert any(learned)


WITHOUT_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("name", "template", "messages", "tools", "told"),
    [
        ("smollm2", "{% for", said("a", "b"), (), "data.chat_template: the chat template of tiny is none: "),
        ("smollm2", "{{ 1 / 0 }}", said("a", "b"), (), "data.messages: given line 7 of a.jsonl; allowed: chats that "),
        (
            "mistral",
            None,
            CONVERSATIONS["a system prompt"],
            (),
            "data.messages: given line 7 of a.jsonl; allowed: chats that the chat template of tiny takes (Conversati",
        ),
        (
            "gemma3",
            None,
            [*said("a"), *said("a", "b")],
            (),
            "data.messages: given line 7 of a.jsonl; allowed: chats that the chat template of tiny takes (Conversati",
        ),
        (
            "smollm2",
            WITHOUT_SYSTEM,
            CONVERSATIONS["a system prompt"],
            (),
            "data.chat_template: the chat template of tiny leaves out message 1 (system) of line 7 of a.jsonl; give",
        ),
        (
            "phi3",
            None,
            said("a", "b"),
            (TOOL,),
            "data.chat_template: the chat template of tiny leaves out the tools of line 7 of a.jsonl; give one h",
        ),
        (
            "smollm2",
            None,
            [*said("a"), {"role": "assistant", "content": "I add.", "tool_calls": CALLED[1]["tool_calls"]}],
            (),
            "data.chat_template: the chat template of tiny leaves out the tool calls in message 2 of line 7 of a",
        ),
        # Another message has the words of the one that is left out.
        (
            "smollm2",
            "{% for m in messages if m.role != 'tool' %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}",
            [*said("a", "b", "c"), {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."}],
            (),
            "data.chat_template: the chat template of tiny leaves out message 4 (tool) of line 7 of a.jsonl; give",
        ),
        # The length of the whole stands before all of it.
        (
            "smollm2",
            "{{ messages | length }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}",
            said("a", "b"),
            (),
            "data.chat_template: the chat template of tiny does not show where the answers of line 7 of a.jsonl st",
        ),
        # It writes an empty thought into the last answers alone.
        (
            "qwen3",
            None,
            [*said("2+2?", "4"), {"role": "assistant", "content": "Four."}],
            (),
            "data.chat_template: the chat template of tiny does not show where the answers of line 7 of a.jsonl stand; "
            "join its answers that follow one another, or give one here that has {% generation %}",
        ),
    ],
)
def test_what_a_template_does_not_take_is_told(
    name: str, template: str | None, messages: Messages, tools: tuple[Any, ...], told: str
) -> None:
    with pytest.raises(DataError) as caught:
        ChatTokenizer(tokenizer(name), template, "tiny").encode(replace(chat(messages), tools=tools), LONG)
    assert str(caught.value).startswith(told)
    assert str(caught.value).isprintable()


def test_a_tokenizer_without_a_template_or_without_offsets_is_told() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<end>")
    told = r"^data.chat_template: the tokenizer of tiny has no chat template; give one here, as text or as a file$"
    with pytest.raises(DataError, match=told):
        ChatTokenizer(plain, None, "tiny").encode(chat(said("a", "b")), LONG)
    told = r"^data.messages: the tokenizer of tiny does not say where in a chat its tokens stand; name a model with a"
    with pytest.raises(DataError, match=told):
        ChatTokenizer(ByT5Tokenizer(), tokenizer("smollm2").chat_template, "tiny").encode(chat(said("a", "b")), LONG)


@pytest.mark.parametrize("attack", ["messages.__class__.__mro__", "''.__class__.__base__.__subclasses__()"])
def test_a_template_runs_in_a_sandbox(attack: str) -> None:
    template = f"{{% set found = {attack} %}}{{{{ found }}}}{tokenizer('smollm2').chat_template}"
    with pytest.raises(DataError, match=r"^data\.messages: given line 7 of a\.jsonl; allowed: chats that"):
        ChatTokenizer(tokenizer("smollm2"), template, "tiny").encode(chat(said("a", "b")), LONG)
