import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.configs import FILES, MINIMAL, failure
from trainables.config.data import FilesData, FilesGeneral, own_sources, source_of
from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.config.to_settings import chat_template_of
from trainables.config.yaml_values import to_yaml
from trainables.data.builtin import Builtin
from trainables.data.chats import Chats
from trainables.data.documents import Source, SplitSizes
from trainables.data.files import Files, matching_files
from trainables.data.hub import Hub
from trainables.data.reasoning_gym import ReasoningGym
from trainables.data.templates import Templates


def test_a_files_path_is_relative_to_the_space(write: Any, tmp_path: Path) -> None:
    data = load(write(FILES), (), RunConfig).config.data
    assert data.source == "files"
    assert data.path == str(tmp_path / "my.jsonl")
    assert data.template == "{question}\n{answer}"


def test_a_pattern_in_a_folder_with_brackets_is_one_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] é"
    folder.mkdir()
    (folder / "one.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (folder / "space.yaml").write_text(FILES.replace("path: my.jsonl", "path: '*.jsonl'"))
    data = load(folder / "space.yaml", (), RunConfig).config.data
    assert isinstance(data, FilesData)
    assert [file.name for path in data.paths() for file in matching_files(path)] == ["one.jsonl"]


def test_a_tilde_is_the_home_folder(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    text = FILES.replace("my.jsonl", "[~/my.jsonl, a/~.jsonl]").replace("builtin/nano", "~/model")
    config = load(write(text), (), RunConfig).config
    assert config.data.source == "files"
    assert config.data.path == [str(tmp_path / "home" / "my.jsonl"), str(tmp_path / "a" / "~.jsonl")]
    assert config.models == [str(tmp_path / "home" / "model")]


GYM = MINIMAL.replace("builtin\n", "reasoning_gym\n").replace("word_problems", "gsm_symbolic")
WRONG_DATA = [
    (
        MINIMAL,
        "[builtin/nano]",
        "builtin/nano",
        1,
        "models: given 'builtin/nano'; allowed: a list of builtin/nano",
    ),
    (
        MINIMAL,
        "[builtin/nano]",
        "[]",
        1,
        "models: given []; allowed: a list of builtin/nano, builtin/micro, h",
    ),
    (
        MINIMAL,
        "nano]",
        "nanoo]",
        1,
        "models.0: given 'builtin/nanoo'; allowed: builtin/nano, builtin/micro, hub:",
    ),
    (
        MINIMAL,
        "nano]",
        "nano, builtin/nano]",
        1,
        "models.1: 'builtin/nano' is given a second time; leave it ou",
    ),
    (MINIMAL, "models: [builtin/nano]", "", 2, "models: given nothing; allowed: a list of builtin/nano, buil"),
    (
        MINIMAL,
        "builtin\n  task",
        "bultin\n  task",
        3,
        "allowed: builtin, files, hub, reasoning_gym; did you mean 'builtin'?",
    ),
    (
        MINIMAL,
        "  source: builtin\n",
        "",
        2,
        "data.source: given nothing; allowed: builtin, files, hub, reasoning_gym",
    ),
    (
        MINIMAL,
        "  task: word_problems",
        "  path: a",
        4,
        "data.path: given an unknown key; allowed: ",
    ),
    (MINIMAL, "  task: word_problems", "  path: a", 4, "'path' belongs to source files or hub"),
    (MINIMAL, "word_problems", "word_problem", 4, "data.task: given 'word_problem'; allowed: wor"),
    (GYM, "gsm_symbolic", "''", 4, "data.task: given ''; allowed: a name of reasoning-gym (the g"),
    (MINIMAL, "test: 20", "test: 0", 7, "data.test: given 0; allowed: an integer of at least 1"),
    (MINIMAL, "  test: 20\n", "", 2, "data.test: given nothing; allowed: an integer of at least 1"),
    (FILES, "path: my.jsonl", "path: ''", 4, "data.path: given ''; allowed: a file, or a pattern such as \""),
    (FILES, "path: my.jsonl", 'path: "a\\0"', 4, "data.path: given 'a\\x00'; allowed: a file, or a pattern such "),
    (FILES, "path: my.jsonl", 'path: "\\uD800"', 4, "data.path: half of a character (U+D800); write the whole "),
    (FILES, "path: my.jsonl", "task: gsm_symbolic", 4, "'task' belongs to source builtin or reasoning_gym"),
    (
        FILES,
        "{question}\\n{answer}",
        "text",
        5,
        "data.template: given 'text'; allowed: text with at least one {column}",
    ),
    (
        FILES,
        "{question}\\n{answer}",
        "{question",
        5,
        "data.template: given '{question'; allowed: text with {columns}",
    ),
]


@pytest.mark.parametrize(("text", "old", "new", "line", "message"), WRONG_DATA)
def test_wrong_models_and_data_are_told(write: Any, text: str, old: str, new: str, line: int, message: str) -> None:
    assert old in text
    path = write(text.replace(old, new, 1))
    told = failure(path)
    assert told.startswith(f"{path}:{line}: ")
    assert message in told


@pytest.mark.parametrize("field", ["{a:{b}}", "{a:{b.__class__}}", "{a{b}", "{a}b}", '{\\"a'])
def test_braces_within_braces_are_told(write: Any, field: str) -> None:
    assert "data.template: given " in failure(write(FILES.replace("{question}", field)))


NAMES = [
    "{a[b]}",
    "{a[0][content]}",
    "{a b}",
    "{{{a}}}",
    "{a:}",
    "{a.b}",
    "{2}",
    "{}",
    "{a!r}",
    "{x[y}",
    '{\\"a}b\\"?}',
]


@pytest.mark.parametrize("field", NAMES)
def test_any_column_and_what_lies_within_it_may_be_named(write: Any, field: str) -> None:
    assert load(write(FILES.replace("{question}", field)), (), RunConfig).config.data.source == "files"


ANSWERED = FILES.replace('template: "{question}\\n{answer}"', 'template: "{answer}"\n  prompt: "{question}\\n"')


def test_the_other_keys_of_files(write: Any, tmp_path: Path) -> None:
    text = ANSWERED.replace("path: my.jsonl", "path: [a.csv, texts/*.txt]")
    overrides = ["data.answer='{answer}'", "data.train_on_prompt=false", "data.sample_by=document"]
    data = load(write(text), overrides, RunConfig).config.data
    assert isinstance(data, FilesData)
    assert data.paths() == (str(tmp_path / "a.csv"), str(tmp_path / "texts/*.txt"))
    assert (data.prompt, data.answer) == ("{question}\n", "{answer}")
    assert (data.train_on_prompt, data.sample_by) == (False, "document")


CHATS = """\
models: [builtin/nano]
data: {source: files, path: my.jsonl, train: 3, validation: 2, test: 6}
"""


def test_a_chat_template_is_text_or_a_file_that_is_read_at_once(write: Any, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (tmp_path / "own.jinja").write_text(template)
    config = load(write(CHATS), ["data.chat_template=own.jinja", "data.train_on_answers=last"], RunConfig).config
    assert chat_template_of(config) == template
    assert not config.data.learns_prompts
    # What a run writes down of itself is read again anywhere.
    again = write(to_yaml(config.model_dump(mode="json")), "again.yaml")
    assert load(again, (), RunConfig).config == config
    assert source_of(config.data) == Files(
        (str(tmp_path / "my.jsonl"),), Chats(None, "last"), SplitSizes(3, 2, 6), "line"
    )


HUB = """\
models: [builtin/nano]
data: {source: hub, path: openai/gsm8k, name: main, template: "{answer}", train: 3, validation: 2, test: 6}
"""


def test_sources_get_what_the_blocks_say(write: Any, tmp_path: Path) -> None:
    def source(text: str, *overrides: str) -> Source:
        return source_of(load(write(text), overrides, RunConfig).config.data)

    sizes = SplitSizes(3, 2, 6)
    assert source(ANSWERED, "data.answer='{answer}'", "data.sample_by=paragraph") == Files(
        (str(tmp_path / "my.jsonl"),),
        Templates("{answer}", "{question}\n", "{answer}"),
        sizes,
        "paragraph",
    )
    assert source(HUB, "data.revision=v1", "data.files=python/*") == Hub(
        "openai/gsm8k", "main", "train", "v1", "python/*", Templates("{answer}"), sizes
    )
    assert source(HUB, "data.path=~/a/set", "data.name=null") == Hub(
        os.path.expanduser("~/a/set"), None, "train", None, None, Templates("{answer}"), sizes
    )
    assert source(MINIMAL) == Builtin("word_problems", SplitSizes(24, 20, 20))
    assert source(GYM, "data.task=chain_sum") == ReasoningGym("chain_sum", SplitSizes(24, 20, 20))


@pytest.mark.parametrize("size", ["0.8", "all", "5"])
def test_the_training_split_may_be_a_share_or_all_that_is_left(write: Any, size: str) -> None:
    config = load(write(FILES), [f"data.train={size}", "data.test=0.1", "data.validation=0.1"], RunConfig).config
    expected = {"0.8": 0.8, "all": "all", "5": 5}[size]
    assert source_of(config.data).sizes == SplitSizes(expected, 0.1, 0.1)
    assert own_sources(config.data) == {}


def test_splits_may_have_a_source_of_their_own(write: Any, tmp_path: Path) -> None:
    overrides = ["data.validation={path: [a.jsonl, b/*.csv]}", "data.test={path: ~/test.txt, documents: 40}"]
    data = load(write(FILES), overrides, RunConfig).config.data
    assert source_of(data).sizes == SplitSizes(3, 0, 0)
    validation, test = (own_sources(data)[name] for name in ("validation", "test"))
    main = source_of(data)
    assert isinstance(main, Files)
    paths = (str(tmp_path / "a.jsonl"), str(tmp_path / "b/*.csv"))
    assert validation == (replace(main, paths=paths, sizes=SplitSizes("all", 0, 0)), "path")
    assert test == (replace(main, paths=(os.path.expanduser("~/test.txt"),), sizes=SplitSizes(40, 0, 0)), "path")
    data = load(write(HUB), ["data.train=all", "data.test={split: test}"], RunConfig).config.data
    main = source_of(data)
    assert isinstance(main, Hub)
    assert own_sources(data) == {"test": (replace(main, split="test", sizes=SplitSizes("all", 0, 0)), "split")}
    assert main.sizes == SplitSizes("all", 2, 0)


def test_a_space_with_such_splits_reads_what_it_has_written(write: Any, tmp_path: Path) -> None:
    overrides = ["data.train=all", "data.validation=0.1", "data.test={path: test.jsonl, documents: 40}"]
    config = load(write(FILES), overrides, RunConfig).config
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "resolved.yaml").write_text(to_yaml(config.model_dump(mode="json")))
    assert load(elsewhere / "resolved.yaml", (), RunConfig).config == config


GENERAL = "general: {source: files, path: [general.txt], template: '{text}', documents: 9}\n"


def test_the_general_data_has_a_number_of_documents(write: Any, tmp_path: Path) -> None:
    general = load(write(MINIMAL + GENERAL), (), RunConfig).config.general
    assert isinstance(general, FilesGeneral)
    assert (general.documents, general.paths()) == (9, (str(tmp_path / "general.txt"),))
    assert source_of(general).sizes == SplitSizes(9, 0, 0)
    assert load(write(MINIMAL + "general: null\n"), (), RunConfig).config.general is None


@pytest.mark.parametrize(
    ("text", "override", "told"),
    [
        (FILES, "data.answer='{answer}'", "data.answer: there is no data.prompt to answer; add one, or write null h"),
        (FILES, "data.train_on_prompt=false", "data.train_on_prompt: there is no data.prompt to leave out; add one, o"),
        (FILES, "data.train_on_prompt=1", "data.train_on_prompt: given 1; allowed: true or false (wheth"),
        (FILES, "data.prompt=question", "data.prompt: given 'question'; allowed: text with at least one {column}"),
        (FILES, "data.prompt=3", "data.prompt: given 3; allowed: text with at least one {column}; null for nothing ("),
        (FILES, "data.path=[]", 'data.path: given []; allowed: a file, or a pattern such as "'),
        (FILES, "data.path=[a, '']", "data.path.1: given ''; allowed: a file, or a pattern such as"),
        (FILES, "data.path=[a, a]", "data.path.1: 'a' is given a second time; leave it out"),
        (FILES, "data.sample_by=lines", "data.sample_by: given 'lines'; allowed: line, paragraph, or document (th"),
        (HUB, "data.sample_by=line", "data.sample_by: given an unknown key; allowed: train, valida"),
        (HUB, "data.path=[a/b]", 'data.path: given ["a/b"]; allowed: owner/name, or the path o'),
        # datasets has loaders by such names, which read what lies in the current folder.
        (HUB, "data.path=json", "data.path: given 'json'; allowed: owner/name, or the path of"),
        (HUB, "data.splits=train", "data.splits: given an unknown key; allowed: "),
        (HUB, "data.template=a", "data.template: given 'a'; allowed: text with at least one {column}"),
        (FILES, "data.messages=m", "data.messages: there is a template as well; leave out one of them"),
        (CHATS, "data.prompt='{a}'", "data.prompt: there is no template that follows it; add one, or leave it out"),
        (FILES, "data.train_on_answers=last", "data.train_on_answers: there is data.template, and so no chat; leave i"),
        (FILES, "data.chat_template='{{x}}'", "data.chat_template: no documents are chats; leave it out, or leave ou"),
        (CHATS, "data.chat_template=x.jinja", "data.chat_template: given 'x.jinja'; allowed: text with {{ or {%, or a"),
        (CHATS, "data.train_on_answers=first", "data.train_on_answers: given 'first'; allowed: all, or last (which me"),
        (CHATS, "data.messages=3", "data.messages: given 3; allowed: a name; null without a template for messages or"),
        (GENERAL + MINIMAL, "general.documents=0", "general.documents: given 0; allowed: an integer of at least 1"),
        (GENERAL + MINIMAL, "general.train=3", "general.train: given an unknown key; allowed: "),
        (GENERAL + MINIMAL, "general.answer='{a}'", "general.answer: given an unknown key; allowed: "),
        (GENERAL + MINIMAL, "general.task=x", "general.task: given an unknown key; allowed: documents, temp"),
        (GENERAL + MINIMAL, "general.source=file", "general.source: given 'file'; allowed: builtin, files, hub, r"),
        (GENERAL + MINIMAL, "general=3", "general: given 3; allowed: a mapping with source builtin, files, hub, or"),
        (MINIMAL, "data.documents=3", "data.documents: given an unknown key; allowed: "),
        (MINIMAL, "data.test=0.1", "data.test: given 0.1; allowed: an integer of at least 1 (documents that the w"),
        (MINIMAL, "data.train=all", "data.train: given 'all'; allowed: an integer of at least 1 (documents to tr"),
        (FILES, "data.train=al", "data.train: given 'al'; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.train=1.0", "data.train: given 1.0; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.train={path: a}", 'data.train: given {"path": "a"}; allowed: an integer of at least 1, a share'),
        (FILES, "data.test=0", "data.test: given 0; allowed: an integer of at least 1, a share of the documents below"),
        (FILES, "data.test=0.0", "data.test: given 0.0; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.test=-0.1", "data.test: given -0.1; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.test=10%", "data.test: given '10%'; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.test=true", "data.test: given true; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.test=all", "data.test: given 'all'; allowed: an integer of at least 1, a share of the documents"),
        (FILES, "data.test=a.jsonl", "data.test: given 'a.jsonl'; allowed: an integer of at least 1, a share of the d"),
        (FILES, "data.test=[a.jsonl]", 'data.test: given ["a.jsonl"]; allowed: an integer of at least 1, a share of t'),
        (FILES, "data.test={}", 'data.test.path: given nothing; allowed: a file, or a pattern such as "texts/*.jsonl"'),
        (FILES, "data.test={path: ''}", "data.test.path: given ''; allowed: a file, or a pattern such as "),
        (FILES, "data.test={pth: a}", "data.test.pth: given an unknown key; allowed: path, documents; did you mean 'p"),
        (FILES, "data.test={split: a}", "data.test.split: given an unknown key; allowed: path, documents"),
        (FILES, "data.test={path: a, documents: 0}", "data.test.documents: given 0; allowed: an integer of at least 1"),
        (HUB, "data.test={path: a}", "data.test.path: given an unknown key; allowed: documents, split"),
        (HUB, "data.test={split: ''}", "data.test.split: given ''; allowed: a name (the split of the data set that"),
    ],
)  # fmt: skip
def test_wrong_new_keys_are_told(write: Any, text: str, override: str, told: str) -> None:
    assert failure(write(text), override).startswith(f"--set {override}: {told}")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (
            ("3", "0.5", "0.5"),
            "data.train: data.validation and data.test leave no documents; lower one of these shares",
        ),
        (("all", "0.6", "0.4"), "data.train: data.validation and data.test leave no documents; lower one of these sha"),
        (("0.8", "0.2", "0.1"), "data.train: given 0.8; allowed: at most 0.7, the share that data.validation and data"),
        (("0.8", "0.1", "0.1"), None),
        (("0.9", "0.1", "20"), None),
        (("0.9", "{path: a}", "{path: b}"), None),
    ],
)
def test_shares_leave_documents_to_train_on(write: Any, sizes: tuple[str, str, str], told: str | None) -> None:
    overrides = [f"data.{name}={size}" for name, size in zip(("train", "validation", "test"), sizes, strict=True)]
    if told is None:
        assert load(write(FILES), overrides, RunConfig).config.data.source == "files"
    else:
        assert told in failure(write(FILES), *overrides)
