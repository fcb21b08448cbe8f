"""The edge between a user's YAML and the program: what is read, and what is said about what cannot be."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.space import FloatRange, json_schema
from search.space_file import SpaceError, SpaceFile, load
from trainables.curriculum import SHAPES

MATH = Path(__file__).parents[2] / "spaces" / "math.yaml"
MINIMAL = """\
models: [builtin/nano]
data:
  source: reasoning_gym
  task: gsm_symbolic
  train: 24
  validation: 20
  test: 20
"""
FILES = """\
models: [builtin/nano]
data:
  source: files
  path: my.jsonl
  template: "{question}\\n{answer}"
  train: 3
  validation: 2
  test: 1
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def file(content: str | bytes, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


def failure(path: str | Path, *overrides: str) -> str:
    """The one line that is said about a space that cannot be loaded."""
    with pytest.raises(SpaceError) as caught:
        load(path, overrides)
    line = str(caught.value)
    assert line
    assert line.isprintable()
    return line


# What loads.


def test_the_space_of_the_repository_loads() -> None:
    space = load(MATH).space
    assert (space.name, space.models) == ("math", ["builtin/nano", "builtin/micro"])
    assert space.schedule.entropy_threshold.quantile == FloatRange(low=0.2, high=0.9)
    assert [shape.shape for shape in space.schedule.curriculum] == list(SHAPES)


def test_its_values_are_the_defaults(write: Any) -> None:
    given = load(MATH).space.model_dump()
    default = load(write(MINIMAL, "math.yaml"), ["models=[builtin/nano, builtin/micro]"]).space.model_dump()
    assert given.pop("tracking") == {"experiment": "entrodrop-math", "uri": None}
    assert default.pop("tracking") == {"experiment": "entrodrop", "uri": None}
    assert given == default


@pytest.mark.parametrize(
    ("name", "expected"), [("maths.yaml", "maths"), ("my maths!.yml", "my_maths_"), (".yaml", "_yaml")]
)
def test_the_name_defaults_to_the_files(write: Any, name: str, expected: str) -> None:
    assert load(write(MINIMAL, name)).space.name == expected


def test_a_files_path_is_relative_to_the_space(write: Any, tmp_path: Path) -> None:
    data = load(write(FILES)).space.data
    assert data.source == "files"
    assert data.path == str(tmp_path / "my.jsonl")
    assert data.template == "{question}\n{answer}"


@pytest.mark.parametrize("text", [MINIMAL, FILES, MATH.read_text()])
def test_the_resolved_space_loads_again(write: Any, tmp_path: Path, text: str) -> None:
    overrides = ["training.learning_rate={low: 1.0e-5, high: 0.1, log: true}", "schedule.mask_ratio=[0, 0.5]"]
    space = load(write(text), overrides).space
    (tmp_path / "elsewhere").mkdir()
    resolved = write(yaml.safe_dump(space.model_dump(mode="json")), "elsewhere/resolved.yaml")
    assert load(resolved).space == space


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0.5", 0.5),
        ("0", 0.0),
        ("[0.25, 1]", [0.25, 1.0]),
        ("{low: 0, high: 1}", {"low": 0.0, "high": 1.0, "log": False}),
        ("{low: 1.0e-3, high: 1, log: true}", {"low": 0.001, "high": 1.0, "log": True}),
    ],
)
def test_a_searchable_setting_is_fixed_or_searched(write: Any, given: str, expected: Any) -> None:
    space = load(write(MINIMAL), [f"schedule.mask_ratio={given}"]).space
    assert space.model_dump()["schedule"]["mask_ratio"] == expected
    assert isinstance(space.schedule.mask_ratio, FloatRange) == isinstance(expected, dict)


def test_one_shape_stands_for_a_list_of_one(write: Any) -> None:
    space = load(write(MINIMAL + "schedule:\n  curriculum: {shape: step, at: 0.5}\n")).space
    assert space.model_dump()["schedule"]["curriculum"] == [{"shape": "step", "at": 0.5}]


def test_anchors_may_be_used(write: Any) -> None:
    space = load(write(MINIMAL.replace("train: 24", "train: &n 7").replace("test: 20", "test: *n"))).space
    assert (space.data.train, space.data.test) == (7, 7)


# Overrides.


