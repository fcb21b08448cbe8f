"""Small YAML files, and what is said about wrong ones."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.errors import ConfigError

MINIMAL = """\
models: [builtin/nano]
data:
  source: builtin
  task: word_problems
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
  test: 6
"""


def failure(path: str | Path, *overrides: str, schema: type[BaseModel] = RunConfig) -> str:
    """The one line that is said about a file that cannot be loaded."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, schema)
    line = str(caught.value)
    assert line
    assert line.isprintable()
    return line


def tells(path: Path, line: int, message: str, schema: type[BaseModel] = RunConfig) -> None:
    """Asserts what is said about a file, and on which line of it."""
    told = failure(path, schema=schema)
    where, _, what = told.removeprefix(f"{path}:").partition(": ")
    # A mark at the end of the text stands on the line after the last one.
    assert int(where) == line or ("broken YAML" in told and int(where) == line + 1)
    assert message in what
