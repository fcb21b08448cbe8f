"""Confirmed schedules, found in MLflow."""

import os
from pathlib import Path
from unittest import mock

import pytest
from mlflow import MlflowClient

from search.best import main
from search.output.events import SearchEnded, SearchStarted, append_events
from search.tracking.delivery import Delivery
from trainables.config.model_names import slug

MODELS: dict[str, tuple[str | None, float]] = {
    "builtin/nano": ("confirmed better", -0.3),
    "my models/small": ("no_difference", -0.4),
}


pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a search of two models, one without a confirmation, and one whose objective is `final`."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    record_search(folder / "one", uri, "math", "best", MODELS)
    record_search(folder / "two", uri, "math", "best", {"builtin/nano": (None, 0.0)})
    record_search(folder / "three", uri, "code", "final", {"builtin/nano": ("confirmed better", -0.5)})
    return uri


def record_search(
    folder: Path, uri: str, experiment: str, objective: str, models: dict[str, tuple[str | None, float]]
) -> None:
    folder.mkdir()
    tags, metrics, files = {}, {}, []
    for model, (verdict, mean) in models.items():
        short = slug(model)
        if verdict is not None:
            tags |= {f"{short}.model": model, f"{short}.verdict": verdict, f"{short}.chosen_arm": "entrodrop"}
        for name, value in (("mean", mean), ("low", mean - 0.1), ("high", mean + 0.1)):
            metrics[f"{short}.test.{objective}.difference.{name}"] = value
        files.append(f"best_schedule.{short}.yaml")
        (folder / files[-1]).write_text(f"name: {folder.name}-best\n")
    of = {"name": folder.name, "models": list(models), "settings": {"objective": objective}}
    append_events(
        folder / "events.jsonl",
        SearchStarted(planned={}, resume_command="", **of),
        SearchEnded(status="FINISHED", metrics=metrics, tags=tags, files=files),
    )
    assert Delivery(uri, experiment, folder / "events.jsonl").close(60)


def test_all_are_listed_the_surest_first(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--uri", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["builtin/nano", "confirmed better"],
        ["builtin/nano", "confirmed better"],
        ["my models/small", "not decided"],
    ]
    assert "-0.5000 nats (-0.6000 to -0.4000)" in lines[0]
    assert "search three, code" in lines[0]


def test_an_experiment_and_a_model_narrow_it(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri}):
        assert main(["--experiment", "math", "--model", "builtin/nano"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "search one, math" in line


def test_the_best_one_is_written(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    assert main(["--uri", uri, "--output", str(path)]) == 0
    assert path.read_text() == "name: three-best\n"
    assert main(["--uri", uri, "--experiment", "math", "--output", str(path)]) == 0
    assert path.read_text() == "name: one-best\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--experiment", "maths"], "--experiment: given maths; allowed: math"),
        (["--model", "builtin/nan"], "--model: given builtin/nan; allowed: builtin/nano"),
        (["--model", "my models/small", "--output", "x.yaml"], "nothing was confirmed better than no dropout"),
        (
            ["--output", "nowhere/x.yaml"],
            "nowhere/x.yaml cannot be written (No such file or directory); name another file",
        ),
    ],
)
def test_what_cannot_be_found_is_told_in_one_line(
    uri: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--uri", uri, *arguments]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("uri", ["foo", "file:mlruns", "sqlite:///damaged.db", "nothing://host/db"])
def test_what_is_no_store_is_told_in_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.db").write_bytes(bytes(range(256)) * 64)
    assert main(["--uri", uri]) == 2
    err = capsys.readouterr().err
    assert err.startswith("--uri: ")
    assert f"{uri.rpartition('/')[2]} does not answer (" in err
    assert err.count("\n") == 1


def test_an_empty_store_and_one_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = f"sqlite:///{tmp_path}/empty.db"
    MlflowClient(empty).search_experiments()
    assert main(["--uri", empty]) == 2
    assert "MLflow has no search" in capsys.readouterr().err
    absent = f"sqlite:///{tmp_path}/absent.db"
    assert main(["--uri", absent]) == 2
    assert "absent.db does not exist; name the file" in capsys.readouterr().err
    assert not (tmp_path / "absent.db").exists()
    assert main(["--uri", "http://user:secret@127.0.0.1:9"]) == 2
    err = capsys.readouterr().err
    assert "does not answer" in err
    assert "secret" not in err
    assert err.count("\n") == 1
