"""A search's output behind a URL: what is there at any moment, who may write to it, and what is refused."""

import json
import pickle
import time
from pathlib import Path

import pytest

from search.output import object_store
from search.output.cursor import Cursor, open_cursor
from search.output.events import Event, ModelRegistered, SlotsChanged, append_events
from search.output.folder import CURSOR, EVENTS, JOURNAL, RESOLVED, Output
from search.output.object_store import fetch_output, open_for_reading, open_output
from search.tracking.delivery import adopt_copy
from trainables.errors import ConfigError
from trainables.storage.files import StorageError, place


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "_INTERVAL_S", 0.05)
    monkeypatch.setattr(object_store, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(object_store, "_LOOK_S", 0.02)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "store" / "runs"


def url(there: Path) -> str:
    return f"file://{there}"


def wait_for(path: Path, content: bytes) -> None:
    for _ in range(200):
        if path.exists() and path.read_bytes() == content:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {content!r}")


def write_state(folder: Path, *events: Event) -> None:
    append_events(folder / EVENTS, SlotsChanged(slots=1), *events)
    open_cursor(folder / CURSOR, folder / EVENTS)
    (folder / RESOLVED).write_text("name: a\n")
    for name in (EVENTS, CURSOR, JOURNAL):
        with (folder / name).open("ab") as file:
            file.write(b"{" if name != JOURNAL else b"{}\n{")


def test_what_changes_is_copied_while_the_search_runs_and_all_of_it_in_the_end(there: Path) -> None:
    with open_output(url(there)) as output:
        write_state(output.folder)
        # A line that is being written is not there yet.
        wait_for(there / JOURNAL, b"{}\n")
        assert (there / EVENTS).read_bytes().endswith(b'"slots": 1}\n')
        assert (there / CURSOR).read_bytes().endswith(b"}\n")
        with (output.folder / JOURNAL).open("ab") as file:
            file.write(b"}\n")
        wait_for(there / JOURNAL, b"{}\n{}\n")
        (output.folder / "summary.json").write_text("{}")
        (output.folder / "ray").mkdir()
    assert {path.name for path in there.iterdir()} == {RESOLVED, EVENTS, JOURNAL, CURSOR, "summary.json"}
    assert not output.folder.exists()


def test_all_is_copied_also_when_the_search_fails(there: Path) -> None:
    def search() -> None:
        with open_output(url(there)) as output:
            write_state(output.folder)
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        search()
    assert not list(there.parents[1].glob("cache/outputs/*/files"))
    assert (there / JOURNAL).exists()


def test_the_state_is_copied_so_that_the_study_and_the_cursor_know_of_nothing_that_the_events_lack(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    put, content = object_store.replace_file, object_store.Mirror._content
    monkeypatch.setattr(
        object_store, "replace_file", lambda path, text: (steps.append(f"put {path.name}"), put(path, text))
    )
    monkeypatch.setattr(
        object_store.Mirror, "_content", lambda self, name: (steps.append(f"read {name}"), content(self, name))[1]
    )
    monkeypatch.setattr(object_store, "_INTERVAL_S", 100)
    with open_output(url(there)) as output:
        write_state(output.folder)
        checkpoint = place(f"{url(there)}/checkpoints/nano/0")
        checkpoint.mkdir(parents=True)
        # Tune pickles what it is given.
        pickle.dumps(output)
        output.remove(checkpoint)
        monkeypatch.setattr(object_store, "remove", lambda folder: steps.append(f"remove {folder.name}"))
    state = [step for step in steps if step.partition(" ")[2] in (EVENTS, CURSOR, JOURNAL, "0")]
    read = [f"read {name}" for name in (JOURNAL, CURSOR, EVENTS)]
    assert state == [*read, *(f"put {name}" for name in (EVENTS, CURSOR, JOURNAL)), "remove 0"]


def test_a_search_goes_on_from_what_is_there(there: Path) -> None:
    with open_output(url(there)) as output:
        write_state(output.folder)
    (there / "checkpoints" / "nano").mkdir(parents=True)
    (there / "checkpoints" / "nano" / "shard").write_bytes(b"large")
    with open_output(url(there), adopt_copy) as output:
        assert (output.folder / JOURNAL).read_bytes() == b"{}\n"
        assert not (output.folder / "checkpoints").exists()
        # MLflow may have been told what this cursor does not know: it is asked before a run is made.
        assert Cursor(output.folder / CURSOR).may_exist("nano/7")


def test_models_that_mlflow_still_waits_for_are_fetched(there: Path, tmp_path: Path) -> None:
    with open_output(url(there)) as output:
        folders = ("models/nano/1", "models/../../../../outside", "/outside")
        models = (ModelRegistered(study="nano", trial=1, name=f"maths {f}", folder=f) for f in folders)
        write_state(output.folder, *models)
    for name in ("1", "2"):
        (there / "models" / "nano" / name).mkdir(parents=True)
        (there / "models" / "nano" / name / "config.json").write_text(name)
    (tmp_path / "outside").mkdir()
    with open_output(url(there), adopt_copy) as output:
        kept = sorted((output.folder / "models").rglob("*.json"))
        assert [str(path.relative_to(output.folder)) for path in kept] == ["models/nano/1/config.json"]


def test_a_url_that_holds_something_or_no_search_is_refused(there: Path) -> None:
    with pytest.raises(ConfigError, match="holds no search"), open_output(url(there), adopt_copy):
        pass
    there.mkdir(parents=True)
    (there / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds something; name a new folder, or --resume"):
        open_output(url(there)).__enter__()
    assert [path.name for path in there.iterdir()] == ["notes.txt"]


def test_one_search_at_a_time(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_output(url(there)) as output:
        with pytest.raises(ConfigError, match="another search is running"):
            open_output(url(there)).__enter__()
        # From another machine: with a cache of its own.
        write_state(output.folder)
        wait_for(there / JOURNAL, b"{}\n")
        monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "another machine"))
        with pytest.raises(ConfigError, match="another search is running"):
            open_output(url(there), adopt_copy).__enter__()
    # A lock that nobody writes to is a dead search's.
    (there / ".lock").write_text(json.dumps({"search": "dead", "beats": 3}))
    with open_output(url(there), adopt_copy) as output:
        assert (output.folder / JOURNAL).exists()
    assert not (there / ".lock").exists()


def test_a_search_whose_place_was_taken_ends(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(object_store.os, "kill", lambda process, number: killed.append(number))

    def search() -> None:
        with open_output(url(there)) as output:
            (there / ".lock").write_text(json.dumps({"search": "other", "beats": 1}))
            deadline = time.monotonic() + 5
            while not killed and time.monotonic() < deadline:
                time.sleep(0.02)
            write_state(output.folder)

    with pytest.raises(StorageError, match="another search has taken its place"):
        search()
    assert len(killed) == 1
    # What the other writes is left alone.
    assert [path.name for path in there.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("nonsense://me:hunter2@host/runs", ["nonsense://me:***@host/runs", "Unsupported filesystem"]),
        ("file:///proc/runs", ["file:///proc/runs", "cannot be written"]),
    ],
)
def test_a_store_that_cannot_be_written_is_told_in_one_line(where: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_output(where).__enter__()
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_outage_is_told_once_and_made_up_for(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put, away = object_store.replace_file, [True]

    def flaky(path: object, content: bytes) -> None:
        if away[0]:
            raise ConnectionError("no route to host")
        put(path, content)  # type: ignore[arg-type]

    monkeypatch.setattr(object_store, "replace_file", flaky)
    with open_output(url(there)) as output:
        write_state(output.folder)
        time.sleep(0.4)
        away[0] = False
    assert capsys.readouterr().err.count("no route to host") == 1
    assert (there / JOURNAL).read_bytes() == b"{}\n"


def test_what_cannot_be_copied_in_the_end_stays(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, content: bytes) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(object_store, "replace_file", refuse)
    with pytest.raises(StorageError, match="Access Denied; what is not there is in") as caught:  # noqa: SIM117
        with open_output(url(there)) as output:
            write_state(output.folder)
    left = Path(str(caught.value.strerror).rpartition(" ")[2])
    monkeypatch.undo()
    monkeypatch.setenv("ENTRODROP_CACHE", str(there.parents[1] / "cache"))
    with open_output(url(there)):
        assert (left / JOURNAL).exists()


def test_a_folder_is_worked_in_as_it_is(tmp_path: Path) -> None:
    with open_output(str(tmp_path)) as output:
        assert output == Output(tmp_path, tmp_path)
    with open_for_reading(str(tmp_path)) as folder:
        assert folder == tmp_path


def test_a_copy_has_all_but_checkpoints(there: Path, tmp_path: Path) -> None:
    there.mkdir(parents=True)
    write_state(there)
    (there / "checkpoints").mkdir()
    (there / "checkpoints" / "shard").write_bytes(b"large")
    target = place(url(there))
    assert not isinstance(target, Path)
    fetch_output(target, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {RESOLVED, EVENTS, JOURNAL, CURSOR}
