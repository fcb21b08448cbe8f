"""From a file to a configuration: what YAML is read, and what is said about what is not."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.configs import MINIMAL, failure, tells
from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.config.yaml_values import read, to_yaml
from trainables.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"), [("maths.yaml", "maths"), ("my maths!.yml", "my_maths_"), (".yaml", "_yaml")]
)
def test_the_name_defaults_to_the_files(write: Any, name: str, expected: str) -> None:
    assert load(write(MINIMAL, name), (), RunConfig).config.name == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1e-4", 1e-4), ("2.5E3", 2500.0), ("010", 10), ("1_000", 1000), ("1_0.5", 10.5), (".5", 0.5), ("+1.", 1.0),
        ("-.inf", -math.inf), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2030-01-01", "2030-01-01"),
        ("0x1F", "0x1F"), ("1_", "1_"), ("<<", "<<"), ("~", None), ("True", True), ("!!str 3", "3"), ("", None),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(given: str, expected: Any) -> None:
    value, _ = read(f"a: {given}")
    assert value == {"a": expected}
    assert type(value["a"]) is type(expected)


@pytest.mark.parametrize("text", ["1e-4", "010", "no", "1_000", "2030-01-01", "0x1F", "1:30", "null", ".inf", "", "é"])
def test_text_that_is_written_is_read_again(text: str) -> None:
    values = {"b": text, "a": [1e-5, 3, None, True]}
    written = to_yaml(values)
    assert read(written)[0] == values
    # Other tools read YAML 1.1.
    assert yaml.safe_load(written) == values
    assert written.startswith("b: ")


def test_anchors_may_be_used(write: Any) -> None:
    space = load(
        write(MINIMAL.replace("train: 24", "train: &n 7").replace("test: 20", "test: *n")), (), RunConfig
    ).config
    assert (space.data.train, space.data.test) == (7, 7)


def test_a_very_deep_override_is_refused(write: Any) -> None:
    assert "allowed: path=value" in failure(write(MINIMAL), ".".join("a" * 5000) + "=1")
    assert "more than 32 levels" in failure(write(MINIMAL), "seed=" + "[" * 5000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: the file is empty; write at least the keys models and data"),
        (b"# nothing\n", ":1: the file is empty; write"),
        (b"\n- a\n", ":2: there is no mapping at the top level; write at least"),
        (b"text", ":1: there is no mapping at the top level; write"),
        (
            b"{}",
            ":1: models: given nothing; allowed: a list of builtin/nano, builtin/micro, hub:owner/name, hub:owne",
        ),
        (b"a: 1\nb: \xff\n", ":2: the byte 0xff is not UTF-8; save the file as UTF-8 text"),
        (MINIMAL.encode("utf-16"), ":1: the byte 0xff is not UTF-8; save the file as UTF-8 text"),
        (b"\x7fELF\x02\x00", ":1: broken YAML (the character U+007F); check"),
        (b"# " + b"a" * 2**20, ": more than 1048576 bytes; name a smaller YAML file"),
    ],
)
def test_a_file_that_is_no_space_is_told(write: Any, content: bytes, message: str) -> None:
    path = write(content)
    assert failure(path).startswith(f"{path}{message}")


def test_a_path_that_is_no_file_is_told(tmp_path: Path, write: Any) -> None:
    write(MINIMAL, "math.yaml")
    missing = "there is no such file; name a YAML file"
    assert failure(tmp_path / "maths.yaml") == f"{tmp_path}/maths.yaml: {missing}; did you mean 'math.yaml'?"
    assert failure(tmp_path / "no" / "folder.yaml") == f"{tmp_path}/no/folder.yaml: {missing}"
    assert failure(tmp_path) == f"{tmp_path}: this is a folder; name a YAML file"
    assert "cannot be read (Not a directory)" in failure(tmp_path / "math.yaml" / "x")
    assert "cannot be read (File name too long)" in failure("a" * 5000)
    assert "cannot be read (embedded null byte)" in failure("a\0")
    assert failure("a\nb") == f"a\\nb: {missing}"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/dev/full", "pipe"])
def test_a_pipe_or_a_device_is_told_and_not_waited_for(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    if path == "/dev/stdin" and not Path(path).is_char_device() and not Path(path).is_fifo():
        pytest.skip("standard input is a file")
    assert "this is a pipe or a device; name a YAML file" in failure(tmp_path / path)


@pytest.mark.faults
def test_a_long_list_is_refused_while_it_is_read(write: Any) -> None:
    began = time.perf_counter()
    assert ":1: more than 10000 values; write fewer" in failure(write("a: [" + "1," * 500_000))
    # PyYAML takes twelve seconds for all of it.
    assert time.perf_counter() - began < 6


def test_aliases_do_not_explode(write: Any) -> None:
    levels = "abcdefghij"
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for outer, inner in zip(levels[1:], levels, strict=False):
        bomb += f"{outer}: &{outer} [{', '.join([f'*{inner}'] * 10)}]\n"
    assert "more than 10000 values; write fewer" in failure(write(bomb))


# (what follows MINIMAL, line, message)
WRONG_VALUES = [
    ("budget:\n  epochs: 2.0", 9, "budget.epochs: given 2.0; allowed: an integer of at least 1"),
    ("budget:\n  epochs: true", 9, "budget.epochs: given true; allowed: an integer of at least 1"),
    ("budget:\n  epochs: yes", 9, "budget.epochs: given 'yes'; allowed: an integer of at least "),
    ("budget:\n  epochs: many", 9, "budget.epochs: given 'many'; allowed: an integer of at least 1"),
    ("budget:\n  epochs:\n    2030-01-01", 9, "budget.epochs: given '2030-01-01'; allowed: an integer"),
    ("budget:\n  epochs: 1:30", 9, "budget.epochs: given '1:30'; allowed: an integer"),
    ("budget:\n  epochs: '3'", 9, "given the text '3'; allowed: an integer of at least 1 (passes "),
    ("budget:\n  epochs: 1e2", 9, "given 100.0; allowed: an integer of at least 1"),
    ("budget:\n  epochs:", 9, "budget.epochs: given nothing; allowed: an integer of at least 1"),
    ("budget:\n  epochs: " + "9" * 30, 9, "budget.epochs: an integer beyond 9007199254740991; write"),
    ("budget:\n  epochs: " + "9" * 9000, 9, "budget.epochs: an integer beyond 9007199254740991; write"),
    ("seed: -1", 8, "seed: given -1; allowed: an integer from 0 to 2147483647"),
    ("seed: 2147483648", 8, "seed: given 2147483648; allowed: an integer from 0 to 2147483647"),
    ("name: a/b", 8, "name: given 'a/b'; allowed: up to 100 letters, digits,"),
    ("name: ..", 8, "name: given '..'; allowed: up to 100 letters, digits,"),
    ("name: " + "a" * 101, 8, f"name: given '{'a' * 76}...; allowed: up to 100 letters"),
    ('name: "a\\nb"', 8, "name: given 'a\\nb'; allowed: up to 100"),
    ('name: "\\u202Eab"', 8, "name: given '\\u202eab'; allowed: up to 100"),
    (
        "seed: 1\nbudget: {}\nseed: 2",
        10,
        "seed: given a second time (first on line 8); leave one of them out",
    ),
    ("1: 2", 8, "the key 1 is not text; write it in quotes"),
    ("budget: {true: 2}", 8, "budget: the key true is not text; write it in quotes"),
    ("? [a, b]\n: 2", 8, "a list or a mapping stands as a key; write text"),
    ("<<: {seed: 3}", 8, "<<: given an unknown key; allowed: name,"),
    (
        "a: !!python/object/apply:os.system ['true']",
        8,
        "a: the tag !!python/object/apply:os.system is not read; leav",
    ),
    ("a: !mine 3", 8, "a: the tag !mine is not read; leave it out"),
    ("a: !!binary aGVsbG8=", 8, "a: the tag !!binary is not read; leave it out"),
    ("a: !!int 0x", 8, "a: the tag !!int is not read; leave it out"),
    ('a: "\\uD83D\\uDE00"', 8, "a: half of a character (U+D83D); write the whole one, as it is"),
    ('"\\uD83D": 3', 8, "half of a character (U+D83D)"),
    ("a: &a\n  - *a", 8, "a.0.0: more than 32 levels of nesting; write fewer"),
    ("a: " + "[" * 5000, 8, "more than 32 levels of nesting; write fewer"),
    (
        "a: " + "{b: " * 40 + "1" + "}" * 40,
        8,
        "more than 32 levels of nesting; write fewer",
    ),
    ("a:\n  b: 1\n c: 2", 10, "broken YAML ("),
    ("a:\n\t- b", 9, "broken YAML (found character '\\t' that cannot start any token); check"),
    ('a: "b', 8, "broken YAML ("),
    ("a: *b", 8, "broken YAML (found undefined alias 'b'); check"),
    ('a: "\\UFFFFFFFF"', 8, "broken YAML ("),
    ("a: \x07", 8, "broken YAML (the character U+0007); check"),
    ("---\na: 1", 8, "broken YAML (but found another document); check"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_VALUES, ids=[text[:50] for text, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line(write: Any, text: str, line: int, message: str) -> None:
    tells(write(MINIMAL + text + "\n"), line, message)


WHOLE = """\
name: whole
models: [builtin/nano, "hub:a/b@v1"]
data:
  source: files
  path: [a.csv, b.csv]
  template: "{a}"
  prompt: "{q}"
  answer: "{a}"
  train_on_prompt: false
  train: 9
  validation: 5
  test: 1
