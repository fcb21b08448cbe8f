import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Takes seconds on a busy machine, and must not count against the time that a test gives `close`.
import mlflow.entities
import pytest

from search.tracking import Tracker, mask_secrets


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking._FIRST_DELAY", 0.01)
    monkeypatch.setattr("search.tracking._LAST_DELAY", 0.05)


class RefusedError(Exception):
    error_code = "INVALID_PARAMETER_VALUE"


class MissingError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class Client:
    """A client in memory, which is away as long as `away` is set."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.artifact_store_works = True
        self.runs: dict[str, dict[str, Any]] = {}
        self.requests = 0

    def _request(self) -> None:
        self.requests += 1
        if self.away.is_set():
            raise ConnectionError("no answer from http://user:secret@host/")

    def get_experiment_by_name(self, name: str) -> Any:
        self._request()
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        self._request()
        if run_name == "refused":
            raise RefusedError("the experiment is deleted")
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {"name": run_name, "tags": dict(tags), "params": {}, "metrics": [], "files": {}}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> Any:
        self._request()
        if run_id not in self.runs:
            raise MissingError(f"Run with id={run_id} not found")
        run = self.runs[run_id]
        info = SimpleNamespace(lifecycle_stage="deleted" if run.get("deleted") else "active")
        return SimpleNamespace(info=info, data=SimpleNamespace(params=dict(run["params"])))

    def update_run(self, run_id: str, status: str) -> None:
        self._request()
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._request()
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        run = self.runs[run_id]
        if any(run["params"].get(p.key, p.value) != p.value for p in params):
            raise RefusedError("Changing param values is not allowed")
        if any(m.value is None for m in metrics):
            raise RefusedError("Missing value")
        run["metrics"] += [(m.step, m.key, m.value) for m in metrics]
        run["params"] |= {p.key: p.value for p in params}
        run["tags"] |= {t.key: t.value for t in tags}

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._request()
        if not self.artifact_store_works:
            raise OSError("no space left on device")
        self.runs[run_id]["files"][name] = text

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._request()
        self.runs[run_id]["status"] = status


def tracker(client: Client) -> Tracker:
    return Tracker("http://user:secret@host", "e", client=lambda uri: client)


def a_search(into: Tracker, evaluations: int = 3) -> None:
    into.start_search("math", {"seed": 0}, {"kind": "search"}, {"space.yaml": "models: []"})
    into.start_trial("nano/0", "nano 0", {"mask_ratio": 0.5}, {"state": "running"})
    for k in range(evaluations):
        into.evaluation("nano/0", {"loss": 6.0 - k, "high_entropy_loss": 7.0 - k}, tokens=100 * (k + 1))
    into.end_trial("nano/0", "FINISHED", metrics={"objective": 5.0}, tags={"state": "complete"})
    into.end_search("FINISHED", {}, {"best": 5.0}, {}, [])


EXPECTED = [(100, 6.0), (200, 5.0), (300, 4.0)]


def test_a_search_and_its_trial() -> None:
    client = Client()
    written = tracker(client)
    a_search(written)
    assert written.close(10)
    parent, child = client.runs["run0"], client.runs["run1"]
    assert (parent["name"], parent["status"]) == ("math", "FINISHED")
    assert parent["files"] == {"space.yaml": "models: []"}
    assert child["tags"] == {"mlflow.parentRunId": "run0", "state": "complete"}
    assert child["params"] == {"mask_ratio": "0.5"}
    assert [(step, value) for step, key, value in child["metrics"] if key == "loss"] == EXPECTED
    assert written.run_id() == "run0"
    assert written.run_id("nano/0") == "run1"


def test_the_caller_never_waits_and_nothing_is_lost_or_doubled_while_the_server_is_away() -> None:
    client = Client()
    client.away.set()
    written = tracker(client)
    began = time.monotonic()
    a_search(written)
    assert time.monotonic() - began < 0.2
    assert written.run_id("nano/0", timeout=0.1) is None
    client.away.clear()
    assert written.close(20)
    metrics = client.runs["run1"]["metrics"]
    assert [(step, value) for step, key, value in metrics if key == "loss"] == EXPECTED
    assert len(metrics) == 2 * 3 + 1


def test_what_was_not_delivered_is_told_without_the_password() -> None:
    client = Client()
    client.away.set()
    written = tracker(client)
    a_search(written)
    assert not written.close(0.2)
    assert written.undelivered > 0
    assert "no answer from http://user:***@host/" in written.last_error


def test_many_evaluations_go_in_few_requests() -> None:
    client = Client()
    client.away.set()
    written = tracker(client)
    a_search(written, evaluations=1000)
    client.away.clear()
    assert written.close(20)
    assert len(client.runs["run1"]["metrics"]) == 2001
    assert client.requests < 40


def test_passwords_are_masked_in_what_is_stored() -> None:
    assert mask_secrets("postgresql://me:pw@host/db") == "postgresql://me:***@host/db"
    assert mask_secrets("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    client = Client()
    written = tracker(client)
    written.start_search("math", {"tracking.uri": "http://me:pw@host"}, {}, {})
    assert written.close(10)
    assert client.runs["run0"]["params"] == {"tracking.uri": "http://me:***@host"}


def test_a_run_can_be_gone_on_with() -> None:
    client = Client()
    first = tracker(client)
    first.start_search("math", {}, {}, {})
    assert first.close(10)
    second = tracker(client)
    second.start_search("math", {}, {"again": "yes"}, {}, run_id="run0")
    assert second.close(10)
    assert list(client.runs) == ["run0"]
    assert client.runs["run0"]["tags"] == {"again": "yes"}
    assert client.runs["run0"]["status"] == "RUNNING"


def test_a_param_that_changed_on_resume_becomes_a_tag() -> None:
    client = Client()
    first = tracker(client)
    first.start_search("math", {"budget.trials": 4, "seed": 0}, {}, {})
    assert first.close(10)
    second = tracker(client)
    second.start_search("math", {"budget.trials": 8, "seed": 0, "new": 1}, {}, {}, run_id="run0")
    second.end_search("FINISHED", {"seed": 1}, {}, {}, [])
    assert second.close(10)
    run = client.runs["run0"]
    assert run["params"] == {"budget.trials": "4", "seed": "0", "new": "1"}
    assert run["tags"] == {"budget.trials": "8", "seed": "1"}
    assert run["status"] == "FINISHED"


@pytest.mark.parametrize("deleted", [True, False])
def test_a_run_that_is_gone_is_begun_anew(deleted: bool) -> None:
    client = Client()
    if deleted:
        client.create_run("1", 0, {}, "old")
        client.runs["run0"]["deleted"] = True
    again = tracker(client)
    again.start_search("math", {}, {"a": "b"}, {}, run_id="run0")
    assert again.close(10)
    run_id = "run1" if deleted else "run0"
    assert again.run_id() == run_id
    assert (client.runs[run_id]["name"], client.runs[run_id]["tags"]) == ("math", {"a": "b"})


def test_an_outage_in_the_middle_loses_nothing() -> None:
    client = Client()
    written = tracker(client)
    written.start_search("math", {}, {}, {})
    written.start_trial("nano/0", "nano 0", {}, {})
    assert written.run_id("nano/0", timeout=10) == "run1"
    client.away.set()
    for k in range(20):
        written.evaluation("nano/0", {"loss": float(k)}, tokens=k)
        time.sleep(0.01)
    assert "ConnectionError" in written.last_error
    client.away.clear()
    written.end_trial("nano/0", "KILLED")
    assert written.close(10)
    assert client.runs["run1"]["metrics"] == [(k, "loss", float(k)) for k in range(20)]
    assert client.runs["run1"]["status"] == "KILLED"


def test_evaluations_of_trials_that_run_at_the_same_time_are_batched() -> None:
    client = Client()
    client.away.set()
    written = tracker(client)
    written.start_search("math", {}, {}, {})
    for trial in range(4):
        written.start_trial(f"nano/{trial}", f"nano {trial}", {}, {})
    for k in range(100):
        for trial in range(4):
            written.evaluation(f"nano/{trial}", {"loss": float(k)}, tokens=k)
    for trial in range(4):
        written.end_trial(f"nano/{trial}", "FINISHED")
    client.requests = 0
    client.away.clear()
    assert written.close(10)
    assert client.requests < 40
    for trial in range(4):
        assert client.runs[f"run{trial + 1}"]["metrics"] == [(k, "loss", float(k)) for k in range(100)]


def test_more_values_than_a_request_may_have() -> None:
    client = Client()
    written = tracker(client)
    names = [f"p{i}" for i in range(250)]
    written.start_search("math", dict.fromkeys(names, 1), dict.fromkeys(names, "1"), {})
    assert written.close(10)
    assert client.runs["run0"]["params"] == client.runs["run0"]["tags"] == dict.fromkeys(names, "1")


def test_a_refused_record_is_told_and_does_not_stop_the_others() -> None:
    client = Client()
    client.away.set()
    written = tracker(client)
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
    assert set(client.runs["run1"]["metrics"]) == {(1, "loss", 1.0), (3, "loss", 3.0)}


def test_an_artifact_store_that_fails_does_not_stop_the_record() -> None:
    client = Client()
    client.artifact_store_works = False
    written = tracker(client)
    a_search(written)
    assert not written.close(10)
    assert written.undelivered == 1
    assert written.last_error == "OSError: no space left on device"
    assert client.runs["run0"]["status"] == client.runs["run1"]["status"] == "FINISHED"


def test_long_values_are_cut_and_texts_are_masked() -> None:
    client = Client()
    written = tracker(client)
    uri = "http://me:p@ss/w:rd@host"
    written.start_search(f"of {uri}", {"long": "x" * 7000}, {"uri": uri}, {"space.yaml": f"uri: {uri}\n"})
    assert written.close(10)
    run = client.runs["run0"]
    assert run["params"] == {"long": "x" * 6000}
    assert (run["name"], run["tags"]) == ("of http://me:***@host", {"uri": "http://me:***@host"})
    assert run["files"] == {"space.yaml": "uri: http://me:***@host\n"}


def test_where_the_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracker(None, "e", lambda uri: Client()).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert Tracker(None, "e", lambda uri: Client()).tracking_uri == "http://server"
    assert Tracker("http://other", "e", lambda uri: Client()).tracking_uri == "http://other"
    relative = Tracker("sqlite:///runs/mlflow.db", "e", lambda uri: Client())
    assert relative.tracking_uri == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_importing_the_module_does_not_import_mlflow() -> None:
    asked = "import sys, search.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.integration
def test_a_real_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    result = tmp_path / "summary.json"
    result.write_text("{}")
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    first = Tracker(uri, "e")
    first.start_search("math", {"budget.trials": 1}, {"kind": "search"}, {"space.yaml": "models: []"})
    first.start_trial("nano/0", "nano 0", {"mask_ratio": 0.5}, {"state": "running", "model": "nano"})
    first.evaluation("nano/0", {"loss": 6.0}, tokens=100)
    first.evaluation("nano/0", {"loss": math.nan, "norm": math.inf}, tokens=200)
    first.end_trial("nano/0", "FAILED", metrics={"objective": 6.0}, tags={"state": "failed", "reason": ""})
    first.end_search("KILLED", {}, {}, {}, [])
    assert first.close(120), first.last_error
    # The second part of the search has a larger budget.
    second = Tracker(uri, "e")
    second.start_search("math", {"budget.trials": 2}, {}, {}, run_id=first.run_id())
    second.start_trial("nano/0", "nano 0", {"mask_ratio": 0.5}, {}, run_id=first.run_id("nano/0"))
    second.evaluation("nano/0", {"loss": 5.0}, tokens=300)
    second.end_trial("nano/0", "FINISHED", tags={"state": "complete"})
    second.end_search("FINISHED", {"best.mask_ratio": 0.5}, {"best": 5.0}, {}, [result])
    assert second.close(120), second.last_error
    assert capfd.readouterr() == ("", "")

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    parent, child = (client.get_run(str(first.run_id(key))) for key in (None, "nano/0"))
    assert (parent.info.run_name, parent.info.status) == ("math", "FINISHED")
    assert parent.data.params == {"budget.trials": "1", "best.mask_ratio": "0.5"}
    assert parent.data.tags == {"kind": "search", "budget.trials": "2", "mlflow.runName": "math"}
    assert parent.data.metrics == {"best": 5.0}
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"space.yaml", "summary.json"}
    assert (tmp_path / "runs/mlartifacts" / parent.info.run_id / "artifacts/space.yaml").exists()
    assert (child.info.run_name, child.info.status) == ("nano 0", "FINISHED")
    assert child.data.params == {"mask_ratio": "0.5"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["model"], child.data.tags["state"]) == ("nano", "complete")
    history = {m.step: m.value for m in client.get_metric_history(child.info.run_id, "loss")}
    assert history == pytest.approx({100: 6.0, 200: math.nan, 300: 5.0}, nan_ok=True)
    # SQL has no infinity: MLflow stores the largest number.
    assert child.data.metrics["norm"] == sys.float_info.max
    assert child.data.metrics["objective"] == 6.0
    assert list(elsewhere.iterdir()) == []
