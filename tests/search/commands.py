"""A small space, and commands that refuse it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from search.run import main

SMALL = """
models: [builtin/nano]
data: {source: builtin, task: word_problems, train: 4, validation: 4, test: 6}
budget: {trials: 3, epochs: 2}
"""


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """Runs a command that must be refused. Returns its one line."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    return printed.err.strip()
