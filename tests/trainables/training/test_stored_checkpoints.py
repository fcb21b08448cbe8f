"""Checkpoints behind a URL: as whole, and as closely looked at, as in a folder."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.trainables.damage import DAMAGES, Evil, resealed, unlisted
from tests.trainables.training.test_checkpoint import small_files
from trainables.preparation.prepared import Prepared
from trainables.settings import Lora, ModelSettings
from trainables.storage.files import (
    StorageError,
    fetch_folder,
    place,
    safetensors_errors,
)
from trainables.storage.manifest import hashes_of
from trainables.training import checkpoint
from trainables.training.checkpoint import CheckpointError
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> WarmModel:
    prepared: Prepared = tiny.prepared(tmp_path_factory.mktemp("cache"))
    return WarmModel(prepared, tiny.CPU)


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/run" if request.param == "file" else f"memory://{tmp_path.name}/run"


def test_a_run_goes_on_from_a_url(warm: WarmModel, url: str) -> None:
    interrupted, resumed = Run(warm, tiny.settings()), Run(warm, tiny.settings())
    interrupted.advance()
    interrupted.save(place(url))
    expected = [interrupted.advance()["loss"], interrupted.advance()["loss"]]
    resumed.restore(place(url))
    assert [resumed.advance()["loss"], resumed.advance()["loss"]] == expected


def test_only_the_last_checkpoint_stays(url: str) -> None:
    folder = place(url)
    for number in (1, 2):
        checkpoint.save(folder, {"t": torch.full((3,), number)}, "run", number, {"steps": number})
    assert sorted(path.name for path in place(url).iterdir()) == ["manifest.json", "state-2"]
    read = {"t": torch.zeros(3, dtype=torch.int64)}
    assert checkpoint.load(folder, read, "run") == {"steps": 2}
    assert read["t"].tolist() == [2, 2, 2]
    with pytest.raises(CheckpointError, match="another run"):
        checkpoint.load(folder, read, "other")


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    folder = place(f"file://{tmp_path}/run")
    checkpoint.save(folder, {"small": torch.ones(3)}, "run", 1, {"steps": 1})
    with small_files(), pytest.raises(StorageError, match=os.strerror(errno.EFBIG)):
        checkpoint.save(folder, {"small": torch.zeros(100_000)}, "run", 2, {"steps": 2})
    read = {"small": torch.zeros(3)}
    assert checkpoint.load(folder, read, "run") == {"steps": 1}
    assert read["small"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damage", [*DAMAGES.values(), unlisted], ids=[*DAMAGES, "unlisted"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    path, url = tmp_path / "run", place(f"file://{tmp_path}/run")
    tensors = {"t": torch.arange(2000.0)}
    checkpoint.save(url, tensors, "run", 1, {"steps": 1})
    damage(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(url, tensors, "run")


def test_a_checkpoint_of_a_stranger_runs_no_code(tmp_path: Path) -> None:
    url, tensors = place(f"file://{tmp_path}/run"), {"t": torch.ones(3)}
    checkpoint.save(url, tensors, "run", 1, {})
    (next((tmp_path / "run").glob("state-*")) / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    resealed(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"touch is no part of a checkpoint"):
        checkpoint.load(url, tensors, "run")
    assert not (tmp_path / "ran").exists()


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rank that took it for damage would start over, and the others go on.
    url, tensors = place(f"file://{tmp_path}/run"), {"t": torch.ones(3)}
    checkpoint.save(url, tensors, "run", 1, {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem._open", refuse)
    with pytest.raises(StorageError, match="Access Denied"):
        checkpoint.load(url, tensors, "run")


def test_a_url_of_an_unknown_kind_is_told_without_its_password() -> None:
    with pytest.raises(StorageError) as caught:
        place("nonsense://me:hunter2@host/runs")
    assert "nonsense" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_model_takes_the_place_of_the_one_before(warm: WarmModel, url: str, tmp_path: Path) -> None:
    run = Run(warm, tiny.settings())
    folder = place(f"{url}/models/3")
    folder.mkdir(parents=True)
    (folder / "old").write_text("")
    run.save_model(folder)
    run.save_model(tmp_path / "here" / "3")
    fetch_folder(folder, tmp_path / "fetched")
    expected = hashes_of(tmp_path / "here" / "3")
    assert hashes_of(tmp_path / "fetched") == expected
    assert "model.safetensors" in expected
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["3"]


def test_adapters_are_stored_in_the_folder_of_their_model(warm: WarmModel, url: str, tmp_path: Path) -> None:
    run = Run(WarmModel(warm.prepared, tiny.CPU, ModelSettings(lora=Lora(2, 4.0))), tiny.settings())
    folder = place(f"{url}/models/3")
    run.save_model(folder)
    run.save_model(folder)
    fetch_folder(folder, tmp_path / "fetched")
    run.save_model(tmp_path / "here")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (tmp_path / "fetched" / name).stat().st_size == (tmp_path / "here" / name).stat().st_size


def test_what_safetensors_tells_of_the_file_system_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, safetensors_errors(tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "missing" / "a")
    assert caught.value.filename == str(tmp_path)
