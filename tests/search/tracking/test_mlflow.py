"""The record against MLflow itself: its SQLite database, and its client with a server that fails."""

import json
import math
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pytest
from mlflow import MlflowClient

from search.tracking import Tracker
from tests.search.tracking.memory import EXPECTED, Client, a_search, tracker, wait_for_error


@pytest.mark.faults
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
    uri, outbox = f"sqlite:///{tmp_path}/runs/mlflow.db", tmp_path / "mlflow.outbox"
    first = Tracker(uri, "e", outbox)
    first.start_search("math", {"budget.trials": 1}, {"kind": "search"}, {"space.yaml": "models: []"})
    first.start_trial("nano/0", "nano 0", {"mask_ratio": 0.5}, {"state": "running", "model": "nano"})
    first.evaluation("nano/0", {"loss": 6.0}, tokens=100)
    first.evaluation("nano/0", {"loss": math.nan, "norm": math.inf}, tokens=200)
    for _ in range(2):
        first.data("problems, nano", "0" * 64, {"source": "files", "path": "problems.jsonl"}, "nano/0")
    first.end_trial("nano/0", "FAILED", metrics={"objective": 6.0}, tags={"state": "failed", "reason": ""})
    first.end_search("KILLED", {}, {}, {}, [])
    assert first.close(120), first.last_error
    # The second part of the search has a larger budget.
    second = Tracker(uri, "e", outbox)
    second.start_search("math", {"budget.trials": 2}, {}, {})
    second.start_trial("nano/0", "nano 0", {"mask_ratio": 0.5}, {})
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
    assert parent.data.tags.pop("search.key").endswith("/")
    assert parent.data.tags == {"kind": "search", "budget.trials": "2", "mlflow.runName": "math"}
    assert parent.data.metrics == {"best": 5.0}
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"space.yaml", "summary.json"}
    assert (tmp_path / "runs/mlartifacts" / parent.info.run_id / "artifacts/space.yaml").exists()
    assert (child.info.run_name, child.info.status) == ("nano 0", "FINISHED")
    assert child.data.params == {"mask_ratio": "0.5"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["model"], child.data.tags["state"]) == ("nano", "complete")
    (used,) = child.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("problems, nano", "0" * 36)
    assert json.loads(used.dataset.source)["path"] == "problems.jsonl"
    history = {m.step: m.value for m in client.get_metric_history(child.info.run_id, "loss")}
    assert history == pytest.approx({100: 6.0, 200: math.nan, 300: 5.0}, nan_ok=True)
    # SQL has no infinity: MLflow stores the largest number.
    assert child.data.metrics["norm"] == sys.float_info.max
    assert child.data.metrics["objective"] == 6.0
    assert list(elsewhere.iterdir()) == []


class Failing(BaseHTTPRequestHandler):
    """Answers every request with the same error, as a gateway does whose server is away, when it may."""

    status = 503
    answers: threading.Event

    def do_GET(self) -> None:
        self.answers.wait()
        self.send_error(self.status)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.mark.faults
@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_server_that_fails_or_is_slow_holds_nothing_up_and_refuses_nothing(tmp_path: Path, status: int) -> None:
    answers = threading.Event()
    handler = type("Handler", (Failing,), {"status": status, "answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        written = Tracker(f"http://127.0.0.1:{server.server_port}", "e", tmp_path / "mlflow.outbox")
        # Nothing is answered before it has ended.
        a_search(written)
        answers.set()
        wait_for_error(written)
        assert str(status) in written.last_error
        written.close(0)
        server.shutdown()
    # Another process finds a server that works.
    assert written.undelivered > 0
    client = Client()
    later = tracker(client, tmp_path)
    assert later.close(20)
    assert client.history("run1", "loss") == EXPECTED


class Lossy(MlflowClient):  # type: ignore[misc]
    """Loses the first answer to what it writes."""

    lost: ClassVar[set[str]] = set()

    def _lose(self, method: str) -> None:
        if method not in self.lost:
            self.lost.add(method)
            raise ConnectionError(f"the answer to {method} was lost")

    def create_run(self, *arguments: Any, **named: Any) -> Any:
        run = super().create_run(*arguments, **named)
        self._lose("create_run")
        return run

    def log_batch(self, *arguments: Any, **named: Any) -> Any:
        super().log_batch(*arguments, **named)
        self._lose(f"log_batch of {', '.join(named)}")

    def set_terminated(self, *arguments: Any, **named: Any) -> None:
        super().set_terminated(*arguments, **named)
        self._lose("set_terminated")


@pytest.mark.faults
def test_lost_answers_make_nothing_twice_in_a_real_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    written = Tracker(uri, "e", tmp_path / "mlflow.outbox", Lossy)
    a_search(written)
    written.start_trial('it\'s "1"', "odd", {}, {})
    written.end_trial('it\'s "1"', "FINISHED", metrics={"objective": math.nan})
    assert written.close(120), written.last_error
    assert Lossy.lost == {"create_run", "set_terminated", *(f"log_batch of {k}" for k in ("params", "tags", "metrics"))}
    client = MlflowClient(uri)
    runs = client.search_runs(["1"])
    assert sorted(run.info.run_name for run in runs) == ["math", "nano 0", "odd"]
    child = str(written.run_id("nano/0"))
    assert [(m.step, m.value) for m in client.get_metric_history(child, "loss")] == EXPECTED
    assert [m.value for m in client.get_metric_history(child, "objective")] == [5.0]
    assert len(client.get_metric_history(str(written.run_id('it\'s "1"')), "objective")) == 1
