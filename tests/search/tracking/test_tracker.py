import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Takes seconds on a busy machine, and must not count against the time that a test gives `close`.
import mlflow.entities  # noqa: F401
import pytest

from search.tracking import Tracker
from tests.search.tracking.memory import EXPECTED, Client, LockedError, a_search, tracker, wait_for_error
from trainables.errors import mask_secrets


def test_a_search_and_its_trial(tmp_path: Path) -> None:
    client = Client()
    written = tracker(client, tmp_path)
    a_search(written)
    assert written.close(10)
    parent, child = client.runs["run0"], client.runs["run1"]
    assert (parent["name"], parent["status"]) == ("math", "FINISHED")
    assert parent["files"] == {"space.yaml": "models: []"}
    assert client.tags("run1") == {"mlflow.parentRunId": "run0", "state": "complete"}
    assert parent["tags"]["search.key"] + "nano/0" == child["tags"]["search.key"]
    assert child["params"] == {"mask_ratio": "0.5"}
    assert client.history("run1", "loss") == EXPECTED
    assert written.run_id() == "run0"
    assert written.run_id("nano/0") == "run1"
    # Runs are looked for only where they may be there already.
    assert client.asked["search_runs"] == client.asked["get_run"] == 0


@pytest.mark.parametrize("error", [ConnectionError, LockedError])
def test_the_caller_never_waits_and_nothing_is_lost_or_doubled_while_the_server_is_away(
    tmp_path: Path, error: type[Exception]
) -> None:
    client = Client()
    client.error = error
    client.away.set()
    written = tracker(client, tmp_path)
    began = time.monotonic()
    a_search(written)
    assert time.monotonic() - began < 0.2
    assert written.run_id("nano/0") is None
    client.away.clear()
    assert written.close(20)
    assert client.history("run1", "loss") == EXPECTED
    assert len(client.runs["run1"]["metrics"]) == 2 * 3 + 1


