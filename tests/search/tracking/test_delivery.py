"""What MLflow has of a search's events, whatever becomes of it, of the search and of MLflow."""

import json
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Takes seconds on a busy machine, and must not count against the time that a test gives `close`.
import mlflow.entities  # noqa: F401
import pytest

from search.environment import tracking_uri
from search.output.events import OutboxEntry, SlotsChanged
from search.tracking.delivery import Delivery, undelivered_models
from search.tracking.mlflow_runs import describe_pages, new_client
from tests import DEADLINE_S
from tests.search.tracking.memory import EXPECTED, Client, LockedError, Search, a_search
from trainables.errors import ConfigError, mask_secrets


def test_a_search_and_its_trial(tmp_path: Path) -> None:
    client = Client()
    (tmp_path / "space.yaml").write_text("models: []")
    search = Search(client, tmp_path)
    search.started(files=["space.yaml"], seed=0, data={"train": 8})
    search.prepared("0" * 64)
    search.begun(0, mask_ratio=0.5, curriculum={"shape": "step", "at": 0.3})
    search.evaluated(0, 100, loss=6.0, a_new_one=1.0)
    search.ended(0, objective=6.0)
    search.write(SlotsChanged(slots=2))
    search.over(metrics={"best": 6.0}, tags={"nano.verdict": "worse"}, parameters={"best.x": 1}, description="- words")
    assert search.close(10)
    parent, child = client.runs["run0"], client.runs["run1"]
    assert (parent["name"], parent["status"]) == ("math", "FINISHED")
    assert parent["files"] == {"space.yaml": "models: []"}
    assert parent["params"] == {"seed": "0", "data.train": "8", "best.x": "1"}
    assert client.tags("run0", "kind", "state", "nano.verdict", "mlflow.note.content", "data files, nano") == {
        "kind": "search",
        "state": "finished",
        "nano.verdict": "worse",
        "mlflow.note.content": "- words",
        "data files, nano": "0" * 36,
    }
    assert (child["name"], child["status"]) == ("nano/0 step 0.3", "FINISHED")
    assert client.tags("run1", "mlflow.parentRunId", "model", "stage", "trial", "state", "curriculum.shape") == {
        "mlflow.parentRunId": "run0",
        "model": "nano",
        "stage": "search",
        "trial": "0",
        "state": "complete",
        "curriculum.shape": "step",
    }
    assert child["tags"]["data files, nano"] == "0" * 36
    assert parent["tags"]["search.key"] + "nano/0" == child["tags"]["search.key"]
    assert client.params("run1") == {"mask_ratio": "0.5", "curriculum.shape": "step", "curriculum.at": "0.3"}
    assert child["metrics"] == [(100, "loss", 6.0), (100, "a_new_one", 1.0), (0, "objective", 6.0)]
    assert (search.run_id(), search.run_id("nano/0")) == ("run0", "run1")
    # Runs are looked for only where they may be there already.
    assert client.asked["search_runs"] == client.asked["get_run"] == 0


@pytest.mark.parametrize("error", [ConnectionError, LockedError])
def test_the_search_never_waits_and_nothing_is_lost_or_doubled_while_the_server_is_away(
    tmp_path: Path, error: type[Exception]
) -> None:
    client = Client()
    client.error = error
    client.away.set()
    search = Search(client, tmp_path)
    began = time.monotonic()
    a_search(search)
    assert time.monotonic() - began < 0.5
    assert search.run_id("nano/0") is None
    client.away.clear()
    assert search.close(20)
    assert client.history("run1", "loss") == EXPECTED
    assert len(client.runs["run1"]["metrics"]) == 2 * 3 + 1