def test_an_override_replaces_and_creates() -> None:
    overrides = [
        "budget.trials=3",
        "models.1=builtin/nano",
        "models.0=builtin/micro",
        "schedule.curriculum.4.at=0.3",
        "schedule.curriculum.0={shape: linear}",
        "schedule.curriculum.1={shape: constant}",
        "tracking.uri=http://host:5000/?a=b",
    ]
    space = load(MATH, overrides).space
    assert space.budget.trials == 3
    assert space.models == ["builtin/micro", "builtin/nano"]
    assert space.tracking.uri == "http://host:5000/?a=b"
    shapes = space.model_dump()["schedule"]["curriculum"]
    assert [shape["shape"] for shape in shapes] == ["linear", "constant", "cosine", "sigmoid", "step"]
    assert shapes[4]["at"] == 0.3


def test_an_override_creates_blocks_and_lists(write: Any) -> None:
    overrides = [
        "early_stopping.patience=0",
        "schedule.curriculum.0.shape=linear",
        "schedule.mask_ratio.low=0.5",
    ]
    space = load(write(MINIMAL), [*overrides, "schedule.mask_ratio.high=1"]).space
    assert space.early_stopping.patience == 0
    assert [shape.shape for shape in space.schedule.curriculum] == ["linear"]
    assert space.schedule.mask_ratio == FloatRange(low=0.5, high=1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials=0", "budget.trials: given 0; allowed: an integer of at least 1"),
        (
            "budget.trails=3",
            "budget.trails: given an unknown key; allowed: trials, epochs; did you mean 'trials'?",
        ),
        ("budget=3", "budget: given 3; allowed: a mapping {trials, epochs}"),
        ("budget=", "budget: given nothing; allowed: a mapping {trials, epochs}"),
        ("bugdet.trials=3", "bugdet: given an unknown key; allowed: name, seed, models, "),
        ("seed.x=1", 'seed: given {"x": 1}; allowed: an integer from 0'),
        ("models.5=builtin/nano", "models.5: given the index 5; allowed: an index from 0 to 2"),
        ("models.first=builtin/nano", "models.first: given the index first; allowed: an index from 0 to 2"),
        ("models.1=builtin/nano", "models.1: given 'builtin/nano' a second time; allowed: each choice once"),
        (
            "schedule.curriculum.1.at=0.3",
            "schedule.curriculum.1.at: given 'at' with shape linear; allowed: shape; 'at' belongs to shape step",
        ),
        ("seed=[1", "seed: given broken YAML (expected ',' or ']', but got '<stream end>'); allowed: "),
        ("budget={trials: 1, trials: 2}", "budget.trials: given a second time (first on line 1); allowed: "),
        ("seed=!!python/name:os.system", "seed: given the tag !!python/name:os.system; allowed: "),
        ("budget.trials", "given 'budget.trials'; allowed: path=value"),
        ("=3", "given '=3'; allowed: path=value"),
        ("budget..trials=3", "given 'budget..trials=3'; allowed: path=value"),
        ("", "given ''; allowed: path=value"),
    ],
)
def test_a_wrong_override_is_told_as_such(override: str, message: str) -> None:
    assert failure(MATH, override).startswith(f"--set {override}: {message}")


def test_a_very_deep_override_is_refused() -> None:
    assert "allowed: path=value" in failure(MATH, ".".join("a" * 5000) + "=1")
    assert "at most 32 levels" in failure(MATH, "seed=" + "[" * 5000)


# What is said about a wrong value: (text that is put for `data:` and below it, line, message).

