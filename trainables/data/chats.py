"""From records with conversations to documents: OpenAI's messages (role, content) or ShareGPT's (from, value).

Messages become what chat templates take: OpenAI's, with text as content and with objects as the arguments of tool
calls. A document's text only tells conversations apart; `chat_tokens.py` makes the tokens.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.data.documents import Chat, Document, alike
from trainables.data.templates import (
    Field,
    Number,
    Object,
    TwiceError,
    as_text,
    fill_template,
    no_column,
    parse_json,
)
from trainables.data.written_numbers import Written, has_written, write_json
from trainables.errors import DataError

# The columns that are found without being named.
COLUMNS = ("messages", "conversations")
_OPENAI, _SHAREGPT = ("role", "content"), ("from", "value")
# A model's call of a tool, as JSON, and what the tool answers.
_CALL = "function_call"
_ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {"human": "user", "observation": "tool"}
_ROLES |= dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model", "bot"), "assistant")
# A first message that asks nothing: what follows tells conversations apart.
_GREETING = re.compile(
    r"\W*(hi|hey|hello|greetings|good (morning|afternoon|evening|day)|hola|bonjour|salut|hallo|ciao|ol[aá]|你好|您好)?"
    r"( (there|all|everyone|again))?\W*",
    re.IGNORECASE,
)
# Keys by which a message switches itself off: OpenAI's, and those of axolotl's examples.
_SWITCHES = ("weight", "train", "training")


@dataclass(frozen=True)
class Chats:
    """What turns a record into a conversation.

    Attributes:
        column: with the messages; None: messages or conversations, whichever there is.
        learned: which of the assistant's messages are learned: "all" or "last".
        answer: template of what a generated text is compared with; None: the last message that is learned.
    """

    column: str | None = None
    learned: str = "all"
    answer: str | None = None

    def fits(self, record: Mapping[str, Any]) -> bool:
        return any(Field(name, optional=False).is_in(record) for name in ([self.column] if self.column else COLUMNS))

    def documents(self, records: Iterable[tuple[str, Mapping[str, Any]]], where: str) -> Iterator[Document]:
        """The conversations. Those with the same first message of the user that is more than a greeting are a group.

        Args:
            records: each with where it stands, as in "line 3 of data.jsonl".

        Raises:
            DataError: a column that does not exist, or a conversation that cannot be read or has nothing to learn.
        """
        known: dict[str, None] = {}
        column, keys = self.column, None
        for place, record in records:
            known |= dict.fromkeys(record)
            column = column or _find_column(record, where)
            if not (field := Field(column, optional=False)).is_in(known):
                raise no_column("messages", field, known, where)
            try:
                given = _read_list(column, record, place)
                if keys is None and given:
                    keys = _SHAREGPT if _SHAREGPT[0] in given[0] else _OPENAI
                chat = self._chat(given, keys or _OPENAI, record, place)
                last = next(m for m, on in zip(chat.messages[::-1], chat.learned[::-1], strict=True) if on)
                answer = fill_template("answer", self.answer, record, place, where, known) if self.answer else None
                yield _document(chat, answer or last.get("content"))
            except DataError:
                raise
            # Bytes of a picture; half of a character, which JSON can hold; objects within objects without end.
            except (ValueError, RecursionError):
                allowed = "text that is Unicode, UTF-8 where it is bytes"
                raise DataError("data.messages", place, allowed) from None

    def _chat(
        self, given: list[Mapping[str, Any]], keys: tuple[str, str], record: Mapping[str, Any], place: str
    ) -> Chat:
        messages = [_read_message(message, keys, f"message {n} of {place}") for n, message in enumerate(given, 1)]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise DataError("data.messages", f"{place} has no message of the assistant to learn; leave it out")
        chosen = answers if self.learned == "all" else answers[-1:]
        learned = [i in chosen and _is_on(message, place) for i, message in enumerate(given)]
        if not any(learned):
            raise DataError("data.messages", f"{place} switches off all that is to be learned of it; leave it out")
        system = record.get("system")
        if system is not None and not isinstance(system, str):
            raise DataError("data.messages", f"the column 'system' of {place}", "text, or none")
        if system and messages[0]["role"] != "system":
            messages, learned = [{"role": "system", "content": system}, *messages], [False, *learned]
        tools = [] if record.get("tools") in (None, "") else _read_list("tools", record, place)
        return Chat(tuple(messages), tuple(learned), tuple(map(_plain, tools)), place)


def _find_column(record: Mapping[str, Any], where: str) -> str:
    found = [name for name in COLUMNS if name in record]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError("data.messages", f"{where} has the columns {' and '.join(found)}; name one of them here")
    problem = f"there is none, and {where} has no column {' or '.join(COLUMNS)} but {', '.join(map(str, record))}"
    raise DataError("data.template", f"{problem}; write a template of these, or data.messages for conversations")


def _read_list(column: str, record: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    """A column of objects, which may be JSON in a text."""
    value, reason = Field(column, optional=False).value(record), ""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (ValueError, RecursionError) as error:
            reason = f" ({error})"
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        return value
    raise DataError("data.messages", place, f"a list of objects in the column '{column}', or JSON text of one{reason}")


def _read_message(given: Mapping[str, Any], keys: tuple[str, str], place: str) -> dict[str, Any]:
    if keys[0] not in given:
        allowed = f"{' and '.join(keys)}, as in the records before"
        if keys == _OPENAI and _SHAREGPT[0] not in given:
            allowed = "role and content, or from and value"
        raise DataError("data.messages", f"the keys {', '.join(given)} in {place}", allowed)
    if keys == _SHAREGPT and as_text(given[keys[0]]) == _CALL:
        calls = _read_calls(given.get(keys[1]), place)
        given = {**given, "from": "gpt", "value": None, "tool_calls": calls}
    elif keys == _OPENAI:
        given = _modernize(given)
    name = as_text(given[keys[0]]) or ""
    role = _ROLES.get(name.strip().lower(), name if keys == _OPENAI else None)
    if not role:
        allowed = f"system, user or human, assistant or gpt, tool or observation, {_CALL}"
        raise DataError("data.messages", f"the role '{name}' in {place}", allowed)
    content = _read_content(given.get(keys[1]), place)
    beside = {key: _plain(one) for key, one in given.items() if key not in (*keys, *_SWITCHES) and one is not None}
    calls = beside.get("tool_calls") or []
    for call in calls if isinstance(calls, list) else []:
        _parse_arguments(call, place)
    if role == "assistant" and not (content or "").strip() and not calls:
        raise DataError(
            "data.messages", f"{place} is an empty answer of the assistant; give it a text, or leave it out"
        )
    # OpenAI leaves out the content of a message that calls tools.
    if content is None and not calls:
        raise DataError("data.messages", f"{place}, without a value of '{keys[1]}'", "messages with one")
    return {"role": role, **({} if content is None else {"content": content}), **beside}


def _modernize(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message of OpenAI's with its one function call as a tool call, and with a refusal as its content."""
    beside = {key: value for key, value in given.items() if key not in (_CALL, "refusal")}
    if isinstance(call := given.get(_CALL), Mapping) and not given.get("tool_calls"):
        beside["tool_calls"] = [{"type": "function", "function": call}]
    if isinstance(refusal := given.get("refusal"), str) and given.get("content") is None:
        beside["content"] = refusal
    return beside


