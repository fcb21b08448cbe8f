"""A quick part of `python -m tests.faults.damaged_spaces`: without the data and the plan."""

from pathlib import Path

import pytest

from tests.faults.damaged_spaces import KINDS, SPACES, answer, damaged


@pytest.mark.faults
def test_damaged_spaces_are_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("search.run._splits", lambda space_file, dry_run: None)
    monkeypatch.setattr("search.plan.plan", lambda *_: ["search planned"])
    invalid = set()
    for number in range(3 * len(SPACES) * len(KINDS)):
        kind, content = damaged(number, seed=1)
        Path("space.yaml").write_bytes(content)
        said = answer("space.yaml")
        assert not said.crashed, said.err
        if not said.valid:
            assert said.code == 2, content
            assert said.placed("space.yaml"), said.err
            invalid.add((kind, number))
    assert {kind for kind, _ in invalid} == set(KINDS)
    assert len(invalid) >= 30