WRONG_VALUES = [
    # Numbers.
    ("budget:\n  trials: 0", 9, "budget.trials: given 0; allowed: an integer of at least 1"),
    ("budget:\n  epochs: 2.0", 9, "budget.epochs: given 2.0; allowed: an integer of at least 1"),
    ("budget:\n  epochs: true", 9, "budget.epochs: given true; allowed: an integer of at least 1"),
    ("budget:\n  epochs: yes", 9, "budget.epochs: given true; allowed: an integer of at least 1"),
    ("budget:\n  epochs: many", 9, "budget.epochs: given 'many'; allowed: an integer of at least 1"),
    ("budget:\n  epochs:\n    2030-01-01", 9, "budget.epochs: given '2030-01-01'; allowed: an integer"),
    ("budget:\n  epochs: 1:30", 9, "budget.epochs: given '1:30'; allowed: an integer"),
    ("budget:\n  epochs: '3'", 9, "given the text '3'; allowed: an integer of at least 1; write 3"),
    ("budget:\n  epochs: 010", 9, "given the text '010'; allowed: an integer of at least 1; write 10"),
    ("budget:\n  epochs: 1e2", 9, "given the text '1e2'; allowed: an integer of at least 1; write 100"),
    ("budget:\n  epochs:", 9, "budget.epochs: given nothing; allowed: an integer of at least 1"),
    ("budget:\n  epochs: " + "9" * 30, 9, f"budget.epochs: given {'9' * 30}; allowed: integers from -9007"),
    ("budget:\n  epochs: " + "9" * 9000, 9, f"budget.epochs: given {'9' * 77}...; allowed: integers from"),
    ("seed: -1", 8, "seed: given -1; allowed: an integer from 0 to 2147483647"),
    ("seed: 2147483648", 8, "seed: given 2147483648; allowed: an integer from 0 to 2147483647"),
    ("training:\n  learning_rate: 0", 9, "training.learning_rate: given 0; allowed: a number above 0"),
    ("training:\n  learning_rate: true", 9, "training.learning_rate: given true; allowed: a number above 0"),
    (
        "training:\n  learning_rate: .nan",
        9,
        "training.learning_rate: given .nan; allowed: a finite number above 0",
    ),
    (
        "training:\n  gradient_clip: .inf",
        9,
        "training.gradient_clip: given .inf; allowed: a finite number above 0",
    ),
    (
        "training:\n  gradient_clip: 1.0e+999",
        9,
        "training.gradient_clip: given .inf; allowed: a finite number",
    ),
    (
        "training:\n  weight_decay: -.inf",
        9,
        "training.weight_decay: given -.inf; allowed: a finite number of at",
    ),
    ("training:\n  warmup: 1", 9, "training.warmup: given 1; allowed: a number of at least 0 and below 1"),
    ("training:\n  sequence_length: 7", 9, "given 7; allowed: an integer of at least 8"),
    ("early_stopping:\n  first_rung: 0.0", 9, "given 0.0; allowed: a number above 0 and below 1"),
    # Numbers that YAML 1.1 takes for text.
    (
        "training:\n  learning_rate: 1e-4",
        9,
        "training.learning_rate: given the text '1e-4'; allowed: a number above 0"
        " or a mapping {low, high, log} or a list of such choices; write 1.0e-4",
    ),
    (
        "training:\n  gradient_clip: 2.5E3",
        9,
        "given the text '2.5E3'; allowed: a number above 0; write 2.5e+3",
    ),
    # Words.
    ("objective: bets", 8, "objective: given 'bets'; allowed: best, final, mean; did you mean 'best'?"),
    ("sampler: {name: bayes}", 8, "sampler.name: given 'bayes'; allowed: tpe, random"),
    ("training:\n  precision: 16", 9, "training.precision: given 16; allowed: fp32, bf16"),
    ("name: a/b", 8, "name: given 'a/b'; allowed: up to 100 letters, digits,"),
    ("name: ..", 8, "name: given '..'; allowed: up to 100 letters, digits,"),
    ("name: " + "a" * 101, 8, f"name: given '{'a' * 76}...; allowed: up to 100 letters"),
    ('name: "a\\nb"', 8, "name: given 'a\\nb'; allowed: up to 100"),
    ('name: "\\u202Eab"', 8, "name: given '\\u202eab'; allowed: up to 100"),
    ("tracking: {experiment: ''}", 8, "tracking.experiment: given ''; allowed: one line of text"),
    ("tracking: {uri: 3}", 8, "tracking.uri: given 3; allowed: one line of text or null"),
    # Ranges and choices.
    (
        "schedule:\n  mask_ratio: 1.5",
        9,
        "schedule.mask_ratio: given 1.5; allowed: a number from 0 to 1 or a mapping",
    ),
    (
        "schedule:\n  mask_ratio:\n    low: 0\n    high: 2",
        11,
        "schedule.mask_ratio.high: given 2; allowed: a number from 0 to 1",
    ),
    (
        "schedule:\n  mask_ratio:\n    low: 0.5\n    high: 0.5",
        11,
        "schedule.mask_ratio.high: given 0.5; allowed: a number above low, which is 0.5",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, log: true}",
        9,
        "schedule.mask_ratio.low: given 0.0; allowed: a number above 0, as log is true",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, log: 1}",
        9,
        "mask_ratio.log: given 1; allowed: true, false",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0.1}",
        9,
        "schedule.mask_ratio.high: given nothing; allowed: a number from 0",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0.1, hihg: 1}",
        9,
        "schedule.mask_ratio.hihg: given an unknown key; allowed: low, high, log; did you mean 'high'?",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, range: 2}",
        9,
        "schedule.mask_ratio.range: given an unknown key; allowed: low, high, log",
    ),
    ("schedule:\n  mask_ratio: []", 9, "schedule.mask_ratio: given []; allowed: a number from 0 to 1 or"),
    (
        "schedule:\n  mask_ratio:\n    - 0.5\n    - 1.5",
        11,
        "schedule.mask_ratio.1: given 1.5; allowed: a number from 0 to 1",
    ),
    ("schedule:\n  mask_ratio: [1, 1.0]", 9, "schedule.mask_ratio.1: given 1.0 a second time; allowed: each"),
    (
        "schedule:\n  presentation: inputs",
        9,
        "given 'inputs'; allowed: input, loss or a list of such choices; did",
    ),
    (
        "schedule:\n  presentation: [loss, loss]",
        9,
        "schedule.presentation.1: given 'loss' a second time; allowed",
    ),
    (
        "schedule:\n  presentation: {low: 0, high: 1}",
        9,
        'given {"low": 0, "high": 1}; allowed: input, loss or',
    ),
    (
        "schedule:\n  entropy_threshold: 0.5",
        9,
        "schedule.entropy_threshold: given 0.5; allowed: a mapping {quantile}",
    ),
    # Unions.
    (
        "schedule:\n  curriculum:\n    - shape: linear\n    - shape: sigmoidal",
        11,
        "schedule.curriculum.1.shape: given 'sigmoidal'; allowed: constant, cosine, linear, sigmoid, step;"
        " did you mean 'sigmoid'?",
    ),
    (
        "schedule:\n  curriculum:\n    shape: linear\n    midpoint: 0.5",
        11,
        "schedule.curriculum.midpoint: given 'midpoint' with shape linear; allowed: shape;"
        " 'midpoint' belongs to shape sigmoid",
    ),
    (
        "schedule:\n  curriculum:\n    - shape: sigmoid\n      steepness: {low: 0, high: 9}",
        11,
        "schedule.curriculum.0.steepness.low: given 0; allowed: a number above 0",
    ),
    (
        "schedule:\n  curriculum: [{at: 0.5}]",
        9,
        "schedule.curriculum.0.shape: given nothing; allowed: constant,",
    ),
    (
        "schedule:\n  curriculum: [{shape: [step]}]",
        9,
        'schedule.curriculum.0.shape: given ["step"]; allowed: const',
    ),
    (
        "schedule:\n  curriculum: linear",
        9,
        "schedule.curriculum: given 'linear'; allowed: a mapping with shape: con",
    ),
    ("schedule:\n  curriculum: []", 9, "schedule.curriculum: given []; allowed: a mapping with shape: const"),
    (
        "schedule:\n  curriculum:\n    - shape: step\n    - at: 0.5\n      shape: step",
        12,
        "schedule.curriculum.1.shape: given 'step' a second time; allowed: each shape once",
    ),
    # Keys.
    ("budgets: {trials: 3}", 8, "budgets: given an unknown key; allowed: name, seed, models, "),
    (
        "budget: {trails: 3}",
        8,
        "budget.trails: given an unknown key; allowed: trials, epochs; did you mean 'trials'?",
    ),
    (
        "seed: 1\nbudget: {}\nseed: 2",
        10,
        "seed: given a second time (first on line 8); allowed: one key 'seed'",
    ),
    (
        "budget:\n  trials: 1\n  trials: 1",
        10,
        "budget.trials: given a second time (first on line 9); allowed: one",
    ),
    ("1: 2", 8, "given the key 1, which is not text; allowed: keys that are text"),
    ("budget: {true: 2}", 8, "budget: given the key true, which is not text; allowed: keys that are text"),
    ("? [a, b]\n: 2", 8, "given a list or a mapping as a key; allowed: keys that are text"),
    ("<<: {seed: 3}", 8, "<<: given an unknown key; allowed: name,"),
    # Settings that depend on each other.
    (
        "training:\n  batch_size: 4\n  accumulation: 3",
        9,
        "training.batch_size: given 4; allowed: training.batch_size (4) divisible by"
        " training.accumulation (3) * resources.workers (1)",
    ),
    (
        "resources:\n  slots: 1\n  workers: 3",
        10,
        "resources.workers: given 3; allowed: training.batch_size (4) div",
    ),
    (
        "training:\n  accumulation: 8",
        9,
        "training.accumulation: given 8; allowed: training.batch_size (4) divisible",
    ),
    (
        "evaluation:\n  low_entropy: 0.9",
        9,
        "evaluation.low_entropy: given 0.9; allowed: a number of at most 0.8",
    ),
    (
        "evaluation:\n  high_entropy: 0.6",
        9,
        "evaluation.high_entropy: given 0.6; allowed: a number of at most 0.5",
    ),
    # What is not plain YAML.
    (
        "a: !!python/object/apply:os.system ['true']",
        8,
        "a: given the tag !!python/object/apply:os.system; allowed",
    ),
    ("a: !mine 3", 8, "a: given the tag !mine; allowed: plain YAML without tags"),
    ("a: !!binary aGVsbG8=", 8, "a: given the tag !!binary; allowed: plain YAML without tags"),
    ("a: !!int 0x", 8, "a: given an unknown key"),
    ("a: &a\n  - *a", 8, "a.0.0: given more than 32 levels of nesting; allowed: at most 32 levels"),
    ("a: " + "[" * 5000, 8, "given more than 32 levels of nesting; allowed: at most 32 levels"),
    (
        "a: " + "{b: " * 40 + "1" + "}" * 40,
        8,
        "given more than 32 levels of nesting; allowed: at most 32 levels",
    ),
    ("a:\n  b: 1\n c: 2", 10, "given broken YAML ("),
    ("a:\n\t- b", 9, "given broken YAML (found character '\\t' that cannot start any token); allowed: YAML"),
    ('a: "b', 8, "given broken YAML ("),
    ("a: *b", 8, "given broken YAML (found undefined alias 'b'); allowed: YAML"),
    ('a: "\\UFFFFFFFF"', 8, "given broken YAML ("),
    ("a: \x07", 8, "given broken YAML (the character U+0007); allowed: YAML"),
    ("---\na: 1", 8, "given broken YAML (but found another document); allowed: YAML"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_VALUES, ids=[text[:50] for text, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line(write: Any, text: str, line: int, message: str) -> None:
    path = write(MINIMAL + text + "\n")
    told = failure(path)
    where, _, what = told.removeprefix(f"{path}:").partition(": ")
    # A mark at the end of the text stands on the line after the last one.
    assert int(where) == line or ("broken YAML" in told and int(where) == line + 1)
    assert message in what


WRONG_DATA = [
    (
        MINIMAL,
        "[builtin/nano]",
        "builtin/nano",
        1,
        "models: given 'builtin/nano'; allowed: a list of at least one",
    ),
    (
        MINIMAL,
        "[builtin/nano]",
        "[]",
        1,
        "models: given []; allowed: a list of at least one: builtin/nano, bu",
    ),
    (
        MINIMAL,
        "nano]",
        "nanoo]",
        1,
        "models.0: given 'builtin/nanoo'; allowed: builtin/nano, builtin/micro; did you",
    ),
    (
        MINIMAL,
        "nano]",
        "nano, builtin/nano]",
        1,
        "models.1: given 'builtin/nano' a second time; allowed: each",
    ),
    (MINIMAL, "models: [builtin/nano]", "", 2, "models: given nothing; allowed: a list of at least one"),
    (
        MINIMAL,
        "reasoning_gym",
        "resoning_gym",
        3,
        "allowed: files, reasoning_gym; did you mean 'reasoning_gym'?",
    ),
    (
        MINIMAL,
        "  source: reasoning_gym\n",
        "",
        2,
        "data.source: given nothing; allowed: files, reasoning_gym",
    ),
    (
        MINIMAL,
        "  task: gsm_symbolic",
        "  path: a",
        4,
        "given 'path' with source reasoning_gym; allowed: train, ",
    ),
    (MINIMAL, "  task: gsm_symbolic", "  path: a", 4, "'path' belongs to source files"),
    (MINIMAL, "gsm_symbolic", "gsm", 4, "data.task: given 'gsm'; allowed: gsm_symbolic"),
    (MINIMAL, "test: 20", "test: 0", 7, "data.test: given 0; allowed: an integer of at least 1"),
    (MINIMAL, "  test: 20\n", "", 2, "data.test: given nothing; allowed: an integer of at least 1"),
    (FILES, "path: my.jsonl", "path: ''", 4, "data.path: given ''; allowed: one line of text"),
    (FILES, "path: my.jsonl", 'path: "a\\0"', 4, "data.path: given 'a\\x00'; allowed: one line of text"),
    (FILES, "path: my.jsonl", 'path: "\\uD800"', 4, "data.path: given '\\ud800'; allowed: one line of text"),
    (FILES, "path: my.jsonl", "task: gsm_symbolic", 4, "'task' belongs to source reasoning_gym"),
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
        "{}",
        5,
        "data.template: given '{}'; allowed: text with at least one {column}",
    ),
    (
        FILES,
        "{question}\\n{answer}",
        "{0}",
        5,
        "data.template: given '{0}'; allowed: text with at least one {column}",
    ),
    (
        FILES,
        "{question}\\n{answer}",
        "{a.__class__}",
        5,
        "given '{a.__class__}'; allowed: text with at least",
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: given an empty file; allowed: a mapping with at least the keys models and data"),
        (b"# nothing\n", ":1: given an empty file; allowed: a mapping"),
        (b"\n- a\n", ':2: given ["a"] at the top level; allowed: a mapping'),
        (b"text", ":1: given 'text' at the top level; allowed: a mapping"),
        (
            b"{}",
            ":1: models: given nothing; allowed: a list of at least one: builtin/nano, builtin/micro (and 1 more)",
        ),
        (b"a: 1\nb: \xff\n", ":2: given the byte 0xff, which is not UTF-8; allowed: a UTF-8 text file"),
        (MINIMAL.encode("utf-16"), ":1: given the byte 0xff, which is not UTF-8; allowed: a UTF-8 text file"),
        (b"\x7fELF\x02\x00", ":1: given broken YAML (the character U+007F); allowed: YAML"),
        (b"# " + b"a" * 2**20, ": given more than 1048576 bytes; allowed: a smaller YAML file"),
    ],
)
def test_a_file_that_is_no_space_is_told(write: Any, content: bytes, message: str) -> None:
    path = write(content)
    assert failure(path).startswith(f"{path}{message}")


def test_a_path_that_is_no_file_is_told(tmp_path: Path, write: Any) -> None:
    write(MINIMAL, "math.yaml")
    missing = "given a file that does not exist; allowed: a YAML file"
    assert failure(tmp_path / "maths.yaml") == f"{tmp_path}/maths.yaml: {missing}; did you mean 'math.yaml'?"
    assert failure(tmp_path / "no" / "folder.yaml") == f"{tmp_path}/no/folder.yaml: {missing}"
    assert failure(tmp_path) == f"{tmp_path}: given a folder; allowed: a YAML file"
    assert "cannot be read (Not a directory)" in failure(tmp_path / "math.yaml" / "x")
    assert "cannot be read (File name too long)" in failure("a" * 5000)
    assert "cannot be read (embedded null byte)" in failure("a\0")
    assert failure("a\nb") == f"a\\nb: {missing}"


def test_aliases_do_not_explode(write: Any) -> None:
    levels = "abcdefghij"
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for outer, inner in zip(levels[1:], levels, strict=False):
        bomb += f"{outer}: &{outer} [{', '.join([f'*{inner}'] * 10)}]\n"
    assert "given more than 10000 values; allowed: at most 10000 values" in failure(write(bomb))


def test_the_first_of_many_problems_is_told(write: Any) -> None:
    path = write("objective: bets\n" + MINIMAL.replace("test: 20", "test: 0") + "budget:\n  trials: 0\n  epochs: x\n")
    told = failure(path, "seed=-1")
    assert told.startswith(f"{path}:1: objective: given 'bets'")
    assert told.endswith(" (and 4 more)")


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@host",
        "http://user:p@ss:/hunter2@host",
        "http://hunter2@host",
        "user:hunter2@host",
        "mysql://user:\\u0000hunter2 @host/" + "long" * 30,
        "postgresql://host/db?user=me&password=hunter2",
    ],
)
def test_no_password_is_printed(write: Any, uri: str) -> None:
    texts = [
        f'tracking: {{uri: ["{uri}"]}}',
        f'tracking: {{experiment: "a\\n{uri}"}}',
        f'seed: "{uri}"',
        f'"{uri}": 1',
    ]
    for text in texts:
        assert "hunter2" not in failure(write(f"{MINIMAL}{text}\n"))
    for override in (f"tracking.ui={uri}", f"seed={uri}", f"{uri}", f"tracking={{uri: {uri}, uri: 3}}"):
        assert "hunter2" not in failure(MATH, override)
    assert "hunter2" not in str(load(MATH).error("tracking.uri", f"{uri}", "a server that answers"))


