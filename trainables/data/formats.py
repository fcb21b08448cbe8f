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
_BEFORE, _AFTER = ("system", "system_prompt", "context", "passage"), ("input",)
# Names of columns with chats, also where something is wrong with them: that is told when they are read.
_CHATS = ("messages", "conversations")
_WITH_CHATS = ("system", "tools")
# The roles of what is learned.
_ASSISTANT = ("assistant", "gpt", "chatgpt", "model", "bot")
# The marks by which a message of a chat is known: OpenAI's and ShareGPT's.
_MESSAGE = (("role", "content"), ("from", "value"))
# What stands before the final answer: GSM8K's mark, TeX's box, and words.
PATTERNS = (r"#### (.*)", r"\\boxed\{(.*)\}", r"(?i:answer is:?) *(.*?)\.?\s*$")


@dataclass(frozen=True)
class Format:
    """How records become documents.

    Attributes:
        name: in words.
        columns: that are used.
        settings: of the block data: template and prompt, or messages.
        answer: the column, as it stands in a template, in which the final answer is; empty if none is known.
        gaps: records that lack one of the columns.
        unused: the other columns.
    """

    name: str
    columns: Sequence[str]
    settings: Mapping[str, str]
    answer: str
    gaps: int
    unused: Sequence[str] = ()


def recognize(records: Sequence[Mapping[str, Any]]) -> Format | None:
    """The format of records; None if their columns do not tell."""
    columns = columns_of(records)
    by_name: dict[str, str] = {}
    # An object or a list is no text to learn.
    plain_columns = [name for name in columns if not any(isinstance(r.get(name), Mapping | list) for r in records)]
    for column in plain_columns:
        by_name.setdefault(column.strip().lower(), column)

    def select(names: Iterable[str]) -> list[str]:
        return [by_name[name] for name in names if name in by_name]

    def place(column: str) -> str:
        return format_column(column, any(record.get(column) is None for record in records))

    def describe(name: str, used: list[str], settings: dict[str, str], answer: str = "") -> Format:
        gaps = sum(any(record.get(column) is None for column in used) for record in records)
        # Chats have these columns without being asked.
        unused = [column for column in columns if column not in used and (name != "chats" or column not in _WITH_CHATS)]
        return Format(name, used, settings, answer, gaps, unused)

    chats = [name for name in columns if name in _CHATS or any(_is_answered(record.get(name)) for record in records)]
    if chat := next(iter(chats), None):
        return describe("chats", [chat], {"messages": chat})
    texts = select(_TEXTS)
    prompts = [column for column in select(_PROMPTS) if column not in texts]
    if texts and prompts:
        prompt, text = prompts[0], texts[0]
        before, after = select(_BEFORE), [column for column in select(_AFTER) if column != prompt]
        lines = [*map(place, before), place(prompt), *map(place, after)]
        joined = all(_is_parted(record.get(([prompt, *after])[-1]), record.get(text)) for record in records)
        settings = {"prompt": "\n".join(lines) + ("" if joined else "\n"), "template": place(text)}
        own = texts[1] if len(texts) > 1 and texts[1].strip().lower() == "answer" else text
        return describe("prompts and answers", [*before, prompt, *after, text], settings, place(own))
    plain = plain_columns if len(columns) == 1 else [] if texts or prompts else select(_PLAIN)
    return describe("plain text", plain[:1], {"template": place(plain[0])}) if plain else None


def columns_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for record in records for name in record))


def _is_answered(value: Any) -> bool:
    """Whether a value is a list of messages, or JSON text of one, in which the assistant answers
    another."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    roles = [str(message.get("role", message.get("from"))).lower() for message in value] if is_chat(value) else []
    return any(role in _ASSISTANT for role in roles) and any(role not in _ASSISTANT for role in roles)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""

    def is_message(message: Any) -> bool:
        return isinstance(message, Mapping) and any(a in message and b in message for a, b in _MESSAGE)

    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def chat_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """About what a chat template makes of messages that `chats.py` has read."""
    return "".join(
        f"<|{message['role']}|>\n{message.get('content', '')}{message.get('tool_calls', '')}\n" for message in messages
    )


def format_column(column: str, optional: bool) -> str:
    """A column as it stands in a template."""
    name = json.dumps(column, ensure_ascii=False) if re.search(r'[{}"\\]|\?$', column) else column
    return f"{{{name}{'?' if optional else ''}}}"


def _is_parted(prompt: Any, text: Any) -> bool:
    """Whether the data itself has white space between a prompt and its answer."""
    return str(prompt)[-1:].isspace() or str(text)[:1].isspace()