general: {source: hub, path: a/b, name: c, split: test, template: "{t}", documents: 4}
budget: {epochs: 2}
schedule:
  entropy_threshold: {nats: {low: 0.5, high: 2}}
  tokens: [random, high_entropy]
  mask_ratio: [0.1, 0.5]
  presentation: [input_mask_token, loss]
  curriculum: [{shape: spline, knots: 2}, {shape: sigmoid, midpoint: 0.5}]
  reference: builtin/micro
  refresh_epochs: [0, 1]
  redraw: [epoch, never]
  mask_token: "[MASK]"
training:
  lr_schedule: wsd
  lr_decay: 0.3
  label_smoothing: {low: 0, high: 0.5}
  neftune_alpha: [0, 5]
  token_weight: {kind: mile, gamma: {low: 0.5, high: 2}}
  layout: padded
  lora: {rank: 8, alpha: 16}
evaluation: {exact_match: 2, max_new_tokens: 9, answer_pattern: "(a)"}
"""


def test_the_resolved_configuration_loads_again(write: Any) -> None:
    config = load(write(WHOLE), (), RunConfig).config
    assert load(write(yaml.safe_dump(config.model_dump(mode="json"))), (), RunConfig).config == config


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from _places(inner, (*place, key))


RETYPED: list[Any] = [None, True, -1, 0, 3, 0.5, "x", "1e-4", "", [], [1], {}, {"a": 1}, {"low": 1, "high": 2}, [[]]]


@pytest.mark.faults
def test_a_damaged_key_is_told(write: Any) -> None:
    outcomes = set()
    for number, place in enumerate(_places(yaml.safe_load(WHOLE))):
        for change in ["drop", *RETYPED[4 * number % 15 :][:4]]:
            tree = yaml.safe_load(WHOLE)
            block = tree
            for part in place[:-1]:
                block = block[part]
            if change == "drop":
                block.pop(place[-1])
            else:
                block[place[-1]] = change
            path = write(json.dumps(tree))
            try:
                load(path, (), RunConfig)
            except ConfigError as error:
                told = str(error)
                assert told.isprintable()
                assert told.startswith(f"{path}:1: ")
                outcomes.add("told")
            else:
                outcomes.add("loads")
    assert outcomes == {"told", "loads"}
