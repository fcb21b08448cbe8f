"""Checkpoints that no trial needs any more."""

from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import TrialState

from search.studies.study import TrialStudy
from trainables.storage.files import Place, store_errors

_ENDED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def remove_ended(studies: Sequence[TrialStudy], checkpoints: Place, remove: Callable[[Place], None]) -> None:
    """Removes the checkpoints of trials that have ended, and the folders that are empty then.

    A trial's checkpoint is removed when it ends; but not if the search is killed at that moment, or its slot is lost.

    Args:
        checkpoints: a folder, or a URL, that has those of all trials.
        remove: removes one of them.

    Raises:
        StorageError: the store of a URL does not answer.
    """
    with store_errors(checkpoints):
        for study in studies:
            ended = {trial.number for trial in study.trials(*_ENDED)}
            for folder in (checkpoints / study.slug).glob("*"):
                if folder.name.isdecimal() and int(folder.name) in ended:
                    remove(folder)
    if isinstance(checkpoints, Path):
        for folder in (*checkpoints.glob("*"), checkpoints):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