# Errors that are found after loading.


def test_a_later_error_finds_its_line() -> None:
    file = load(MATH, ["resources.slots=64"])
    line = MATH.read_text().splitlines().index("  workers: 1                    # processes that share a trial") + 1
    told = str(file.error("resources.workers", 8, "at most 2, the CPUs of this machine"))
    assert told == f"{MATH}:{line}: resources.workers: given 8; allowed: at most 2, the CPUs of this machine"
    told = str(file.error("resources.slots", 64, "at most 2"))
    assert told == "--set resources.slots=64: resources.slots: given 64; allowed: at most 2"
    told = str(file.error("models.1", "builtin/micro", "builtin/nano", nearest="builtin/nano"))
    assert told.endswith(": models.1: given builtin/micro; allowed: builtin/nano; did you mean 'builtin/nano'?")


def test_a_later_error_about_a_default_has_the_line_of_its_block(write: Any) -> None:
    file = load(write(MINIMAL + "resources:\n  slots: 1\n"))
    assert str(file.error("resources.workers", 1, "none")).startswith(f"{file.path}:8: resources.workers: given 1")
    assert str(file.error("training.precision", "bf16", "fp32")).startswith(f"{file.path}:1: training.precision")
    assert isinstance(file, SpaceFile)
    assert file.text == MINIMAL + "resources:\n  slots: 1\n"