def test_what_was_not_delivered_is_told_without_the_password(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    search = Search(client, tmp_path)
    a_search(search)
    assert not search.close(0.2)
    assert search.undelivered == 7
    assert "no answer from http://user:***@host/" in search.last_error


def test_the_end_does_not_wait_long_for_a_server_that_is_known_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.tracking.delivery._AWAY_TIMEOUT", 0.1)
    client = Client()
    client.away.set()
    search = Search(client, tmp_path)
    a_search(search)
    began = time.monotonic()
    assert not search.close(60)
    assert time.monotonic() - began < 10


def test_another_process_delivers_the_rest_into_the_same_runs(tmp_path: Path) -> None:
    client = Client()
    first = Search(client, tmp_path)
    first.started(seed=0)
    first.begun(0)
    first.evaluated(0, 100, loss=6.0)
    assert first.flush(10)
    client.away.set()
    first.evaluated(0, 200, loss=5.0)
    first.begun(1)
    first.evaluated(1, 100, loss=3.0)
    assert not first.close(0.1)
    # Killed within a line.
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1')
    client.away.clear()
    second = Search(client, tmp_path)
    # The trial goes on from its checkpoint, before its last evaluation.
    second.started(seed=0)
    second.begun(0, again=True)
    second.evaluated(0, 200, loss=5.0, seconds=2.0)
    second.evaluated(0, 300, loss=4.0)
    second.ended(0, objective=4.0)
    assert second.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math", "nano/0 entrodrop", "nano/1 entrodrop"]
    assert client.history("run1", "loss") == EXPECTED
    assert client.history("run1", "seconds") == []
    assert client.history("run2", "loss") == [(100, 3.0)]
    assert client.params("run1") == {"again": "True"}
    assert client.runs["run1"]["status"] == "FINISHED"


def test_a_trial_that_ends_again_has_its_last_values_once(tmp_path: Path) -> None:
    client = Client()
    for _ in range(2):
        # Killed after the event and before the study had the trial's end.
        part = Search(client, tmp_path)
        part.started()
        part.begun(0)
        part.ended(0, objective=5.0, test=6.0)
        assert part.close(10)
        time.sleep(0.002)
    assert client.runs["run1"]["metrics"] == [(0, "objective", 5.0), (0, "test", 6.0)]
    assert (client.runs["run1"]["tags"]["state"], client.runs["run1"]["status"]) == ("complete", "FINISHED")


def test_a_driver_that_is_killed_between_two_requests_sends_nothing_twice(tmp_path: Path) -> None:
    class Dying(Client):
        """Does what is asked, as often as it is told to, and then nothing any more."""

        left = 0

        def _request(self, method: str) -> None:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError("killed")
            super()._request(method)

    client = Dying()
    writes = Search(client, tmp_path)
    a_search(writes)
    assert not writes.close(0.1)
    for left in range(40):
        client.left = left
        part = Search(client, tmp_path)
        if part.close(0.1):
            break
        # Its last line may be cut short.
        cursor = tmp_path / "mlflow.cursor"
        cursor.write_bytes(cursor.read_bytes() + b'{"offset": 1')
    assert part.undelivered == 0
    assert [run["name"] for run in client.runs.values()] == ["math", "nano/0 entrodrop"]
    assert client.history("run1", "loss") == EXPECTED
    assert client.history("run1", "objective") == [(0, 5.0)]
    assert client.runs["run0"]["status"] == client.runs["run1"]["status"] == "FINISHED"


def test_lost_answers_make_nothing_twice(tmp_path: Path) -> None:
    client = Client()
    client.lost["create_run"], client.lost["log_batch"] = 2, 3
    search = Search(client, tmp_path)
    a_search(search)
    assert search.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math", "nano/0 entrodrop"]
    assert client.history("run1", "loss") == EXPECTED
    assert client.history("run1", "objective") == [(0, 5.0)]


def test_a_run_that_a_request_made_too_late_is_deleted(tmp_path: Path) -> None:
    class Slow(Client):
        """Makes a run long after the request was given up."""

        def search_runs(self, experiment_ids: list[str], filter_string: str) -> Any:
            found = super().search_runs(experiment_ids, filter_string)
            return found if self.asked["search_runs"] > 1 else []

    client = Slow()
    client.lost["create_run"] = 1
    search = Search(client, tmp_path)
    search.started(seed=0)
    search.over()
    assert search.close(10)
    assert [client.deleted(run_id) for run_id in client.runs] == [True, False]
    assert client.runs["run1"]["params"] == {"seed": "0"}


def test_a_copy_of_a_search_that_went_on_looks_for_its_runs(tmp_path: Path) -> None:
    client = Client()
    search = Search(client, tmp_path)
    search.started()
    search.begun(0)
    assert search.flush(10)
    cursor = tmp_path / "mlflow.cursor"
    copy, lines = cursor.read_text(), (tmp_path / "events.jsonl").read_text()
    search.begun(1)
    assert search.close(10)
    # The driver and its folder are lost; what is left is a little older than what MLflow knows.
    cursor.write_text(copy + '{"copied": true}\n')
    (tmp_path / "events.jsonl").write_text(lines)
    again = Search(client, tmp_path)
    again.begun(1)
    assert again.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math", "nano/0 entrodrop", "nano/1 entrodrop"]
    # Not even the events are those that were read.
    (tmp_path / "events.jsonl").write_text(lines.splitlines(keepends=True)[0])
    assert Search(client, tmp_path).close(10)
    assert len(client.runs) == 3


def test_many_evaluations_go_in_few_requests(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    search = Search(client, tmp_path)
    a_search(search, evaluations=1000)
    client.asked.clear()
    client.away.clear()
    assert search.close(20)
    assert len(client.runs["run1"]["metrics"]) == 2001
    assert client.asked.total() < 40


def test_passwords_are_masked_in_what_is_sent(tmp_path: Path) -> None:
    assert mask_secrets("postgresql://me:pw@host/db") == "postgresql://me:***@host/db"
    assert mask_secrets("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    client = Client()
    uri = "http://me:pw_that@host"
    (tmp_path / "best_schedule.builtin-nano.yaml").write_text(f"tracking: {{uri: '{uri}'}}\nname: é\n", "utf-8")
    search = Search(client, tmp_path)
    search.started(f"of {uri}", tracking={"uri": uri})
    search.over(tags={"uri": uri}, files=["best_schedule.builtin-nano.yaml"])
    assert search.close(10)
    run = client.runs["run0"]
    assert (run["name"], client.tags("run0", "uri")) == ("of http://me:***@host", {"uri": "http://me:***@host"})
    assert run["params"] == {"tracking.uri": "http://me:***@host"}
    assert run["files"] == {"best_schedule.builtin-nano.yaml": "tracking: {uri: 'http://me:***@host'}\nname: é\n"}
    assert b"secret" not in (tmp_path / "mlflow.cursor").read_bytes()


def test_long_values_are_cut(tmp_path: Path) -> None:
    client = Client()
    search = Search(client, tmp_path)
    search.started(long="x" * 7000)
    assert search.close(10)
    assert client.runs["run0"]["params"] == {"long": "x" * 6000}


def test_a_param_that_changed_on_resume_becomes_a_tag(tmp_path: Path) -> None:
    client = Client()
    first = Search(client, tmp_path)
    first.started(budget={"trials": 4}, seed=0)
    assert first.close(10)
    second = Search(client, tmp_path)
    second.started(budget={"trials": 8}, seed=0, new=1)
    second.over(parameters={"seed": 1})
    assert second.close(10)
    run = client.runs["run0"]
    assert run["params"] == {"budget.trials": "4", "seed": "0", "new": "1"}
    assert client.tags("run0", "budget.trials", "seed") == {"budget.trials": "8", "seed": "1"}
    assert run["status"] == "FINISHED"


def test_a_param_that_changed_becomes_a_tag_also_if_another_process_delivers_it(tmp_path: Path) -> None:
    client = Client()
    first = Search(client, tmp_path)
    first.started(seed=0)
    assert first.flush(10)
    client.away.set()
    first.over(parameters={"seed": 1})
    assert not first.close(0.1)
    client.away.clear()
    assert Search(client, tmp_path).close(10)
    assert (client.runs["run0"]["params"], client.tags("run0", "seed")) == ({"seed": "0"}, {"seed": "1"})


@pytest.mark.parametrize("gone", ["deleted", "another server's"])
def test_a_run_that_is_gone_is_begun_anew(tmp_path: Path, gone: str) -> None:
    client = Client()
    first = Search(client, tmp_path)
    first.started()
    assert first.close(10)
    if gone == "deleted":
        client.delete_run("run0")
    else:
        client = Client()
    again = Search(client, tmp_path)
    again.started(seed=3)
    assert again.close(10)
    run_id = "run1" if gone == "deleted" else "run0"
    assert again.run_id() == run_id
    assert (client.runs[run_id]["name"], client.runs[run_id]["params"]) == ("math", {"seed": "3"})


def test_an_outage_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    client = Client()
    search = Search(client, tmp_path)
    search.started()
    search.begun(0)
    assert search.flush(10)
    client.away.set()
    for k in range(20):
        search.evaluated(0, k, loss=float(k))
        time.sleep(0.01)
    assert "ConnectionError" in search.last_error
    client.away.clear()
    search.ended(0, "failed")
    assert search.close(10)
    assert client.history("run1", "loss") == [(k, float(k)) for k in range(20)]
    assert client.runs["run1"]["status"] == "FAILED"


def test_evaluations_of_trials_that_run_at_the_same_time_are_batched(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    search = Search(client, tmp_path)
    search.started()
    for trial in range(4):
        search.begun(trial)
    for k in range(100):
        for trial in range(4):
            search.evaluated(trial, k, loss=float(k))
    for trial in range(4):
        search.ended(trial)
    client.asked.clear()
    client.away.clear()
    assert search.close(10)
    assert client.asked.total() < 50
    for trial in range(4):
        assert client.history(f"run{trial + 1}", "loss") == [(k, float(k)) for k in range(100)]


def test_more_values_than_a_request_may_have(tmp_path: Path) -> None:
    client = Client()
    search = Search(client, tmp_path)
    names = [f"p{i}" for i in range(250)]
    search.started(**dict.fromkeys(names, 1))
    search.over(tags=dict.fromkeys(names, "1"))
    assert search.close(10)
    assert client.runs["run0"]["params"] == client.tags("run0", *names) == dict.fromkeys(names, "1")


def test_a_refused_entry_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    search = Search(client, tmp_path)
    search.started()
    search.begun(0, arm="refused")
    search.evaluated(0, 1, loss=1.0)
    search.begun(1)
    search.evaluated(1, 1, loss=1.0)
    missing: Any = None
    search.evaluated(1, 2, loss=missing)
    search.evaluated(1, 3, loss=3.0)
    client.away.clear()
    assert not search.close(10)
    # The first trial's start and its evaluation, and the evaluation without a value.
    assert search.undelivered == 3
    assert search.last_error == "RefusedError: Missing value"
    assert client.history("run1", "loss") == [(1, 1.0), (3, 3.0)]
    # The next part of the search asks again, for nothing else.
    client.asked.clear()
    again = Search(client, tmp_path)
    assert not again.close(10)
    assert (again.undelivered, client.asked["create_run"], client.asked["log_batch"]) == (3, 1, 1)


def test_a_trial_has_a_page_with_its_curve_its_curriculum_and_what_it_drops(tmp_path: Path) -> None:
    client = Client()
    first = Search(client, tmp_path)
    first.started()
    first.prepared("0" * 64, [[["<b>", None, "kept"], [" 2", 4.0, "learned"], [" + 3", 0.5, "learned"]]])
    first.begun(0, "none", mask_ratio=0.5)
    first.begun(1, curriculum={"shape": "step", "at": 0.25})
    first.begun(2, curriculum={"shape": "linear"})
    first.evaluated(0, 100, high_entropy_loss=6.0)
    # By entropies that are computed anew it drops others; the page has those from before training.
    for tokens, greatest, loss in ((100, 0.5, 6.0), (200, 4.5, 5.25)):
        metrics = {"greatest_dropped_entropy": greatest, "full_mask_rate": 0.3, "high_entropy_loss": loss}
        first.evaluated(1, tokens, **metrics)
    first.ended(0)
    first.ended(2, "failed")
    assert first.close(10)
    # Another process draws it of what this one has left.
    second = Search(client, tmp_path)
    second.ended(1)
    assert second.close(10)
    plain, page = client.runs["run1"]["files"]["trial.html"], client.runs["run2"]["files"]["trial.html"]
    assert client.runs["run3"]["files"] == {}
    assert "Curriculum" not in plain
    assert "Nothing is dropped." in plain
    assert "nano/1 step 0.25" in page
    assert "5.2500 at its least, 5.2500 at last, after 200 of 200 tokens" in page
    assert page.count("<circle") == 2
    assert "Curriculum" in page
    assert "up to 30 %" in page
    assert re.findall(r"<s [^>]*>([^<]*)</s>", page) == [" + 3"]
    assert "&lt;b&gt;" in page
    assert "<script" not in page


def test_the_trials_of_a_search_have_a_view_with_the_settings_that_differ(tmp_path: Path) -> None:
    client = Client()
    search = Search(client, tmp_path)
    search.started()
    search.begun(0, "none", learning_rate=0.1, seed=1)
    search.begun(1, mask_ratio=0.5, learning_rate=0.1, seed=1)
    search.begun(2, mask_ratio=0.6, learning_rate=0.1, seed=1)
    assert search.pages == {}
    search.over()
    assert search.close(10)
    assert search.pages == {"nano": "/#/experiments/1/runs?viewStateShareKey=run0-nano"}
    view = json.loads(client.experiment_tags["mlflow.sharedViewState.run0-nano"])
    assert view["searchFilter"].startswith('tags.mlflow.parentRunId = "run0"')
    assert view["selectedColumns"][-2:] == ["params.`arm`", "params.`mask_ratio`"]


PAGE = "/#/experiments/1/runs?viewStateShareKey=run0-nano"


@pytest.mark.parametrize("uri", ["sqlite:////My Projects é 100% #1/mlflow.db", "sqlite:///plain/mlflow.db"])
def test_the_command_that_opens_mlflow_can_be_pasted(uri: str) -> None:
    command, page = describe_pages(uri, {"nano": PAGE})
    assert shlex.split(command) == ["all", "trials:", "mlflow", "ui", "--backend-store-uri", uri]
    assert page == f"  nano, the best on top: http://127.0.0.1:5000{PAGE}"


def test_the_pages_of_a_server_are_told_without_its_password() -> None:
    told = describe_pages("https://me:secret@host/ml/", {"nano": PAGE})
    assert told == ["all trials: https://me:***@host/ml/", f"  nano, the best on top: https://me:***@host/ml{PAGE}"]


def test_an_artifact_store_that_fails_does_not_stop_the_record(tmp_path: Path) -> None:
    client = Client()
    client.artifact_store_works = False
    (tmp_path / "summary.json").write_text("{}")
    search = Search(client, tmp_path)
    search.started()
    for trial in range(10):
        search.begun(trial)
        search.evaluated(trial, 100, high_entropy_loss=6.0)
        search.ended(trial)
    search.over(files=["summary.json"])
    # It is waited for once, and not with each trial.
    assert not search.close(20)
    assert client.asked["log_text"] == 5 + 9 + 1
    assert search.undelivered == 10 + 1
    assert search.last_error == "OSError: no space left on device"
    assert client.runs["run0"]["status"] == client.runs["run1"]["status"] == "FINISHED"
    client.artifact_store_works = True
    again = Search(client, tmp_path)
    assert again.close(10)
    assert client.runs["run0"]["files"] == {"summary.json": "{}"}
    assert all("trial.html" in client.runs[f"run{n}"]["files"] for n in range(1, 11))
    # And not a third time.
    client.asked.clear()
    assert Search(client, tmp_path).close(10)
    assert client.asked.total() == 0


def test_a_model_is_registered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.registered.add("math-nano")
    client.lost["create_model_version"] = 1

    def write(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "MLmodel").write_text((source / "weights").read_text())

    monkeypatch.setattr("search.tracking.mlflow_runs.write_model", write)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/weights").write_text("1 2 3")
    search = Search(client, tmp_path)
    a_search(search)
    for _ in range(2):
        search.registered(0, "models", "math-nano", {"verdict": "worse"})
    assert undelivered_models(tmp_path / "events.jsonl") in (["models"], [])
    assert search.close(10)
    assert client.versions == [("math-nano", "runs:/run1/model", "run1", {"verdict": "worse"}, "use it")]
    assert client.runs["run1"]["files"]["model/MLmodel"] == "1 2 3"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".model")] == []
    assert undelivered_models(tmp_path / "events.jsonl") == []


def test_files_are_found_in_an_output_folder_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").mkdir()
    for file in ("before/summary.json", "elsewhere.txt"):
        Path(file).write_text(file)
    client = Client()
    client.away.set()
    first = Search(client, Path("before"))
    first.started()
    first.over(files=["summary.json", str(tmp_path / "elsewhere.txt")])
    assert not first.close(0.1)
    client.away.clear()
    Path("before").rename("after")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert Search(client, tmp_path / "after").close(10)
    assert client.runs["run0"]["files"] == {"summary.json": "before/summary.json", "elsewhere.txt": "elsewhere.txt"}


@pytest.mark.parametrize("content", ["no JSON\n", "[1]\n", '{"what": 1}\n', '{"refused": [1]}\n'])
def test_a_damaged_cursor_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mlflow.cursor"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        Search(Client(), tmp_path)
    assert str(raised.value) == f"{path} is damaged; delete it to record all events again, in new MLflow runs"


def test_a_deleted_cursor_records_all_again_in_new_runs(tmp_path: Path) -> None:
    a_search(first := Search(Client(), tmp_path))
    assert first.close(10)
    (tmp_path / "mlflow.cursor").unlink()
    client = Client()
    assert Search(client, tmp_path).close(10)
    assert client.history("run1", "loss") == EXPECTED


def test_what_a_newer_version_wrote_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"time": 1.0, "event": "moon_rose", "phase": "full"}\n')
    client = Client()
    search = Search(client, tmp_path)
    search.write(OutboxEntry(key="", content=["start", {"name": "math", "time_ms": 1}]))
    assert search.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math"]


def test_where_the_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uri(given: str | None) -> str:
        return Delivery(given, "e", tmp_path / "events.jsonl", lambda uri: Client()).tracking_uri

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert uri(None) == "http://server"
    assert uri("http://other") == "http://other"
    assert uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.parametrize("uri", ["file:///runs", "mlruns", "/srv/mlruns"])
def test_a_store_that_mlflow_has_given_up_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=f"^MLFLOW_TRACKING_URI: given {uri}; allowed: sqlite:///PATH, or"):
        tracking_uri(None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "folder is a folder; name another one"),
        ("file/mlflow.db", "mlflow.db lies below file, which is no folder; name another one"),
        ("q? a/mlflow.db", "which no SQLite address can have; name a file in another folder"),
    ],
)
def test_a_file_that_cannot_be_a_database_is_told_at_once(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        tracking_uri(f"sqlite:///{tmp_path}/{name}")
    assert str(caught.value).startswith("tracking.uri: ")
    assert str(caught.value).endswith(told)


def test_a_path_that_cannot_be_looked_at_is_told_by_whoever_opens_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/{'n' * 300}/mlflow.db"
    assert tracking_uri(uri) == uri


@pytest.mark.faults
def test_the_folder_of_a_database_is_made(tmp_path: Path) -> None:
    new_client(f"sqlite:///{tmp_path}/a/b/mlflow.db").create_experiment("e")
    assert (tmp_path / "a/b/mlflow.db").is_file()


@pytest.mark.faults
def test_a_deleted_experiment_is_told_at_once_and_can_be_restored(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.delete_experiment(client.create_experiment("e"))
    search, lines, noted = Search(f"sqlite:///{tmp_path}/mlflow.db", tmp_path), [], threading.Event()
    search.note = lambda line: (lines.append(line), noted.set())
    search.started()
    assert noted.wait(DEADLINE_S)
    assert "tracking.experiment: e has been deleted; restore it (MLFLOW_TRACKING_URI=sqlite:///" in lines[0]
    assert " mlflow experiments restore --experiment-id 1), or name another one" in lines[0]
    client.restore_experiment("1")
    assert search.close(DEADLINE_S)
    assert len(lines) == 1


def test_importing_the_module_does_not_import_mlflow() -> None:
    asked = "import sys, search.tracking.delivery; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