def _read_content(value: Any, place: str) -> str | None:
    """Its text; the parts of a list follow one another."""
    if not isinstance(value, list):
        return as_text(value)
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        raise DataError("data.messages", f"{place}, which is not text alone", "text, or a list of parts that are text")
    texts = [text for part in value if (text := as_text(part.get("text"))) is not None]
    return "".join(texts) if texts else None


def _plain(value: Any) -> Any:
    """A value as JSON has it. What is null in an object that is not of JSON is left out."""
    match value:
        case Number():
            number = float(value)
            return number if repr(number) == value else Written(value)
        case float() if not math.isfinite(value):
            return None
        case Object():
            return {key: _plain(one) for key, one in value.items()}
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items() if one is not None}
        case list() | tuple():
            return [_plain(one) for one in value]
        case None | bool() | int() | float():
            return value
    return as_text(value)


def _read_calls(value: Any, place: str) -> list[dict[str, Any]]:
    """The tool calls in the text of a message, in OpenAI's form."""
    reason = ""
    try:
        calls = _plain(parse_json(as_text(value) or ""))
    except (ValueError, RecursionError) as error:
        calls, reason = None, f" ({error})"
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        allowed = f"JSON of a call: an object with name and arguments{reason}"
        raise DataError("data.messages", f"the {_CALL} in {place}", allowed)
    return [{"type": "function", "function": call} for call in calls]


def _parse_arguments(call: Any, place: str) -> None:
    """Chat templates take the arguments of a tool call as an object; OpenAI writes them as JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
        try:
            function["arguments"] = _plain(parse_json(arguments))
        except TwiceError as error:
            allowed = f"JSON of an object ({error})"
            raise DataError("data.messages", f"the arguments of a call in {place}", allowed) from None
        except (ValueError, RecursionError):
            return


def _is_on(message: Mapping[str, Any], place: str) -> bool:
    """Whether a message of the assistant is learned, as far as the message says."""
    given = {key: _plain(message[key]) for key in _SWITCHES if message.get(key) is not None}
    if wrong := next((key for key, value in given.items() if value not in (0, 1)), None):
        allowed = "weight 0 or 1, train or training true or false"
        raise DataError("data.messages", f"{wrong} {json.dumps(given[wrong])} in {place}", allowed)
    return all(given.values())


def _document(chat: Chat, answer: str | None) -> Document:
    roles = [message["role"] for message in chat.messages]
    # Without a message of the user, what stands before the first answer.
    opening = roles.index("user") if "user" in roles else chat.learned.index(True) - 1
    written = [_text(message) for message in chat.messages]
    tools = write_json(chat.tools, sort_keys=True) if chat.tools else ""
    prompt, text = tools + "".join(written[: opening + 1]), "".join(written[opening + 1 :])
    # A chat template may write any key.
    for words in _words([chat.messages, chat.tools]):
        words.encode()
        if "\0" in words:
            raise DataError("data.messages", chat.place, "text without NUL characters; save it as UTF-8 text")
    asked = [str(message.get("content", "")) for message in chat.messages if message["role"] == "user"]
    count = next((n for n, words in enumerate(asked, 1) if not _GREETING.fullmatch(words)), len(asked))
    group = "\n".join(asked[:count]) or (written[opening] if opening >= 0 else text)
    return Document(text, alike(group), prompt, answer, chat)


def _text(message: Mapping[str, Any]) -> str:
    told = ("reasoning_content", "tool_calls")
    # Python takes 1.50 for 1.5, and a template may write it.
    beside = {key: one for key, one in message.items() if key in told or has_written(one)}
    own = write_json(beside, sort_keys=True) if beside else ""
    return f"{message['role']}: {message.get('content', '')}{own}\n"


def _words(value: Any) -> Iterator[str]:
    """The texts within a value, and the keys of its objects."""
    match value:
        case str():
            yield value
        case dict():
            yield from _words([*value, *value.values()])
        case list() | tuple():
            for one in value:
                yield from _words(one)
