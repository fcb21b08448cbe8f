"""A space from a file: what is written loads, and says what it guesses."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from search.hardware import ClusterResources
from search.init import main
from search.space import Space, load
from tests import tiny
from trainables.config.data import FilesData, FilesSplit, HubData
from trainables.config.to_settings import splits_of
from trainables.config.yaml_values import read
from trainables.data.documents import SplitSizes
from trainables.data.files import Files
from trainables.data.templates import Templates
from trainables.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


def write_lines(name: str, records: list[dict[str, Any]]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


def questions(numbers: range) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}."} for n in numbers]


def made(*arguments: str) -> Space:
    """The space that the command writes for builtin/nano into space.yaml, without a dry run."""
    assert main([*arguments, "--model=builtin/nano", "--output=space.yaml", "--no-dry-run"]) == 0
    return load("space.yaml").config


ALPACA = [{"instruction": f"Add {n}.", "output": f"{n}", **({"input": "to 1"} if n % 2 else {})} for n in range(60)]
PAIRS = [{"prompt": f"Say {n} ->", "completion": f" {n}"} for n in range(60)]
TEXTS = [{"text": f"This is story {n}, with {'a long ' * (n % 7)}end."} for n in range(60)]
FORMATS = [
    (questions(range(60)), "{question}\n", "{answer}"),
    (PAIRS, "{prompt}", "{completion}"),
    (ALPACA, "{instruction}\n{input?}\n", "{output}"),
    (TEXTS, None, "{text}"),
]


@pytest.mark.parametrize(("records", "prompt", "template"), FORMATS)
def test_what_is_written_loads_and_reads_the_documents(
    records: list[dict[str, Any]], prompt: str | None, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines("mine.jsonl", records)
    space = made("mine.jsonl")
    data = space.data
    assert isinstance(data, FilesData)
    assert (data.prompt, data.template) == (prompt, template)
    assert data.train_on_prompt == (prompt is None)
    splits = splits_of(space)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 12, 12)
    assert space.budget.epochs == 12
    assert space.objective == "best"
    printed = capsys.readouterr().out
    assert "written: space.yaml" in printed
    written = Path("space.yaml").read_text()
    assert "# guess: " in written
    for guess in ("data.test: 0.2", "budget.epochs: 12", "training.sequence_length: ", "objective: best"):
        assert f"  guessed  {guess}" in printed


@pytest.mark.parametrize("messages", ["messages", "conversations"])
def test_chats_are_written_by_their_column(messages: str) -> None:
    chats = [
        {messages: [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]} for n in range(60)
    ]
    write_lines("mine.jsonl", chats)
    assert main(["mine.jsonl", "--model=builtin/nano", "--no-dry-run"]) == 0
    data = read(Path("mine.yaml").read_text())[0]["data"]
    assert (data["source"], data["path"], data["messages"]) == ("files", "mine.jsonl", messages)
    assert "template" not in data
    # A built-in model has no chat template: it is asked for.
    line = Path("mine.yaml").read_text().splitlines().index('  chat_template: ""') + 1
    with pytest.raises(ConfigError, match=f"mine.yaml:{line}: data.chat_template: given ''; allowed: a template in Ji"):
        load("mine.yaml")
    assert load("mine.yaml", ["data.chat_template='{{ messages }}'"]).config.data.source == "files"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("write", [lambda messages: messages, json.dumps])
def test_the_tokens_of_chats_are_counted_by_the_template(write: Callable[[Any], Any]) -> None:
    answer = {"role": "assistant", "content": "word " * 30}
    texts = [[{"type": "text", "text": f"{n} {'word ' * 30}"}] for n in range(60)]
    records = [{"messages": write([{"role": "user", "content": text}, answer])} for text in texts]
    write_lines("mine.jsonl", records)
    tiny.save("tiny", Path("model"))
    (Path("model") / "chat_template.jinja").write_text("{{ 'word ' * 500 }}" + CHATML)
    assert main(["mine.jsonl", "--model=./model", "--output=space.yaml", "--no-dry-run"]) == 0
    written = Path("space.yaml").read_text()
    assert "chat_template" not in written
    found = re.search(r"at most (\d+) tokens", written)
    assert found is not None
    assert int(found[1]) > 500, "the template's own words count"


def write_csv(name: str) -> None:
    with Path(name).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(questions(range(40)))


WRITERS: dict[str, Callable[[str], None]] = {
    "data.json": lambda name: Path(name).write_text(json.dumps(questions(range(40)))) and None,
    "data.csv": write_csv,
    "lines.txt": lambda name: Path(name).write_text("".join(f"Line {n} of it.\n" for n in range(40))) and None,
    "paragraphs.txt": lambda name: Path(name).write_text("\n\n".join(f"Some\nlines {n}" for n in range(40))) and None,
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_each_kind_are_read(name: str) -> None:
    WRITERS[name](name)
    space = made(name)
    splits = splits_of(space)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 40
    assert isinstance(space.data, FilesData)
    assert space.data.sample_by == ("paragraph" if name == "paragraphs.txt" else "line")


def test_splits_beside_the_file_are_used() -> None:
    write_lines("data/train.jsonl", questions(range(40)))
    write_lines("data/valid.jsonl", questions(range(40, 50)))
    write_lines("data/test.jsonl", questions(range(50, 1100)))
    for data in ("data/train.jsonl", "data"):
        splits = splits_of(made(data, "--overwrite"))
        assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 10, 1000)


def test_the_texts_of_a_folder_are_documents() -> None:
    Path("texts").mkdir()
    for n in range(30):
        Path(f"texts/{n}.txt").write_text(f"Story {n}.\n\nIt ends.\n")
    Path("texts/README.jsonl").write_text("{}")
    for data in ("texts", "texts/*.txt"):
        splits = splits_of(made(data, "--overwrite"))
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 30


def test_what_lies_beside_the_data_is_left_out() -> None:
    write_lines("mine/data.jsonl", questions(range(80)))
    write_lines("mine/a_preds.jsonl", [{"id": n, "guess": 1} for n in range(3)])
    for name in ("LICENSE.txt", "README.txt", "README.md", "notes.txt"):
        Path("mine", name).write_text("Some words.\n\nMore of them.\n" * 90)
    Path("mine/dataset_infos.json").write_text("{}")
    data = made("mine").data
    assert isinstance(data, FilesData)
    assert (data.path, data.template) == (str(Path("mine/data.jsonl").absolute()), "{answer}")
    assert "path: mine/data.jsonl   # guess: left out: a_preds.jsonl, notes.txt\n" in Path("space.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "others", "train"),
    [
        ("data/train.jsonl", ["data/test.csv"], 32),
        ("data/data.jsonl", ["data/test.jsonl"], 32),
        ("data/v1.0-train.jsonl", ["data/v1.0-test.jsonl"], 32),
        ("data/train-00000-of-00002.jsonl", ["data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl"], 64),
    ],
)
def test_splits_are_found_beside_a_file(given: str, others: list[str], train: int) -> None:
    for number, name in enumerate([given, *others]):
        rows = questions(range(100 * number, 100 * number + 40))
        write_lines(name, rows)
        if name.endswith(".csv"):
            lines = [f'"{row["question"]}","{row["answer"]}"' for row in rows]
            Path(name).write_text("\n".join(["question,answer", *lines]))
    space = made(given)
    assert space.data.test == FilesSplit(path=str(Path(others[-1]).absolute()))
    splits = splits_of(space)
    assert (len(splits.train), len(splits.test)) == (train, 40)


def test_a_split_that_cannot_be_used_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("data/train.jsonl", questions(range(60)))
    write_lines("data/valid.jsonl", questions(range(60, 63)))
    write_lines("data/test.jsonl", [{"question": f"{n}?"} for n in range(60)])
    space = made("data/train.jsonl")
    assert (space.data.validation, space.data.test) == (0.2, 0.2)
    printed = capsys.readouterr().out
    assert "data.validation: 0.2 (valid.jsonl has 3 documents, fewer than 6" in printed
    assert "data.test: 0.2 (test.jsonl has no column answer" in printed


def test_texts_in_folders_are_documents() -> None:
    for n in range(30):
        path = Path(f"texts/{n % 3}/{n}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Story {n}.\n\nIt ends.\n")
    space = made("texts")
    assert isinstance(space.data, FilesData)
    assert space.data.path == str(Path("texts/**/*.txt").absolute())
    splits = splits_of(space)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 30


def test_different_documents_are_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("mine.jsonl", questions(range(50)) * 3)
    made("mine.jsonl")
    assert "about 30 documents to train on" in capsys.readouterr().out
    write_lines("few.jsonl", questions(range(5)) * 10)
    assert refused(capsys, "few.jsonl").startswith("few.jsonl: given 50 records with 5 different documents; allowed")


ANSWERS = [
    ("So it is\n#### {n}", "#### (.*)"),
    ("So \\boxed{{{n}}}.", "boxed"),
    ("The answer is {n}.", "answer is"),
    ("{n}!", None),
]


@pytest.mark.parametrize(("solution", "pattern"), ANSWERS)
def test_right_answers_are_advised_where_they_can_be_found(solution: str, pattern: str | None) -> None:
    rows = [{"problem": f"{n}?", "solution": solution.format(n=n), "answer": n} for n in range(60)]
    write_lines("mine.jsonl", rows)
    made("mine.jsonl")
    written = Path("space.yaml").read_text()
    assert ("# To count right answers" in written) == (pattern is not None)
    assert pattern is None or pattern in written


def test_a_data_set_and_its_splits_are_used() -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": questions(range(40)), "dev": questions(range(40, 60)), "test": questions(range(60, 90))}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    saved.save_to_disk("saved")
    space = made("saved")
    assert isinstance(space.data, HubData)
    splits = splits_of(space)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 20, 30)
    for name, part in parts.items():
        write_lines(f"copied/data/{'validation' if name == 'dev' else name}.jsonl", part)
    assert splits_of(made("copied", "--overwrite")) == splits


def test_rows_are_as_long_as_nearly_all_documents() -> None:
    texts = [{"text": " ".join(["word"] * (20 if n < 96 else 600)) + f" {n}"} for n in range(100)]
    write_lines("mine.jsonl", texts)
    tiny.save("tiny", Path("model"))
    # The tokenizer of the model has a token for each word, and the document's end.
    assert main(["mine.jsonl", "--model=./model", "--output=space.yaml", "--no-dry-run"]) == 0
    space = load("space.yaml").config
    assert space.training.sequence_length == 64
    assert "at most 22 tokens, the longest 602, by the tokenizer of ./model" in Path("space.yaml").read_text()
    assert space.models == [str(Path("model").absolute())]
    assert space.training.precision == "fp32", "bf16 is slow on a CPU"


def test_little_data_gets_more_epochs_than_much() -> None:
    write_lines("mine.jsonl", questions(range(30)))
    assert made("mine.jsonl").budget.epochs == 12
    write_lines("mine.jsonl", questions(range(15_000)))
    much = made("mine.jsonl", "--overwrite")
    assert much.budget.epochs == 2
    assert much.objective == "final"
    assert (much.data.validation, much.data.test) == (300, 1000)


@pytest.mark.parametrize(("gpus", "slots", "each"), [(0, 2, 0.0), (4, "auto", 1.0)])
def test_the_resources_are_those_of_this_machine(gpus: int, slots: int | str, each: float) -> None:
    write_lines("mine.jsonl", questions(range(30)))
    there = ClusterResources({"CPU": 2.0, "GPU": float(gpus)})
    with mock.patch.object(ClusterResources, "here", return_value=there):
        resources = made("mine.jsonl").resources
    assert (resources.slots, resources.gpus_per_worker) == (slots, each)
    tiny.save("tiny", Path("model"))
    with mock.patch.object(ClusterResources, "here", return_value=there):
        assert main(["mine.jsonl", "--model=./model", "--output=other.yaml", "--no-dry-run"]) == 0
    assert load("other.yaml").config.training.precision == ("bf16" if gpus else "fp32")


def test_what_cannot_be_told_is_asked_for_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("mine.jsonl", [{"left": f"{n}", "right": f"{n}"} for n in range(30)])
    assert main(["mine.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert "  asked    models: which model" in printed
    assert '  asked    template: which columns are the text, as in "{right}"? There are: left, right' in printed
    assert '  # prompt: "{left}\\n"    what stands before it, if' in Path("mine.yaml").read_text()
    line = Path("mine.yaml").read_text().splitlines().index('models: ""') + 1
    with pytest.raises(ConfigError, match=f"mine.yaml:{line}: models: given ''; allowed: a list of builtin/nano"):
        load("mine.yaml")
    line = Path("mine.yaml").read_text().splitlines().index('  template: ""') + 1
    with pytest.raises(ConfigError, match=f"mine.yaml:{line}: data.template: given ''; allowed: text with"):
        load("mine.yaml", ["models=[builtin/nano]"])


EXAMPLES: list[tuple[dict[str, Any], str, str]] = [
    ({"question": "1?", "answers": ["1"]}, '"{answers[0]}"', "1"),
    ({"question": "1?", "answers": {"text": ["1"], "start": [0]}}, '"{answers[text][0]}"', "1"),
    ({"Question{1}": "1?", "sure?": "1"}, r'"{\"sure?\"}"', "1"),
    ({"a": [], "b": [[{"c": "1"}]]}, '"{b[0][0][c]}"', "1"),
]


@pytest.mark.parametrize(("record", "example", "value"), EXAMPLES)
def test_the_example_names_what_is_there(
    record: dict[str, Any], example: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines("mine.jsonl", [{**record, "id": n} for n in range(30)])
    assert main(["mine.jsonl"]) == 0
    assert f"which columns are the text, as in {example}? There are: " in capsys.readouterr().out
    source = Files(("mine.jsonl",), Templates(json.loads(example)), SplitSizes(1, 0, 0))
    assert source.splits(seed=0).train[0].text == value


def test_the_home_folder_has_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    Path("home").mkdir()
    write_lines("home/mine.jsonl", questions(range(30)))
    assert main(["~/mine.jsonl", "--model=builtin/nano", "--no-dry-run"]) == 0
    assert load("mine.yaml").config.data.path == str(Path.cwd() / "home" / "mine.jsonl")  # type: ignore[union-attr]


@pytest.mark.faults
def test_the_dry_run_follows(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("mine.jsonl", [*questions(range(60)), *questions(range(3))])
    assert main(["mine.jsonl", "--model=builtin/nano"]) == 0
    printed = capsys.readouterr().out
    assert "documents 36 train, 12 validation, 12 test" in printed
    assert "8 trials of 12 epochs" in printed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that is said about arguments; nothing is written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main([*arguments, "--no-dry-run"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert sorted(Path.cwd().rglob("*")) == before
    return printed.err.strip()


def test_a_file_is_not_overwritten_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("mine.jsonl", questions(range(30)))
    Path("mine.yaml").write_text("mine")
    told = "--output: mine.yaml exists already; name another file, or add --overwrite"
    assert refused(capsys, "mine.jsonl", "--model=builtin/nano") == told
    assert Path("mine.yaml").read_text() == "mine"
    assert main(["mine.jsonl", "--model=builtin/nano", "--no-dry-run", "--overwrite"]) == 0
    assert load("mine.yaml").config.name == "mine"


WRONG = [
    (
        ["nothing.jsonl"],
        "nothing.jsonl: given nothing.jsonl; allowed: a readable UTF-8 file (No such file or directory",
    ),
    (["nothing.txt"], "nothing.txt: given nothing.txt; allowed: a readable UTF-8 file (No such file "),
    (["no*.txt"], "no*.txt: no file fits no*.txt; name files that exist"),
    (["nothing"], "DATA: given nothing; allowed: a file or a folder that exists, or a data set of the hub: owner/name"),
    (
        ["empty"],
        "empty: no file in this folder ends in .jsonl, .ndjson, .json, .csv, .parquet, .txt, .tsv; name one with data",
    ),
    (["few.jsonl"], "few.jsonl: given 5 documents; allowed: at least 20"),
    (["alike.jsonl"], "alike.jsonl: given 50 records with 1 different document; allowed: at least 20"),
    (
        ["semi.csv"],
        "semi.csv: it has one column (they are parted by ';': save the table with commas, or as .tsv",
    ),
    (["broken.jsonl"], "broken.jsonl: given line 1 of broken.jsonl; allowed: a JSON object with columns ("),
    (["few.jsonl", "--model=builtin/nan"], "--model: given 'builtin/nan'; allowed: builtin/nano, builtin/micro, hub:"),
    (["few.jsonl", "--model=./no"], "--model: given './no', which does not exist; allowed: builtin/nano, builtin/"),
    (["few.jsonl", "--output=no/a.yaml"], "--output: the folder no does not exist; name another"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_wrong_arguments_and_data_are_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    write_lines("few.jsonl", questions(range(5)))
    write_lines("alike.jsonl", [*questions(range(1))] * 50)
    Path("broken.jsonl").write_text("{]\n")
    Path("semi.csv").write_text("question;answer\n" + "a;b\n" * 30)
    assert refused(capsys, *arguments).startswith(told)
