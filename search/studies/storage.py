"""Where the studies are kept: a journal in the output folder, or a database that searches share.

A journal is a file with one line for each change, each on disk before the search goes on.
"""

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from trainables.errors import one_line
from trainables.storage.files import drop_partial_line

# What a database that is not there, or goes away, is told as.
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)


@dataclass(frozen=True)
class StudyStorage:
    """The one handle of all studies of a search.

    Attributes:
        prefix: what the names of its studies begin with, in a database that searches share.
    """

    storage: BaseStorage
    prefix: str = ""

    @property
    def names(self) -> list[str]:
        """The studies of the search there; none if it has not begun."""
        return [name for name in optuna.get_all_study_names(self.storage) if name.startswith(self.prefix)]

    def copy_to_memory(self) -> "StudyStorage":
        """For a reader: to open a study is to write to it."""
        memory = InMemoryStorage()
        for name in self.names:
            optuna.copy_study(from_study_name=name, from_storage=self.storage, to_storage=memory)
        return StudyStorage(memory, self.prefix)


class JournalError(ValueError):
    """A journal that cannot be read."""


def open_journal(path: Path) -> StudyStorage:
    """The journal in `path`, for the one process that writes it.

    A driver that was killed while it wrote leaves a part of a line, which would spoil the next one, and Optuna's lock,
    which would hold up the next one for half a minute.

    Raises:
        JournalError: damaged.
    """
    drop_partial_line(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    try:
        return StudyStorage(JournalStorage(JournalFileBackend(str(path))))
    # Optuna replays the lines: one that is damaged can be no JSON, or name what does not exist.
    except (ValueError, LookupError, TypeError, AssertionError, optuna.exceptions.OptunaError) as error:
        raise JournalError(f"{path} is damaged ({type(error).__name__}: {error})") from error


class DatabaseError(ValueError):
    """A database that cannot be opened: one line, without its password."""


def connect_database(url: str, search: str) -> StudyStorage:
    """Opens the database, and makes Optuna's tables if there are none.

    Args:
        url: as SQLAlchemy takes it, such as postgresql://host/optuna.
        search: the name of the search.

    Raises:
        DatabaseError: it cannot be reached, there is no package for it, or another version of Optuna made its tables.
    """
    try:
        # Between two evaluations a server may have closed the connection.
        return StudyStorage(RDBStorage(url, {"pool_pre_ping": True}), f"{search}/")
    except ImportError as error:
        # Optuna's own, raised from that of the import.
        missing = getattr(error.__cause__, "name", None)
        raise DatabaseError(f"the package {missing} is not installed" if missing else describe_error(error)) from None
    # Optuna raises RuntimeError for tables of another version, SQLAlchemy ValueError for a port that is none.
    except (*DATABASE_ERRORS, RuntimeError, ValueError) as error:
        raise DatabaseError(describe_error(error)) from None


def describe_error(error: Exception) -> str:
    """What a database said, on one line and without its password."""
    # The driver's own words, without SQLAlchemy's, which have the statement and a link.
    driver_error = getattr(error, "orig", None) or error.__cause__ or error
    text = str(getattr(driver_error, "orig", None) or driver_error).strip().partition("\n")[0]
    return one_line(text or type(error).__name__, 300)
