"""From conversations to tokens, by a chat template.

An answer is learned from where the generation prompt ends to where the next turn begins: its text, the token that ends
the turn, and what stands behind that. A template with {% generation %} says itself what is learned. Without it, an
answer is learned if it stands in the conversation as it does at the end of the shorter one that it closes, right behind
the generation prompt.

Templates are not trusted: transformers renders them in a sandbox.
"""

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from trainables.data.documents import Chat
from trainables.data.text_tokens import special_ids
from trainables.errors import DataError

# Where characters begin and end.
_Span = tuple[int, int]
# Keys of messages with what a model thinks before it answers.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# A template that writes today's date would make other tokens tomorrow.
_TODAY, _DATE = re.compile(r"""strftime_now\((["'])(.*?)\1\)"""), datetime(2025, 1, 1)


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a conversation.

    Attributes:
        learned: of each token, whether it is learned.
        rewritten: answers that the template writes otherwise as the conversation goes on.
        endless: answers whose {% generation %} leaves out the special token that ends the turn.
    """

    ids: list[int]
    learned: list[bool]
    rewritten: int
    endless: int


class ChatTokenizer:
    """Tokenizes conversations, and counts what a person should know of them.

    Attributes:
        stops: the special tokens that end the answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None, model: str) -> None:
        """
        Args:
            template: a chat template; None: the tokenizer's own.
            model: whose tokenizer it is, for an error.
        """
        self.stops: set[int] = set()
        self._tokenizer, self._given, self._model = tokenizer, template, model
        special = special_ids(tokenizer)
        self._special = dict(zip(special, tokenizer.convert_ids_to_tokens(list(special)), strict=True))
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._knows_headers = False

    def encode(self, chat: Chat, length: int) -> tuple[list[int], list[bool], bool]:
        """The tokens up to the last answer that is learned, whether each is, and whether they are cut to `length`.

        What is longer ends with the last turn that fits. Where that leaves no answer to learn, the oldest turns are
        left out instead; and an answer that is too long with one turn before it is cut within.

        Raises:
            DataError: there is no template, or it refuses the conversation, leaves out a part of it, or does not show
                where answers begin and end; or the tokenizer gives no offsets.
        """
        # What follows the last of them is left out: nothing would be learned behind it.
        chat = _part(chat, range(_find_last_learned(chat) + 1))
        tokens = self._tokens(chat)
        if not any(tokens.learned):
            problem = f"the chat template of {self._model} does not show where the answers of {chat.place} stand"
            roles = [message["role"] for message in chat.messages]
            joined = "join its answers that follow one another, or " if ("assistant",) * 2 in pairwise(roles) else ""
            raise DataError("data.chat_template", f"{problem}; {joined}give one here that has {{% generation %}}")
        cut = len(tokens.ids) > length
        if not cut:
            self.stops |= _last_of_runs(tokens, self._special)
        else:
            shorter = self._shorten(chat, length) or tokens
            tokens = replace(shorter, ids=shorter.ids[:length], learned=shorter.learned[:length])
        self._counts["answers"] += sum(chat.learned)
        found = {
            "rewritten": tokens.rewritten,
            "endless": tokens.endless,
            "unlearned": int(not any(tokens.learned)),
            "thoughtless": self._count_thoughtless(chat),
            "unstopped": int(not cut and not self.stops),
        }
        for what, count in found.items():
            if count:
                self._counts[what] += count
                self._first.setdefault(what, chat.place)
        return tokens.ids, tokens.learned, cut

    def prompt(self, chat: Chat) -> list[int]:
        """The tokens with which the last answer that is learned is asked for."""
        return self._encode(self._render(chat, chat.messages[: _find_last_learned(chat)], prompt=True)[0])[0]

    def notices(self) -> list[str]:
        """What a person should know of the conversations so far: a line each, with what to do."""
        count, first = {what: f"{n:,}" for what, n in self._counts.items()}, self._first
        lines = []
        if "rewritten" in first:
            learned = "learned as it then stands" if self._is_marked(()) else "not learned"
            lines.append(
                f"the chat template writes {count['rewritten']} of {count['answers']} answers otherwise as the chat "
                f"goes on (first in {first['rewritten']}), and that is {learned}; write data.train_on_answers: last, "
                "or give a data.chat_template that does not"
            )
        if "endless" in first:
            lines.append(
                f"{{% generation %}} in the chat template leaves out the token that ends {count['endless']} answers "
                f"(first in {first['endless']}), which is not learned; give a data.chat_template that has it"
            )
        if "unlearned" in first:
            lines.append(
                f"{count['unlearned']} chats have nothing to learn in training.sequence_length tokens (first "
                f"{first['unlearned']}); raise it, or leave them out"
            )
        if "headed" in first:
            lines.append(
                f"the chat template writes no generation prompt: what opens an answer is learned with it (first in "
                f"{first['headed']}), and answers are asked for without it; give a data.chat_template with "
                "{% if add_generation_prompt %}"
            )
        if "thoughtless" in first:
            lines.append(
                f"the chat template leaves out the reasoning of {count['thoughtless']} answers (first in "
                f"{first['thoughtless']}), which is not learned; give a data.chat_template that writes it"
            )
        if "unstopped" in first and not self.stops and "endless" not in first:
            lines.append(
                "no special token ends the answers, so that generated ones do not stop; give a data.chat_template that "
                "ends them with a special token of this tokenizer"
            )
        return [f"{self._model}: {line}" for line in lines]

    def _count_thoughtless(self, chat: Chat) -> int:
        """Answers with a reasoning that the template does not even write where they end the conversation."""

        def is_thoughtless(index: int) -> bool:
            thoughts = [chat.messages[index].get(key) for key in _THOUGHTS]
            written = [thought.strip() for thought in thoughts if isinstance(thought, str) and thought.strip()]
            return any(thought not in self._render(chat, chat.messages[: index + 1])[0] for thought in written)

        return sum(is_thoughtless(index) for index, learned in enumerate(chat.learned) if learned)

    def _tokens(self, chat: Chat) -> _Tokens:
        text, marks = self._render(chat, chat.messages)
        self._check_whole(chat, text)
        turns = [self._find_turn(chat, i, text) for i, learned in enumerate(chat.learned) if learned]
        spans, endless = [turn for turn in turns if turn is not None], 0
        if not self._is_marked(chat.tools):
            if not self._knows_headers:
                self._look_for_headers(chat, text, turns)
        else:
            spans = self._select_learned(chat, marks)
            if len(spans) == len(turns):
                behind = (text[span[1] : turn[1]] for span, turn in zip(spans, turns, strict=True) if turn is not None)
                endless = sum(any(token in rest for token in self._special.values()) for rest in behind)
        ids, offsets = self._encode(text)
        learned = [False] * len(ids)
        for start, end in spans:
            for index, (first, last) in enumerate(offsets):
                # Some tokenizers take the white space out of the offsets: a token may begin where it ends.
                learned[index] |= start < last and (first < end or last == end)
        return _Tokens(ids, learned, turns.count(None), endless)

    def _find_turn(self, chat: Chat, index: int, text: str) -> _Span | None:
        """Where the answer `index` stands in the whole text; None if it does not stand there as the model writes it."""
        try:
            until = self._begun(self._render(chat, chat.messages[: index + 1])[0], text)
            if index:
                prompt = self._render(chat, chat.messages[:index], prompt=True)[0]
            else:
                # No conversation stands before it: as it does behind the whole one.
                asked = self._render(chat, chat.messages, prompt=True)[0]
                before, opening, _ = until.partition(asked[len(self._begun(text, asked)) :])
                prompt = before + opening
        # What is a conversation to the template as a whole may be none in part; partition wants a text to look for.
        except ValueError:
            return None
        return (len(prompt), len(until)) if until.startswith(prompt) and until != prompt else None

    def _look_for_headers(self, chat: Chat, text: str, turns: Sequence[_Span | None]) -> None:
        """Looks once whether answers are learned with what opens them, as nothing of it stands in the prompt."""
        answers = [(i, message) for i, message in enumerate(chat.messages) if chat.learned[i]]
        for (index, message), turn in zip(answers, turns, strict=True):
            if turn is None or not index or not (content := str(message.get("content", "")).strip()):
                continue
            header = text[slice(*turn)].partition(content)[0].strip()
            before = chat.messages[:index]
            if header and self._render(chat, before)[0] == self._render(chat, before, prompt=True)[0]:
                self._first["headed"] = chat.place
            # As all of this template are.
            self._knows_headers = True
            return

    def _begun(self, text: str, longer: str) -> str:
        """`text`, which `longer` begins with; without the end-of-sequence token if it closes whole conversations only.

        Raises:
            ValueError: it does not.
        """
        end = self._tokenizer.eos_token
        for begun in (text, text.removesuffix(end) if isinstance(end, str) else text):
            if longer.startswith(begun):
                return begun
        raise ValueError

    def _select_learned(self, chat: Chat, marks: Iterable[_Span]) -> list[_Span]:
        """What {% generation %} marks of the answers that are learned."""
        joined: list[_Span] = []
        for start, end in marks:
            # The token that closes the whole conversation may have a mark of its own.
            before = joined.pop() if joined and joined[-1][1] == start else (start, end)
            joined.append((before[0], end))
        answers = [
            on for on, message in zip(chat.learned, chat.messages, strict=True) if message["role"] == "assistant"
        ]
        if len(joined) == len(answers):
            return [span for span, on in zip(joined, answers, strict=True) if on]
        if all(answers):
            return joined
        problem = f"{{% generation %}} marks {len(joined)} parts of {chat.place}, which has {len(answers)} answers"
        raise DataError("data.chat_template", f"{problem}; write data.train_on_answers: all, or give another template")

    def _shorten(self, chat: Chat, length: int) -> _Tokens | None:
        """The tokens of the longest part that fits, and has an answer that is learned; if none does, of the shortest
        one."""
        first, roles = chat.learned.index(True), [message["role"] for message in chat.messages]
        system = [0] if roles[0] == "system" else []
        endings = [range(i + 1) for i, role in enumerate(roles[:-1]) if role == "assistant" and i >= first]
        beginnings = [[*system, *range(i, first + 1)] for i in range(first, 0, -1) if roles[i] == "user"]
        for parts in ([_part(chat, part) for part in endings], [_part(chat, part) for part in beginnings]):
            fitting = bisect_right(parts, length, key=lambda p: len(self._encode(self._render(p, p.messages)[0])[0]))
            if fitting:
                return self._tokens(parts[fitting - 1])
        return self._tokens(_part(chat, beginnings[0])) if beginnings else None

    def _check_whole(self, chat: Chat, text: str) -> None:
        """Raises DataError if the template leaves out a message, its tool calls or the tools."""

        def is_ignored(other: Chat) -> bool:
            try:
                return self._render(other, other.messages)[0] == text
            # It cannot do without.
            except DataError:
                return False

        def changed(index: int, message: dict[str, Any]) -> Chat:
            return replace(chat, messages=(*chat.messages[:index], message, *chat.messages[index + 1 :]))

        left_out = ["the tools"] if chat.tools and is_ignored(replace(chat, tools=())) else []
        contents = [message.get("content", "").strip() for message in chat.messages]
        for index, (message, content) in enumerate(zip(chat.messages, contents, strict=True)):
            others = {k: v for k, v in message.items() if k != "tool_calls"}
            # It may be written otherwise, as JSON or without its reasoning; and another one may have its words.
            is_written = not content or text.count(content) >= sum(other.count(content) for other in contents)
            if not is_written and is_ignored(changed(index, {**message, "content": f"{content}x"})):
                left_out.append(f"message {index + 1} ({message['role']})")
            if message.get("tool_calls") and is_ignored(changed(index, others)):
                left_out.append(f"the tool calls in message {index + 1}")
        if left_out:
            problem = f"the chat template of {self._model} leaves out {left_out[0]} of {chat.place}"
            raise DataError("data.chat_template", f"{problem}; give one here that writes it")

    def _render(self, chat: Chat, messages: Sequence[dict[str, Any]], prompt: bool = False) -> tuple[str, list[_Span]]:
        """The text of messages, and what {% generation %} marks in it; with the generation prompt behind it."""
        names: dict[str, Any] = self._tokenizer.special_tokens_map
        template, marked = self._template(chat.tools), self._is_marked(chat.tools)
        try:
            rendered: Any = render_jinja_template(
                [list(messages)],
                tools=list(chat.tools) or None,
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=prompt,
                **names,
            )
        except TemplateSyntaxError as error:
            problem = f"the chat template of {self._model} is none: {error.message} in its line {error.lineno}"
            raise DataError("data.chat_template", f"{problem}; give one here that Jinja can read") from None
        # A template raises what it likes: TemplateError, TypeError, KeyError ...
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            allowed = f"chats that the chat template of {self._model} takes ({reason})"
            raise DataError("data.messages", chat.place, allowed) from None
        (text,), marks = rendered
        return text, marks[0] if marked else []

    def _template(self, tools: Sequence[Any]) -> str:
        try:
            template = self._tokenizer.get_chat_template(self._given, list(tools) or None)
        except ValueError:
            problem = f"the tokenizer of {self._model} has no chat template; give one here, as text or as a file"
            raise DataError("data.chat_template", problem) from None
        return _TODAY.sub(lambda call: json.dumps(_DATE.strftime(call[2])), template)

    def _is_marked(self, tools: Sequence[Any]) -> bool:
        # As transformers looks for it.
        return re.search(r"\{%-?\s*generation\s*-?%\}", self._template(tools)) is not None

    def _encode(self, text: str) -> tuple[list[int], list[_Span]]:
        try:
            encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return encoded["input_ids"], encoded["offset_mapping"]
        # Tokenizers in Python.
        except (NotImplementedError, KeyError):
            problem = f"the tokenizer of {self._model} does not say where in a chat its tokens stand"
            raise DataError("data.messages", f"{problem}; name a model with a tokenizer.json") from None


def _last_of_runs(tokens: _Tokens, special: Container[int]) -> set[int]:
    """The last special token of each run of tokens that are learned."""
    found: set[int] = set()
    for learned, run in groupby(zip(tokens.ids, tokens.learned, strict=True), key=lambda pair: pair[1]):
        found |= set([token for token, _ in run if learned and token in special][-1:])
    return found


def _find_last_learned(chat: Chat) -> int:
    """The last message that is learned."""
    return max(i for i, learned in enumerate(chat.learned) if learned)


def _part(chat: Chat, indices: Iterable[int]) -> Chat:
    kept = tuple(indices)
    return replace(chat, messages=tuple(chat.messages[i] for i in kept), learned=tuple(chat.learned[i] for i in kept))
