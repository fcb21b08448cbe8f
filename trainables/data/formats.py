"""Which columns of records are the prompt and the text to learn, by their names and values."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Names of columns, the surest first.
_PROMPTS = ("question", "problem", "prompt", "instruction", "query", "input")
_TEXTS = ("solution", "answer", "completion", "response", "output")
_PLAIN = ("text", "content", "document", "body", "article", "story", "code")
# Where they are beside a prompt, they stand before it, or after it.
_BEFORE, _AFTER = ("system", "context", "passage"), ("input",)
# Names of columns with chats, also where something is wrong with them: that is told when they are read.
_CHATS = ("messages", "conversations")
# The marks by which a message of a chat is known: OpenAI's and ShareGPT's.
_MESSAGE = (("role", "content"), ("from", "value"))
# GSM8K's mark before the final answer.
_FINAL = re.compile(r"#### \S")


@dataclass(frozen=True)
class Format:
    """How records become documents.

    Attributes:
        name: in words.
        columns: that are used.
        settings: of the block data: template and prompt, or messages.
        answer: settings with which generated answers can be compared; empty if none are known.
        gaps: records that lack one of the columns.
    """

    name: str
    columns: Sequence[str]
    settings: Mapping[str, str]
    answer: Mapping[str, str]
    gaps: int


def recognize(records: Sequence[Mapping[str, Any]]) -> Format | None:
    """The format of records; None if their columns do not tell."""
    columns = columns_of(records)
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(column.strip().lower(), column)

    def select(names: Iterable[str]) -> list[str]:
        return [by_name[name] for name in names if name in by_name]

    def place(column: str) -> str:
        return format_column(column, any(record.get(column) is None for record in records))

    def describe(name: str, used: list[str], settings: dict[str, str], answer: dict[str, str]) -> Format:
        gaps = sum(any(record.get(column) is None for column in used) for record in records)
        return Format(name, used, settings, answer, gaps)

    chats = [name for name in columns if name in _CHATS or any(is_chat(record.get(name)) for record in records)]
    if chat := next(iter(chats), None):
        return describe("chats", [chat], {"messages": chat}, {})
    texts = select(_TEXTS)
    prompts = [column for column in select(_PROMPTS) if column not in texts]
    if texts and prompts:
        prompt, text = prompts[0], texts[0]
        before, after = select(_BEFORE), [column for column in select(_AFTER) if column != prompt]
        lines = [*map(place, before), place(prompt), *map(place, after)]
        joined = all(_is_parted(record.get(([prompt, *after])[-1]), record.get(text)) for record in records)
        settings = {"prompt": "\n".join(lines) + ("" if joined else "\n"), "template": place(text)}
        answer: dict[str, str] = {}
        if len(texts) > 1 and texts[1].strip().lower() == "answer":
            answer = {"answer": place(texts[1])}
        elif all(_FINAL.search(str(record.get(text))) for record in records):
            answer = {"answer": place(text), "answer_pattern": "#### (.*)"}
        return describe("prompts and answers", [*before, prompt, *after, text], settings, answer)
    plain = columns if len(columns) == 1 else [] if texts or prompts else select(_PLAIN)
    return describe("plain text", plain[:1], {"template": place(plain[0])}, {}) if plain else None


def columns_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for record in records for name in record))


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""

    def is_message(message: Any) -> bool:
        return isinstance(message, Mapping) and any(a in message and b in message for a, b in _MESSAGE)

    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """About what a chat template makes of a chat."""
    return "".join(
        f"<|{message.get('role', message.get('from'))}|>\n{message.get('content', message.get('value'))}\n"
        for message in messages
    )


def format_column(column: str, optional: bool) -> str:
    """A column as it stands in a template."""
    name = json.dumps(column, ensure_ascii=False) if re.search(r'[{}"\\]|\?$', column) else column
    return f"{{{name}{'?' if optional else ''}}}"


def _is_parted(prompt: Any, text: Any) -> bool:
    """Whether the data itself has white space between a prompt and its answer."""
    return str(prompt)[-1:].isspace() or str(text)[:1].isspace()
