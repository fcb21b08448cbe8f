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
from peft import PeftModel

from search.tracking.mlflow_runs import write_model
from tests import tiny
from tests.search.tracking.memory import EXPECTED, Client, Search, a_search, wait_for_error
from trainables.models.loading import load_model
from trainables.settings import Lora, ModelSettings
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


@pytest.mark.faults
def test_a_registered_model_has_its_adapters(tmp_path: Path) -> None:
    warm = WarmModel(tiny.prepared(tmp_path / "cache"), tiny.CPU, ModelSettings(lora=Lora(2, 4.0)))
    Run(warm, tiny.settings()).save_model(tmp_path / "kept")
    write_model(tmp_path / "kept", tmp_path / "registered")
    assert mlflow.transformers.load_model(str(tmp_path / "registered"))("anna has", max_new_tokens=1)
    base = load_model(warm.prepared.folder, tiny.CPU)
    assert PeftModel.from_pretrained(base, tmp_path / "registered" / "adapter")


@pytest.mark.faults
def test_a_real_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "summary.json").write_text("{}")
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    first = Search(uri, tmp_path)
    first.started(budget={"trials": 1})
    first.prepared("0" * 64)
    first.begun(0, mask_ratio=0.5)
    first.evaluated(0, 100, loss=6.0)
    first.evaluated(0, 200, loss=math.nan, norm=math.inf)
    first.ended(0, "failed", objective=6.0)
    first.over("KILLED")
    assert first.close(120), first.last_error
    # The second part of the search has a larger budget.
    second = Search(uri, tmp_path)
    second.started(budget={"trials": 2})
    second.prepared("0" * 64)
    second.begun(0, mask_ratio=0.5)
    second.evaluated(0, 300, loss=5.0)
    second.ended(0)
    second.over(parameters={"best.mask_ratio": 0.5}, metrics={"best": 5.0}, files=["summary.json"])
    assert second.close(120), second.last_error
    assert capfd.readouterr() == ("", "")

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    parent, child = (client.get_run(str(first.run_id(key))) for key in ("", "nano/0"))
    assert (parent.info.run_name, parent.info.status) == ("math", "FINISHED")
    assert parent.data.params == {"budget.trials": "1", "best.mask_ratio": "0.5"}
    assert parent.data.tags.pop("search.key").endswith("/")
    tags = {"kind": "search", "budget.trials": "2", "mlflow.runName": "math", "state": "finished"}
    assert tags.items() <= parent.data.tags.items()
    assert parent.data.metrics == {"best": 5.0}
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["summary.json"]
    assert (tmp_path / "runs/mlartifacts" / parent.info.run_id / "artifacts/summary.json").exists()
    assert (child.info.run_name, child.info.status) == ("nano/0 entrodrop", "FINISHED")
    assert child.data.params == {"model": "nano", "arm": "entrodrop", "mask_ratio": "0.5"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["model"], child.data.tags["state"]) == ("nano", "complete")
    (used,) = child.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("files, nano", "0" * 36)
    assert json.loads(used.dataset.source)["path"] == "a.jsonl"
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
        written = Search(f"http://127.0.0.1:{server.server_port}", tmp_path)
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
    later = Search(client, tmp_path)
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
    written = Search(uri, tmp_path, Lossy)
    a_search(written)
    written.begun(1, "odd", study='it\'s "1"')
    written.ended(1, study='it\'s "1"', objective=math.nan)
    assert written.close(120), written.last_error
    assert Lossy.lost == {"create_run", "set_terminated", *(f"log_batch of {k}" for k in ("params", "tags", "metrics"))}
    client = MlflowClient(uri)
    runs = client.search_runs(["1"])
    assert sorted(run.info.run_name for run in runs) == ['it\'s "1"/1 odd', "math", "nano/0 entrodrop"]
    child = str(written.run_id("nano/0"))
    assert [(m.step, m.value) for m in client.get_metric_history(child, "loss")] == EXPECTED
    assert [m.value for m in client.get_metric_history(child, "objective")] == [5.0]
    assert len(client.get_metric_history(str(written.run_id('it\'s "1"/1')), "objective")) == 1
