"""Which checkpoints a search removes when it ends."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.scheduling.tune_adapter import remove_checkpoints
from tests.studies import search
from trainables.storage.files import place, remove


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_checkpoints_of_trials_that_have_ended_are_removed(scheme: str, tmp_path: Path) -> None:
    study = search(tmp_path)
    for _ in range(2):
        assert study.ask() is not None
    checkpoints = tmp_path / "checkpoints"
    remove_checkpoints([study], place(f"{scheme}{checkpoints}"), remove)
    kept = [checkpoints / study.slug / "1", checkpoints / "other" / "0"]
    for folder in (checkpoints / study.slug / "0", *kept):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    study.tell(0, TrialState.FAIL, "slot_lost")
    remove_checkpoints([study], place(f"{scheme}{checkpoints}"), remove)
    assert [path.parent for path in sorted(checkpoints.rglob("manifest.json"))] == kept


def test_no_empty_folder_is_left(tmp_path: Path) -> None:
    study = search(tmp_path)
    assert study.ask() is not None
    study.tell(0, TrialState.FAIL, "slot_lost")
    (tmp_path / "checkpoints" / study.slug / "0").mkdir(parents=True)
    remove_checkpoints([study], tmp_path / "checkpoints", remove)
    assert not (tmp_path / "checkpoints").exists()
