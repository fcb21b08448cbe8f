"""A search that is over, or runs elsewhere, as its output folder has it; nothing in the folder is changed."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from search.output.events import Evaluations, Events
from search.output.folder import EVENTS, JOURNAL, RESOLVED, SUMMARY, check_search_folder
from search.results.model_result import ModelResult, open_results
from search.results.summary import summarize
from search.space import Space, load_stored
from search.studies.storage import (
    DATABASE_ERRORS,
    DatabaseError,
    JournalError,
    StudyStorage,
    connect_database,
    describe_error,
    open_journal,
)
from trainables.errors import ConfigError, mask_secrets


@dataclass(frozen=True)
class LoadedSearch:
    """A search as it stands.

    Attributes:
        folder: its output folder, or a copy of it.
        named: what the person named: a folder, or the URL that the copy is of; without secrets.
        finished: whether all its trials have ended, and its results are written.
        written: its summary.json; None if it has not finished.
    """

    folder: Path
    named: str
    space: Space
    results: list[ModelResult]
    evaluations: Evaluations
    finished: bool
    written: dict[str, Any] | None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in summary.json; of what there is so far if the search has not finished."""
        if self.written is not None:
            return self.written
        models = dict.fromkeys(result.model for result in self.results)
        return summarize(self.results, self.space, models, {}, lambda study, number: None)

    @property
    def date(self) -> str:
        """When it began, UTC; empty if that is not known."""
        began = self.evaluations.began
        return datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M") if began is not None else ""


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"DIR: {path} is not JSON; put the file back as the search wrote it") from None
    return summary


def _connect_database(folder: Path, url: str, search: str) -> StudyStorage:
    if "***" in url:
        raise ConfigError(
            f"DIR: {folder / RESOLVED}: study.storage: {url} has a password that the folder does not keep; write a URL "
            "without one here, and set it outside (PostgreSQL reads PGUSER and PGPASSWORD)"
        )
    database = connect_database(url, search)
    if not database.names:
        raise ConfigError(
            f"DIR: {url} does not hold the search of {folder}; name the output folder of one that it holds"
        )
    return database.copy_to_memory()


@contextmanager
def load_search(folder: Path, named: str | None = None) -> Iterator[LoadedSearch]:
    """The search in `folder`.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    check_search_folder(folder, RESOLVED, EVENTS)
    space = load_stored(folder / RESOLVED)
    if space.study.storage is None:
        check_search_folder(folder, JOURNAL)
    evaluations = Evaluations(Events(folder / EVENTS))
    models = [name for name in evaluations.names if name in space.models] or list(space.models)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if space.study.storage is not None:
                studies = _connect_database(folder, space.study.storage, space.name)
            else:
                # To open a journal is to write to it: a search may be running, and its folder be another person's.
                studies = open_journal(Path(shutil.copy(folder / JOURNAL, scratch)))
            results = open_results(studies, dict.fromkeys(models, space))
        except (DatabaseError, *DATABASE_ERRORS) as error:
            raise ConfigError(f"DIR: {folder / RESOLVED}: study.storage: {describe_error(error)}") from None
        except JournalError as error:
            raise ConfigError(f"DIR: the search in {folder} is damaged ({error}); name one that is whole") from None
        finished = all(study.ended for result in results for study in result.studies) and (folder / SUMMARY).is_file()
        written = _read_summary(folder / SUMMARY) if finished else None
        shown = mask_secrets(named or str(folder)).rstrip("/")
        yield LoadedSearch(folder, shown, space, results, evaluations, finished, written)
