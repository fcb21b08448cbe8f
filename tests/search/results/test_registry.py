"""Which model a search keeps, in a folder and behind a URL."""

from pathlib import Path

import pytest

from search.output.folder import Output
from search.results import registry
from trainables.storage.files import StorageError, place

NAME = Path("nano-confirmation") / "3"


def output(tmp_path: Path, kind: str) -> Output:
    """One with the models 3 and 4, and a file that a save left half written."""
    if kind == "folder":
        where = Output(tmp_path / "out", tmp_path / "out")
    else:
        where = Output(tmp_path / "work", place(f"{kind}://{tmp_path}/out"))
    for name in ("3", "4", ".5.tmp"):
        folder = where.models / "nano-confirmation" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(name)
    return where


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_one_model_stays_and_is_on_this_machine(tmp_path: Path, kind: str) -> None:
    where = output(tmp_path, kind)
    own = registry._fetch(where, NAME, alone=True)
    assert own == where.folder / "models" / NAME
    assert (own / "config.json").read_text() == "3"
    assert [path.name for path in (where.models / "nano-confirmation").iterdir()] == ["3"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_models_that_are_kept_stay_beside_it(tmp_path: Path, kind: str) -> None:
    where = output(tmp_path, kind)
    own = registry._fetch(where, NAME, alone=False)
    assert own == where.folder / "models" / NAME
    assert {path.name for path in (where.models / "nano-confirmation").iterdir()} == {"3", "4", ".5.tmp"}


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_model_that_is_not_there(tmp_path: Path, kind: str) -> None:
    assert registry._fetch(output(tmp_path, kind), Path("nano-confirmation") / "7", alone=True) is None


def test_a_store_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = output(tmp_path, "file")
    monkeypatch.setattr(type(where.models), "exists", lambda _: 1 / 0)
    with pytest.raises(StorageError, match="division by zero"):
        registry._fetch(where, NAME, alone=True)
