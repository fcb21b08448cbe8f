"""The journal of the studies: a file with one line for each change, each on disk before the search goes on."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trainables.storage.files import drop_partial_line


class JournalError(ValueError):
    """A journal that cannot be read."""


def opened(path: Path) -> JournalStorage:
    """The journal in `path`, for the one process that writes it.

    A driver that was killed while it wrote leaves a part of a line, which would spoil the next one, and Optuna's lock,
    which would hold up the next one for half a minute.

    Raises:
        JournalError: damaged.
    """
    drop_partial_line(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    # Optuna replays the lines: one that is damaged can be no JSON, or name what does not exist.
    except (ValueError, LookupError, TypeError, AssertionError, optuna.exceptions.OptunaError) as error:
        raise JournalError(f"{path} is damaged ({type(error).__name__}: {error})") from error
