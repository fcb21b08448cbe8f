"""Where a search that was submitted as a Ray job may write."""

import os
from pathlib import Path

import pytest

from search.output.folder import check_outlives_job, default_output
from search.run import main
from trainables.errors import ConfigError

SPACE = "models: [builtin/nano]\ndata: {source: builtin, task: word_problems, train: 4, validation: 4, test: 6}\n"
SERVER = "http://127.0.0.1:5000"


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a job, as the current one."""
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_what_a_job_would_lose_is_told_before_anything_starts(
    unpacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (unpacked / "space.yaml").write_text(SPACE)
    assert main(["space.yaml", "--output", "runs/space"]) == 2
    output, tracking = capsys.readouterr().err.splitlines()
    assert output.startswith("--output: runs/space is in the working folder of a Ray job")
    assert "name an absolute path, on storage that all nodes share" in output
    assert tracking.startswith(f"MLFLOW_TRACKING_URI: sqlite:///{unpacked}/mlflow.db is in the working folder")
    assert sorted(unpacked.iterdir()) == [unpacked / "space.yaml"]


def test_a_job_that_says_nothing_is_kept_in_the_cache(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    # To be put back.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    output = default_output("space")
    assert output == tmp_path / "cache" / "runs" / "space"
    check_outlives_job(output, None)
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/cache/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    default_output("space")
    assert os.environ["MLFLOW_TRACKING_URI"] == SERVER
    monkeypatch.chdir(tmp_path)
    assert default_output("space") == Path("runs/space")


def test_what_is_elsewhere_is_kept(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_outlives_job(tmp_path / "shared", f"sqlite:///{tmp_path}/mlflow.db")
    check_outlives_job(tmp_path / "shared", SERVER)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    check_outlives_job(tmp_path / "shared", None)
    with pytest.raises(ConfigError, match=r"^tracking.uri: "):
        check_outlives_job(tmp_path / "shared", "sqlite:///mlflow.db")
    with pytest.raises(ConfigError, match=r"^study.storage: "):
        check_outlives_job(tmp_path / "shared", SERVER, "sqlite:///studies.db")
    monkeypatch.chdir(tmp_path)
    check_outlives_job(Path("runs/space"), "sqlite:///mlflow.db", "sqlite:///studies.db")
