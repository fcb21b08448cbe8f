"""What is a prompt and what is the text to learn, by the names and the values of columns."""

from typing import Any

import pytest

from trainables.data.formats import chat_text, format_column, recognize
from trainables.data.templates import Field, Templates, parse

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHARE_GPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
FORMATS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"question": "q", "answer": "a"}, {"prompt": "{question}\n", "template": "{answer}"}),
    ({"id": 3, "Question": "q", "Answer": "a"}, {"prompt": "{Question}\n", "template": "{Answer}"}),
    ({"prompt": "p", "completion": "c"}, {"prompt": "{prompt}\n", "template": "{completion}"}),
    ({"prompt": "p ->", "completion": " c"}, {"prompt": "{prompt}", "template": "{completion}"}),
    ({"prompt": "p\n", "completion": "c"}, {"prompt": "{prompt}", "template": "{completion}"}),
    ({"problem": "p", "solution": "s", "answer": 4}, {"prompt": "{problem}\n", "template": "{solution}"}),
    (
        {"instruction": "i", "input": "n", "output": "o"},
        {"prompt": "{instruction}\n{input}\n", "template": "{output}"},
    ),
    ({"input": "i", "output": "o"}, {"prompt": "{input}\n", "template": "{output}"}),
    (
        {"system": "s", "context": "c", "question": "q", "response": "r"},
        {"prompt": "{system}\n{context}\n{question}\n", "template": "{response}"},
    ),
    ({"text": "t", "url": "u"}, {"template": "{text}"}),
    ({"what?": "t"}, {"template": '{"what?"}'}),
    ({"messages": CHAT}, {"messages": "messages"}),
    ({"id": 1, "conversations": SHARE_GPT, "text": "t"}, {"messages": "conversations"}),
]


@pytest.mark.parametrize(("record", "settings"), FORMATS)
def test_formats_are_recognized(record: dict[str, Any], settings: dict[str, str]) -> None:
    found = recognize([record] * 3)
    assert found is not None
    assert found.settings == settings
    assert found.gaps == 0
    assert set(found.columns) <= set(record)


@pytest.mark.parametrize("record", [{"a": "x", "b": "y"}, {"question": "q", "id": 1}, {"answer": "a", "text": "t"}, {}])
def test_what_columns_do_not_tell_is_not_guessed(record: dict[str, Any]) -> None:
    assert recognize([record] * 3) is None


def test_columns_that_records_lack_are_optional_and_counted() -> None:
    records = [{"instruction": "i", "input": "n", "output": "o"}, {"instruction": "i", "input": None, "output": "o"}]
    found = recognize([*records, {"instruction": "i", "output": "o"}])
    assert found is not None
    assert found.settings["prompt"] == "{instruction}\n{input?}\n"
    assert found.gaps == 2
    documents = Templates(found.settings["template"], found.settings["prompt"]).documents(
        [("here", records[1])], "here"
    )
    assert [d.prompt for d in documents] == ["i\n\n"]


def test_final_answers_are_found() -> None:
    found = recognize([{"question": f"{n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(3)])
    assert found is not None
    assert found.answer == "{answer}"
    found = recognize([{"problem": "p", "solution": "s", "answer": "4"}])
    assert found is not None
    assert found.answer == "{answer}"
    assert found.unused == ["answer"]


@pytest.mark.parametrize("name", ["a", "a b", "a[0]", "a}b", "{a", 'a"b', "a\\b", "sure?", "é", "a.b"])
@pytest.mark.parametrize("optional", [False, True])
def test_any_column_is_written_so_that_it_is_read_again(name: str, optional: bool) -> None:
    (part,) = (part for part in parse(format_column(name, optional)) if part)
    assert isinstance(part, Field)
    assert part.optional == optional
    assert part.value({name: "here"}) == "here"


def test_chats_are_told_by_their_messages() -> None:
    found = recognize([{"messages": "[]", "text": "t"}])
    assert found is not None, "what is wrong with it is told by what reads it"
    assert found.settings == {"messages": "messages"}
    assert recognize([{"turns": [1], "other": 1}, {"turns": []}]) is None
    assert chat_text(CHAT) == "<|user|>\nHi\n<|assistant|>\nHello\n"
    # A prompt of messages without an answer is none; messages as JSON text are some.
    assert recognize([{"prompt": CHAT[:1], "completion": CHAT[1:]}]) is None
    found = recognize([{"dialog": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'}])
    assert found is not None
    assert found.settings == {"messages": "dialog"}


@pytest.mark.parametrize("record", [{"data": {"question": "q"}}, {"question": "q", "answer": ["a", "b"]}])
def test_objects_and_lists_are_no_text(record: dict[str, Any]) -> None:
    assert recognize([record] * 3) is None