def test_what_was_not_delivered_is_told_without_the_password(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    a_search(written)
    assert not written.close(0.2)
    # The two runs with their values, a file, three evaluations, and the two ends of three records and a file.
    assert written.undelivered == 2 * 2 + 1 + 3 + 2 * 3 + 1
    assert "no answer from http://user:***@host/" in written.last_error


def test_the_end_does_not_wait_long_for_a_server_that_is_known_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.tracking.tracker._AWAY_TIMEOUT", 0.1)
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    a_search(written)
    began = time.monotonic()
    assert not written.close(60)
    assert time.monotonic() - began < 5


def test_another_process_delivers_the_rest_into_the_same_runs(tmp_path: Path) -> None:
    client = Client()
    first = tracker(client, tmp_path)
    first.start_search("math", {"seed": 0}, {}, {})
    first.start_trial("nano/0", "nano 0", {}, {})
    first.evaluation("nano/0", {"loss": 6.0}, tokens=100)
    assert first.flush(10)
    client.away.set()
    first.evaluation("nano/0", {"loss": 5.0}, tokens=200)
    first.start_trial("nano/1", "nano 1", {}, {})
    first.evaluation("nano/1", {"loss": 3.0}, tokens=100)
    assert not first.close(0.1)
    client.away.clear()
    second = tracker(client, tmp_path)
    # The trial goes on from its checkpoint, before its last evaluation.
    second.start_search("math", {"seed": 0}, {}, {})
    second.start_trial("nano/0", "nano 0", {}, {"again": "yes"})
    second.evaluation("nano/0", {"loss": 5.0, "seconds": 2.0}, tokens=200)
    second.evaluation("nano/0", {"loss": 4.0}, tokens=300)
    second.end_trial("nano/0", "FINISHED", metrics={"objective": 4.0})
    assert second.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math", "nano 0", "nano 1"]
    assert client.history("run1", "loss") == EXPECTED
    assert client.history("run1", "seconds") == []
    assert client.history("run2", "loss") == [(100, 3.0)]
    assert client.tags("run1") == {"mlflow.parentRunId": "run0", "again": "yes"}
    assert client.runs["run1"]["status"] == "FINISHED"


def test_a_trial_that_ends_again_has_its_last_values_once(tmp_path: Path) -> None:
    client = Client()
    for _ in range(2):
        # Killed after the record and before the study had the trial's end.
        part = tracker(client, tmp_path)
        part.start_search("math", {}, {}, {})
        part.start_trial("nano/0", "nano 0", {}, {"state": "running"})
        part.end_trial("nano/0", "FINISHED", metrics={"objective": 5.0, "test": 6.0}, tags={"state": "complete"})
        assert part.close(10)
        time.sleep(0.002)
    assert client.runs["run1"]["metrics"] == [(0, "objective", 5.0), (0, "test", 6.0)]
    assert (client.runs["run1"]["tags"]["state"], client.runs["run1"]["status"]) == ("complete", "FINISHED")


def test_lost_answers_make_nothing_twice(tmp_path: Path) -> None:
    client = Client()
    client.lost["create_run"], client.lost["log_batch"] = 2, 3
    written = tracker(client, tmp_path)
    a_search(written)
    assert written.close(10)
    assert [run["name"] for run in client.runs.values()] == ["math", "nano 0"]
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
    written = tracker(client, tmp_path)
    written.start_search("math", {"seed": 0}, {}, {})
    written.end_search("FINISHED", {}, {}, {}, [])
    assert written.close(10)
    assert [client.deleted(run_id) for run_id in client.runs] == [True, False]
    assert client.runs["run1"]["params"] == {"seed": "0"}


def test_many_evaluations_go_in_few_requests(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    a_search(written, evaluations=1000)
    client.asked.clear()
    client.away.clear()
    assert written.close(20)
    assert len(client.runs["run1"]["metrics"]) == 2001
    assert client.asked.total() < 40


def test_passwords_are_masked_in_what_is_stored(tmp_path: Path) -> None:
    assert mask_secrets("postgresql://me:pw@host/db") == "postgresql://me:***@host/db"
    assert mask_secrets("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    uri = "http://me:pw_that@host"
    written.start_search(f"of {uri}", {"tracking.uri": uri}, {"uri": uri}, {"space.yaml": f"uri: {uri}\n"})
    wait_for_error(written)
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"http://me:***@host" in stored
    assert b"pw_that" not in stored
    assert b"secret" not in stored
    client.away.clear()
    assert written.close(10)
    run = client.runs["run0"]
    assert (run["name"], client.tags("run0")) == ("of http://me:***@host", {"uri": "http://me:***@host"})
    assert run["params"] == {"tracking.uri": "http://me:***@host"}
    assert run["files"] == {"space.yaml": "uri: http://me:***@host\n"}


def test_long_values_are_cut(tmp_path: Path) -> None:
    client = Client()
    written = tracker(client, tmp_path)
    written.start_search("math", {"long": "x" * 7000}, {}, {})
    assert written.close(10)
    assert client.runs["run0"]["params"] == {"long": "x" * 6000}


def test_a_param_that_changed_on_resume_becomes_a_tag(tmp_path: Path) -> None:
    client = Client()
    first = tracker(client, tmp_path)
    first.start_search("math", {"budget.trials": 4, "seed": 0}, {}, {})
    assert first.close(10)
    second = tracker(client, tmp_path)
    second.start_search("math", {"budget.trials": 8, "seed": 0, "new": 1}, {}, {})
    second.end_search("FINISHED", {"seed": 1}, {}, {}, [])
    assert second.close(10)
    run = client.runs["run0"]
    assert run["params"] == {"budget.trials": "4", "seed": "0", "new": "1"}
    assert client.tags("run0") == {"budget.trials": "8", "seed": "1"}
    assert run["status"] == "FINISHED"


def test_a_param_that_changed_becomes_a_tag_also_if_another_process_delivers_it(tmp_path: Path) -> None:
    client = Client()
    first = tracker(client, tmp_path)
    first.start_search("math", {"seed": 0}, {}, {})
    assert first.flush(10)
    client.away.set()
    first.end_search("FINISHED", {"seed": 1}, {}, {}, [])
    assert not first.close(0.1)
    client.away.clear()
    assert tracker(client, tmp_path).close(10)
    assert (client.runs["run0"]["params"], client.tags("run0")) == ({"seed": "0"}, {"seed": "1"})


@pytest.mark.parametrize("gone", ["deleted", "another server's"])
def test_a_run_that_is_gone_is_begun_anew(tmp_path: Path, gone: str) -> None:
    client = Client()
    first = tracker(client, tmp_path)
    first.start_search("math", {}, {}, {})
    assert first.close(10)
    if gone == "deleted":
        client.delete_run("run0")
    else:
        client = Client()
    again = tracker(client, tmp_path)
    again.start_search("math", {}, {"a": "b"}, {})
    assert again.close(10)
    run_id = "run1" if gone == "deleted" else "run0"
    assert again.run_id() == run_id
    assert (client.runs[run_id]["name"], client.tags(run_id)) == ("math", {"a": "b"})


def test_an_outage_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    client = Client()
    written = tracker(client, tmp_path)
    written.start_search("math", {}, {}, {})
    written.start_trial("nano/0", "nano 0", {}, {})
    assert written.flush(10)
    client.away.set()
    for k in range(20):
        written.evaluation("nano/0", {"loss": float(k)}, tokens=k)
        time.sleep(0.01)
    assert "ConnectionError" in written.last_error
    client.away.clear()
    written.end_trial("nano/0", "KILLED")
    assert written.close(10)
    assert client.history("run1", "loss") == [(k, float(k)) for k in range(20)]
    assert client.runs["run1"]["status"] == "KILLED"


def test_evaluations_of_trials_that_run_at_the_same_time_are_batched(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    written.start_search("math", {}, {}, {})
    for trial in range(4):
        written.start_trial(f"nano/{trial}", f"nano {trial}", {}, {})
    for k in range(100):
        for trial in range(4):
            written.evaluation(f"nano/{trial}", {"loss": float(k)}, tokens=k)
    for trial in range(4):
        written.end_trial(f"nano/{trial}", "FINISHED")
    client.asked.clear()
    client.away.clear()
    assert written.close(10)
    assert client.asked.total() < 40
    for trial in range(4):
        assert client.history(f"run{trial + 1}", "loss") == [(k, float(k)) for k in range(100)]


def test_more_values_than_a_request_may_have(tmp_path: Path) -> None:
    client = Client()
    written = tracker(client, tmp_path)
    names = [f"p{i}" for i in range(250)]
    written.start_search("math", dict.fromkeys(names, 1), dict.fromkeys(names, "1"), {})
    assert written.close(10)
    assert client.runs["run0"]["params"] == client.tags("run0") == dict.fromkeys(names, "1")


def test_a_refused_record_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    client = Client()
    client.away.set()
    written = tracker(client, tmp_path)
    written.start_search("math", {}, {}, {})
    written.start_trial("nano/0", "refused", {}, {})
    written.evaluation("nano/0", {"loss": 1.0}, tokens=1)
    written.start_trial("nano/1", "nano 1", {}, {})
    written.evaluation("nano/1", {"loss": 1.0}, tokens=1)
    missing: Any = None
    written.evaluation("nano/1", {"loss": missing}, tokens=2)
    written.evaluation("nano/1", {"loss": 3.0}, tokens=3)
    client.away.clear()
    assert not written.close(10)
    # The run with its values and its evaluation, and the evaluation without a value.
    assert written.undelivered == 4
    assert written.last_error == "RefusedError: Missing value"
    assert client.history("run1", "loss") == [(1, 1.0), (3, 3.0)]


def test_an_artifact_store_that_fails_does_not_stop_the_record(tmp_path: Path) -> None:
    client = Client()
    client.artifact_store_works = False
    written = tracker(client, tmp_path)
    a_search(written)
    assert not written.close(10)
    assert written.undelivered == 1
    assert written.last_error == "OSError: no space left on device"
    assert client.runs["run0"]["status"] == client.runs["run1"]["status"] == "FINISHED"
    client.artifact_store_works = True
    assert tracker(client, tmp_path).close(10)
    assert client.runs["run0"]["files"] == {"space.yaml": "models: []"}


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
    written = tracker(client, tmp_path)
    a_search(written)
    for _ in range(2):
        written.register("nano/0", tmp_path / "models", "math-nano", {"verdict": "worse"})
    assert written.close(10)
    assert client.versions == [("math-nano", "runs:/run1/model", "run1", {"verdict": "worse"})]
    assert client.runs["run1"]["files"] == {"model/MLmodel": "1 2 3"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".model")] == []


def test_files_are_found_in_an_output_folder_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").mkdir()
    for file in ("before/summary.json", "elsewhere.txt"):
        Path(file).write_text(file)
    client = Client()
    client.away.set()
    first = tracker(client, Path("before"))
    first.start_search("math", {}, {}, {})
    first.end_search("FINISHED", {}, {}, {}, [Path("before/summary.json"), Path("elsewhere.txt")])
    assert not first.close(0.1)
    client.away.clear()
    Path("before").rename("after")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert tracker(client, tmp_path / "after").close(10)
    assert client.runs["run0"]["files"] == {"summary.json": "before/summary.json", "elsewhere.txt": "elsewhere.txt"}


def test_passwords_in_files_are_masked(tmp_path: Path) -> None:
    schedule = tmp_path / "best_schedule.builtin-nano.yaml"
    schedule.write_text("tracking: {uri: 'http://me:pw@host'}\nname: é\n", encoding="utf-8")
    client = Client()
    written = tracker(client, tmp_path)
    written.start_search("math", {}, {}, {})
    written.end_search("FINISHED", {}, {}, {}, [schedule])
    assert written.close(10)
    assert client.runs["run0"]["files"] == {schedule.name: "tracking: {uri: 'http://me:***@host'}\nname: é\n"}


def test_where_the_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uri(given: str | None) -> str:
        return Tracker(given, "e", tmp_path / "mlflow.outbox", lambda uri: Client()).tracking_uri

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert uri(None) == "http://server"
    assert uri("http://other") == "http://other"
    assert uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_importing_the_module_does_not_import_mlflow() -> None:
    asked = "import sys, search.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
