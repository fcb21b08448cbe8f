"""python -m search.sync: its exit codes and lines."""

from pathlib import Path

import pytest

# Takes seconds on a busy machine, and must not count against the timeouts.
from search.output.events import SearchEnded, append_events
from search.output.folder import EVENTS
from search.sync import main
from search.tracking.delivery import Delivery
from tests.search.tracking.memory import Client, Search


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking.delivery._FIRST_DELAY", 0.01)
    monkeypatch.setattr("search.tracking.delivery._LAST_DELAY", 0.05)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()

    def connected(uri: str | None, experiment: str, events: Path) -> Delivery:
        assert experiment == "mine"
        return Delivery(uri, experiment, events, lambda uri: client)

    monkeypatch.setattr("search.sync.Delivery", connected)
    return client


@pytest.fixture
def searched(tmp_path: Path, client: Client) -> Path:
    """The folder of a search during which MLflow was away."""
    folder = tmp_path / "math"
    folder.mkdir()
    uri = "http://user:secret@host"
    (folder / "resolved.yaml").write_text(f"name: math\ntracking: {{experiment: mine, uri: '{uri}'}}\n")
    client.away.set()
    search = Search(client, folder)
    search.started(seed=0)
    search.begun(0)
    search.evaluated(0, 100, loss=6.0)
    assert not search.close(0.05)
    return folder


def test_what_is_left_is_delivered_once(searched: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.away.clear()
    assert main([str(searched)]) == 0
    assert capsys.readouterr() == ("delivered 3 events to http://user:***@host\n", "")
    assert main([str(searched)]) == 0
    assert capsys.readouterr() == ("delivered 0 events to http://user:***@host\n", "")
    assert [run["name"] for run in client.runs.values()] == ["math", "nano/0 entrodrop"]
    assert client.history("run1", "loss") == [(100, 6.0)]


def test_the_pages_of_a_search_that_ended_are_told(
    searched: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    append_events(searched / EVENTS, SearchEnded(status="FINISHED"))
    client.away.clear()
    assert main([str(searched)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "delivered 4 events to http://user:***@host"
    assert lines[-1].startswith("  nano, the best on top: http://user:***@host/#/experiments/1/")


def test_mlflow_is_still_away(searched: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(searched), "--timeout", "0.2"]) == 1
    error = "ConnectionError: no answer from http://user:***@host/"
    assert capsys.readouterr() == (
        "delivered 0 events to http://user:***@host\n",
        f"MLflow has not taken 3 events: {error}\n",
    )


def test_mlflow_refuses_an_event(searched: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.away.clear()
    client.artifact_store_works = False
    search = Search(client, searched)
    search.over(files=["resolved.yaml"])
    assert not search.close(10)
    assert search.undelivered == 1
    assert main([str(searched)]) == 1
    assert capsys.readouterr() == (
        "delivered 0 events to http://user:***@host\n",
        "MLflow has not taken 1 event: OSError: no space left on device\n",
    )


def test_a_folder_that_holds_no_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr() == ("", f"DIR: {tmp_path}/none holds no search; name the output folder of one\n")


@pytest.mark.parametrize("content", ["", "name: math", "tracking: {uri: 1}", "a: [", "- tracking"])
def test_a_search_whose_space_is_damaged(searched: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (searched / "resolved.yaml").write_text(content)
    assert main([str(searched)]) == 2
    told = "has no block tracking; put the file back as the search wrote it"
    assert capsys.readouterr() == ("", f"{searched}/resolved.yaml {told}\n")


@pytest.mark.parametrize("name", ["mlflow.cursor", "mlflow.outbox"])
def test_a_damaged_file(searched: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (searched / "mlflow.cursor").unlink()
    (searched / name).write_text("nothing of a search's\n" * 1000)
    assert main([str(searched)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{searched}/{name} is damaged; delete it")


def test_damaged_events(searched: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    with (searched / "events.jsonl").open("a") as file:
        file.write("no JSON\n")
    client.away.clear()
    assert main([str(searched)]) == 2
    problem = "this line has no event; put the file back as the search wrote it"
    assert capsys.readouterr() == ("", f"DIR: {searched}/events.jsonl:4: {problem}\n")
    assert client.runs == {}


def test_a_cursor_that_cannot_be_opened(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (searched / "mlflow.cursor").unlink()
    (searched / "mlflow.cursor").mkdir()
    assert main([str(searched)]) == 1
    assert capsys.readouterr() == ("", f"{searched}/mlflow.cursor: Is a directory\n")


@pytest.mark.parametrize("given", ["0", "-1", "nan", "soon"])
def test_a_timeout_that_is_none(searched: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([str(searched), f"--timeout={given}"])
    assert raised.value.code == 2
    assert f"argument --timeout: given {given}; allowed: seconds, above 0" in capsys.readouterr().err


def test_a_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["x" * 300]) == 2
    assert capsys.readouterr().err.endswith(
        "... cannot be read (File name too long); name the output folder of a search\n"
    )


def test_an_endless_timeout_is_one(searched: Path, client: Client) -> None:
    client.away.clear()
    assert main([str(searched), "--timeout=inf"]) == 0