# The JSON schema.


def test_the_json_schema_describes_every_key() -> None:
    command = [sys.executable, "-m", "search.space", "--json-schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=MATH.parents[1]).stdout
    schema = json.loads(printed)
    assert schema == json_schema()
    described = set()
    for block in [schema, *schema["$defs"].values()]:
        assert block["additionalProperties"] is False
        for key, setting in block["properties"].items():
            assert setting.get("description"), key
            described.add(key)
    assert set(_keys(yaml.safe_load(MATH.read_text()))) <= described
    assert set(_keys(yaml.safe_load(FILES))) <= described


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)


# Damage: whatever the file, there is a space or one line about it.


def _loads_or_tells(path: Path) -> bool:
    try:
        load(path)
    except SpaceError as error:
        told = str(error)
    else:
        return True
    assert told.isprintable()
    assert told.startswith(f"{path}:")
    return False


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*place, key)
        yield from _places(inner, (*place, key))


RETYPED: list[Any] = [
    None, True, -1, 0, 3, 0.5, "x", "1e-4", "", [], [1], {}, {"a": 1}, {"low": 1, "high": 2}, [[]], 10**20
]  # fmt: skip


def test_a_damaged_key_is_told(write: Any) -> None:
    whole = MATH.read_text()
    outcomes = set()
    for number, place in enumerate(_places(yaml.safe_load(whole))):
        # Three of the other values for each key; all of them for each five keys or so.
        for change in ["drop", "rename", *RETYPED[3 * number % 14 :][:3]]:
            tree = yaml.safe_load(whole)
            block = tree
            for part in place[:-1]:
                block = block[part]
            value = block.pop(place[-1])
            if change == "rename" and isinstance(block, dict):
                block[f"{place[-1]}x"] = value
            elif change not in ("drop", "rename"):
                block.update({place[-1]: change}) if isinstance(block, dict) else block.insert(place[-1], change)
            told = not _loads_or_tells(write(json.dumps(tree)))
            assert told or change != "rename" or isinstance(block, list)
            outcomes.add(told)
    assert outcomes == {True, False}


def test_a_cut_or_overwritten_file_is_told(write: Any) -> None:
    whole = MATH.read_bytes()
    for end in range(0, len(whole), 37):
        _loads_or_tells(write(whole[:end]))
    dice = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        _loads_or_tells(write(bytes(damaged)))
        _loads_or_tells(write(dice.randbytes(64)))
        _loads_or_tells(write("".join(dice.choices("[]{}:,-?&*!|>'\"%@` \n#a1.~<\\", k=40))))
