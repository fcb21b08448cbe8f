"""Records with conversations, as documents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.data.records import write_json, write_lines, write_parquet
from trainables.data.chats import Chats
from trainables.data.documents import Document, SplitSizes
from trainables.data.files import Files
from trainables.data.hub import Hub
from trainables.errors import DataError

ASKED, ANSWER = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}
HUMAN, GPT = {"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def called(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": arguments}}],
    }


def read(*records: dict[str, Any], **how: Any) -> list[Document]:
    placed = ((f"line {n} of a.jsonl", record) for n, record in enumerate(records, 1))
    return list(Chats(**how).documents(placed, "a.jsonl"))


def one(*messages: dict[str, Any], **columns: Any) -> Document:
    (document,) = read({"messages": list(messages), **columns})
    return document


def messages_of(document: Document) -> tuple[dict[str, Any], ...]:
    assert document.chat is not None
    return document.chat.messages


def learned_of(document: Document) -> tuple[bool, ...]:
    assert document.chat is not None
    return document.chat.learned


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, ANSWER]},
        {"conversations": [ASKED, ANSWER]},
        {"conversations": [HUMAN, GPT], "id": 3},
        {"messages": [HUMAN, GPT]},
        {"messages": json.dumps([ASKED, ANSWER])},
        {"conversations": json.dumps([HUMAN, GPT])},
        {"messages": [ASKED, {**ANSWER, "tool_calls": None, "weight": 1}]},
        {
            "messages": [
                {**ASKED, "content": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 3?"}]},
                ANSWER,
            ]
        },
        {"messages": [{**ASKED, "train": False}, {**ANSWER, "content": 5, "train": True}], "tools": []},
    ],
)
def test_openai_and_sharegpt_say_the_same(record: dict[str, Any]) -> None:
    (document,) = read(record)
    assert messages_of(document) == (ASKED, ANSWER)
    assert learned_of(document) == (False, True)
    (other,) = read({"messages": [ASKED, ANSWER]})
    assert (document.text, document.prompt, document.group) == (other.text, other.prompt, other.group)
    assert document.answer == "5"


def test_the_tool_calls_of_sharegpt_are_those_of_openai() -> None:
    call = {"name": "add", "arguments": {"a": 2, "b": 3}}
    result = {"from": "observation", "value": "5"}
    openai = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    answered = (ASKED, openai, {"role": "tool", "content": "5"}, ANSWER)
    for value in (json.dumps(call), json.dumps([call]), json.dumps({**call, "arguments": '{"a": 2, "b": 3}'})):
        (document,) = read({"conversations": [HUMAN, {"from": "function_call", "value": value}, result, GPT]})
        assert messages_of(document) == answered
        assert learned_of(document) == (False, True, False, True)


@pytest.mark.parametrize("write", [write_lines, write_json, write_parquet])
def test_chats_are_read_from_files_and_split_by_their_first_question(
    tmp_path: Path, write: Callable[[Path, list[Any]], Path]
) -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 0.5, "b": 2}}}]
    records: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"{n // 2} + 1?"}, {"role": "assistant", "content": f"{n}: {n}"}]}
        for n in range(40)
    ]
    # In a Parquet file all messages have all keys.
    records[0]["messages"][1] = {"role": "assistant", "content": "I add.", "tool_calls": calls}
    suffix = {write_lines: "jsonl", write_json: "json", write_parquet: "parquet"}[write]
    path = write(tmp_path / f"a.{suffix}", records)
    splits = Files((str(path),), Chats(), SplitSizes(20, 10, 10)).splits(seed=0)
    parts = [splits.train, splits.validation, splits.test]
    asked = [{messages_of(document)[0]["content"] for document in part} for part in parts]
    assert [len(part) for part in parts] == [20, 10, 10]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    assert sorted(json.dumps(messages_of(d)) for part in parts for d in part) == sorted(
        json.dumps(record["messages"]) for record in records
    )
    reverse = write(tmp_path / f"b.{suffix}", records[::-1])
    assert Files((str(reverse),), Chats(), SplitSizes(20, 10, 10)).splits(seed=0) == splits


@pytest.mark.parametrize("write", [write_lines, write_json, write_parquet])
def test_what_is_null_in_json_was_meant(tmp_path: Path, write: Callable[[Path, list[Any]], Path]) -> None:
    tool = {"name": "add", "parameters": {"unit": {"type": "string", "default": None}}}
    call = {"name": "add", "arguments": {"a": 2, "unit": None}}
    turns = [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}, {**ANSWER, "tool_calls": None}]
    record = {"messages": json.dumps(turns), "tools": json.dumps([tool])}
    if write is not write_parquet:
        # There nobody can tell it from what other records have.
        record = {"messages": turns, "tools": [tool]}
    path = write(tmp_path / {write_parquet: "a.parquet", write_json: "a.json", write_lines: "a.jsonl"}[write], [record])
    (document,) = Chats().documents(Files((str(path),), Chats(), SplitSizes(1, 0, 0)).records(), "a")
    assert document.chat is not None
    assert document.chat.tools == (tool,)
    assert messages_of(document) == (ASKED, {"role": "assistant", "tool_calls": [call]}, ANSWER)


def test_chats_are_read_from_a_data_set(tmp_path: Path) -> None:
    records = [
        {"id": n, "conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"{n}!"}]}
        for n in range(20)
    ]
    write_lines(tmp_path / "set" / "train.jsonl", records)
    source = Hub(str(tmp_path / "set"), None, "train", None, None, Chats("conversations", "last"), SplitSizes(8, 6, 6))
    splits = source.splits(seed=0)
    found = {messages_of(d)[1]["content"] for d in (*splits.train, *splits.validation, *splits.test)}
    assert found == {f"{n}!" for n in range(20)}


def test_a_greeting_is_no_question() -> None:
    hi, hello = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
    long = {"role": "user", "content": "And 3 + 2?"}
    assert one(hi, hello, long, ANSWER).group != one(hi, hello, {**long, "content": "Who are you?"}, ANSWER).group
    assert one(hi, hello, long, ANSWER).group == one(hi, hello, long, ANSWER, ASKED, ANSWER).group
    assert one(long, ANSWER, ASKED, ANSWER).group == one(long, ANSWER, hi, hello).group


@pytest.mark.parametrize(
    ("keys", "roles"),
    [
        (("from", "value"), ("Human", "GPT")),
        (("from", "value"), ("user", "chatgpt")),
        (("role", "content"), ("User", "Assistant")),
        (("role", "content"), ("user", "model")),
    ],
)
def test_roles_have_many_names(keys: tuple[str, str], roles: tuple[str, str]) -> None:
    given = [dict(zip(keys, pair, strict=True)) for pair in zip(roles, ("2 + 3?", "5"), strict=True)]
    (document,) = read({"messages": given})
    assert [message["role"] for message in messages_of(document)] == ["user", "assistant"]


def test_function_calls_and_refusals_of_openai_are_read() -> None:
    function = {"name": "add", "arguments": '{"a": 2}'}
    made = one(ASKED, {"role": "assistant", "content": None, "function_call": function}, ANSWER)
    called_with = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    assert messages_of(made)[1] == {"role": "assistant", "tool_calls": [called_with]}
    refused = one(ASKED, {"role": "assistant", "content": None, "refusal": "I cannot."})
    assert messages_of(refused)[1] == {"role": "assistant", "content": "I cannot."}


def test_the_group_is_the_first_message_of_the_user() -> None:
    system = {"role": "system", "content": "Be short."}
    spaced = {**ASKED, "content": "2  + 3? "}
    groups = {d.group for d in (one(ASKED, ANSWER), one(system, ASKED, ANSWER), one(spaced, ANSWER, ASKED, ANSWER))}
    assert len(groups) == 1
    assert one({**ASKED, "content": "2 + 4?"}, ANSWER).group not in groups
    # Without one, what stands before the answer.
    assert one(system, ANSWER).group != one({**system, "content": "Be long."}, ANSWER).group
    assert one(ANSWER, ASKED).group == one(ASKED, ANSWER).group


def test_which_answers_are_learned() -> None:
    turns = [ASKED, ANSWER, ASKED, ANSWER]
    assert learned_of(read({"messages": turns})[0]) == (False, True, False, True)
    assert learned_of(read({"messages": turns}, learned="last")[0]) == (False, False, False, True)
    for off in ({"weight": 0}, {"train": False}, {"training": False}, {"weight": 1, "train": False}):
        document = one(ASKED, {**ANSWER, **off}, ASKED, ANSWER)
        assert learned_of(document) == (False, False, False, True)
        assert messages_of(document)[1] == ANSWER
    (document,) = read({"messages": turns, "n": 7}, answer="{n}")
    assert document.answer == "7"


def test_system_prompts_tools_and_their_calls_are_kept() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    said = {"role": "tool", "content": "5", "tool_call_id": "1"}
    document = one(ASKED, called, said, ANSWER, tools=json.dumps([TOOL]), system="Use tools.")
    assert document.chat is not None
    assert document.chat.tools == (TOOL,)
    assert document.chat.learned == (False, False, True, False, True)
    system, _, call_made, result, _ = document.chat.messages
    assert system == {"role": "system", "content": "Use tools."}
    assert call_made["tool_calls"][0]["function"]["arguments"] == {"a": 2, "b": 3}
    assert result == said
    other = json.loads(json.dumps(call).replace("3", "4"))
    assert one(ASKED, {**called, "tool_calls": [other]}, said, ANSWER).text != one(ASKED, called, said, ANSWER).text


@pytest.mark.parametrize(
    ("records", "how", "told"),
    [
        ([{"messages": [ASKED]}], {}, "data.messages: line 1 of a.jsonl has no message of the assistant to learn; lea"),
        ([{"messages": []}], {}, "data.messages: line 1 of a.jsonl has no message of the assistant to learn; leave"),
        ([{"messages": [ASKED, {**ANSWER, "content": " "}]}], {}, "data.messages: message 2 of line 1 of a.jsonl is a"),
        ([{"messages": [ASKED, {**ANSWER, "content": None}]}], {}, "data.messages: message 2 of line 1 of a.jsonl is "),
        ([{"messages": [{"role": "user"}, ANSWER]}], {}, "data.messages: given message 1 of line 1 of a.jsonl, withou"),
        ([{"messages": [ASKED, {**ANSWER, "weight": 0}]}], {}, "data.messages: line 1 of a.jsonl switches off all tha"),
        ([{"messages": [ASKED, {**ANSWER, "weight": 0.5}]}], {}, "data.messages: given weight 0.5 in line 1 of a.json"),
        ([{"messages": "[{"}], {}, "data.messages: given line 1 of a.jsonl; allowed: a list of objects in the column"),
        ([{"messages": "hello"}], {}, "data.messages: given line 1 of a.jsonl; allowed: a list of objects in the colu"),
        ([{"messages": ["hello"]}], {}, "data.messages: given line 1 of a.jsonl; allowed: a list of objects in the co"),
        ([{"messages": None}], {}, "data.messages: given line 1 of a.jsonl; allowed: a list of objects in the column"),
        (
            [{"messages": [ASKED, ANSWER]}, {"messages": [HUMAN, GPT]}],
            {},
            "data.messages: given the keys from, value in message 1 of line 2 of a.jsonl; allowed: role and content, a",
        ),
        (
            [{"messages": [HUMAN, GPT]}, {"messages": [HUMAN, ANSWER]}],
            {},
            "data.messages: given the keys role, content in message 2 of line 2 of a.jsonl; allowed: from and value, a",
        ),
        ([{"messages": [{"text": "a"}]}], {}, "data.messages: given the keys text in message 1 of line 1 of a.jsonl; "),
        (
            [{"conversations": [{"from": "narrator", "value": "x"}, GPT]}],
            {},
            "data.messages: given the role 'narrator' in message 1 of line 1 of a.jsonl; allowed: system, user or h",
        ),
        (
            [{"conversations": [HUMAN, {"from": "function_call", "value": "add(2, 3)"}]}],
            {},
            "data.messages: given the function_call in message 2 of line 1 of a.jsonl; allowed: JSON of a call: an ob",
        ),
        (
            [{"messages": [{**ASKED, "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]}],
            {},
            "data.messages: given message 1 of line 1 of a.jsonl, which is not text alone; allowed: text, or a list",
        ),
        (
            [{"messages": [ASKED, ANSWER], "conversations": [HUMAN, GPT]}],
            {},
            "data.messages: a.jsonl has the columns messages and conversations; name one of them here",
        ),
        (
            [{"question": "a", "answer": "b"}],
            {},
            "data.template: there is none, and a.jsonl has no column messages or conversations but question, answer; w",
        ),
        (
            [{"chats": [ASKED, ANSWER]}],
            {"column": "chat"},
            "data.messages: given the column 'chat'; allowed: the columns of a.jsonl: chats; did you mean 'chats'?",
        ),
        ([{"messages": [{**ASKED, "content": []}, ANSWER]}], {}, "data.messages: given message 1 of line 1 of a.jsonl"),
        (
            [{"messages": [{**ASKED, "content": [{"type": "text", "text": None}]}, ANSWER]}],
            {},
            "data.messages: given message 1 of line 1 of a.jsonl, without a value of 'content'; allowed: messages with",
        ),
        (
            [{"messages": [ASKED, ANSWER], "system": 7}],
            {},
            "data.messages: given the column 'system' of line 1 of a.jsonl; allowed: text, or none",
        ),
        ([{"messages": [ASKED, {**ANSWER, "weight": "0"}]}], {}, 'data.messages: given weight "0" in line 1 of a'),
        ([{"messages": [ASKED, ANSWER], "tools": "add"}], {}, "data.messages: given line 1 of a.jsonl; allowed: a lis"),
        ([{"messages": [ASKED, {**ANSWER, "content": "\ud83d"}]}], {}, "data.messages: given line 1 of a.jsonl; allow"),
        ([{"messages": [ASKED, {**ANSWER, "content": b"\xff"}]}], {}, "data.messages: given line 1 of a.jsonl; allowe"),
        ([{"messages": [ASKED, {**ANSWER, "content": "a\0b"}]}], {}, "data.messages: given line 1 of a.jsonl; allowed"),
        *(
            ([{"messages": [{**ASKED, **odd}, ANSWER]}], {}, f"data.messages: given line 1 of a.jsonl; allowed: {told}")
            for character, told in (("\ud800", "text that is Unicode"), ("\0", "text without NUL characters; save"))
            for odd in (
                {"role": f"a{character}"},
                {"name": f"a{character}"},
                {f"a{character}": "x"},
                {"annotations": [{"of": ["x", f"a{character}"]}]},
            )
        ),
        (
            [{"messages": [ASKED, ANSWER], "tools": [{"name": "a\ud800"}]}],
            {},
            "data.messages: given line 1 of a.jsonl; allowed: text that is Unicode",
        ),
        (
            [{"messages": '[{"role": "user", "content": "a", "content": "b"}]'}],
            {},
            "data.messages: given line 1 of a.jsonl; allowed: a list of objects in the column 'messages', or JSON text "
            'of one (the key "content" stands twice in an object)',
        ),
        (
            [{"messages": [ASKED, called('{"a": 2, "a": 3}')]}],
            {},
            "data.messages: given the arguments of a call in message 2 of line 1 of a.jsonl; allowed: JSON of an object"
            ' (the key "a" stands twice in an object)',
        ),
        (
            [{"conversations": [HUMAN, {"from": "function_call", "value": '{"name": "a", "name": "b"}'}]}],
            {},
            "data.messages: given the function_call in message 2 of line 1 of a.jsonl; allowed: JSON of a call: an obje"
            'ct with name and arguments (the key "name" stands twice in an object)',
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_record(records: list[Any], how: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        read(*records, **how)
    assert str(caught.value).startswith(told)


def test_numbers_in_a_column_of_json_text_stay_as_they_stand() -> None:
    (document,) = read({"messages": '[{"role": "user", "content": 1.50}, {"role": "assistant", "content": 2.0}]'})
    assert document.chat is not None
    assert [message["content"] for message in document.chat.messages] == ["1.50", "2.0"]


def test_a_number_that_is_none_is_null() -> None:
    (document,) = read({"messages": [ASKED, called({"a": float("inf"), "b": float("nan")})]})
    assert messages_of(document)[1]["tool_calls"][0]["function"]["arguments"] == {"a": None, "b": None}


def test_numbers_that_are_written_in_two_ways_are_two() -> None:
    def text(number: str) -> str:
        turn = f'[{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b", "score": {number}}}]'
        return read({"messages": turn})[0].text

    assert text("1.50") != text("1.500")
    assert text("1.5") == one({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}).text
