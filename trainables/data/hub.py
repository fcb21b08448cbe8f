"""Data sets of the Hugging Face hub."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trainables.data.arrow import arrow_records, date_columns
from trainables.data.documents import Reader, Splits, SplitSizes, split
from trainables.data.files import Files, Records, kind_of
from trainables.errors import DataError
from trainables.hub import advice, is_lfs_pointer

# Records that are in memory at once.
_ROWS = 256
# Files of text, by the reader that the library datasets has for them.
_TEXT_FILES = {"json": (".jsonl", ".ndjson", ".json"), "csv": (".csv", ".tsv")}


@dataclass(frozen=True)
class Hub:
    """Records of a data set.

    Attributes:
        path: owner/name on the hub, or a local folder of a data set.
        name: its configuration; None for the default one.
        split: its split that all documents are taken from.
        revision: commit, tag or branch; None for the newest.
        files: a pattern of the files that are read; None for all.
        reader: makes documents of records.
    """

    path: str
    name: str | None
    split: str
    revision: str | None
    files: str | None
    reader: Reader
    sizes: SplitSizes

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        documents = self.reader.documents(self.records(), self.path)
        return split(documents, self.sizes, seed, f"in the split '{self.split}' of {self.path}", apart)

    def records(self) -> Records:
        """The records of the split, each with where it stands.

        Raises:
            DataError: a data set that cannot be read.
        """
        with self._raise_as_data_error():
            names, read = self._find_splits()
            if self.split not in names:
                close = get_close_matches(self.split, names, n=1)
                raise DataError("data.split", self.split, ", ".join(names), close[0] if close else None)
        with self._raise_as_data_error(f"the split '{self.split}' of {self.path}"):
            yield from read()

    def split_names(self) -> list[str]:
        """The splits of the data set.

        Raises:
            DataError: a data set that cannot be read.
        """
        with self._raise_as_data_error():
            return self._find_splits()[0]

    @contextmanager
    def _raise_as_data_error(self, given: str | None = None) -> Iterator[None]:
        """What the library datasets raises, as DataError.

        Args:
            given: what cannot be loaded, if that is not the whole data set.
        """
        try:
            yield
        except DataError:
            raise
        except ConnectionError as error:
            raise DataError("data.path", advice("dataset", self.path, error)) from None
        # The readers of so many formats raise what they like: RuntimeError of a script, KeyError, ArrowInvalid ...
        except Exception as error:
            # "An error occurred while generating the dataset" has its reason behind it.
            reason = _first_line(error.__cause__ or error)
            if isinstance(error, ValueError) and "Config" in reason:
                # One that does not exist or is missing; the message names those that there are.
                name = self.name or f"no configuration of {self.path}"
                raise DataError("data.name", name, f"a configuration that can be loaded ({reason})") from None
            allowed = f"a data set that can be loaded from JSON, CSV, Parquet, Arrow or text files ({reason})"
            raise DataError("data.path", given or self.path, allowed) from None

    def _find_splits(self) -> tuple[list[str], Callable[[], Records]]:
        """The splits of the data set, and what reads the one that is asked for."""
        import datasets

        # What it logs is in the error.
        datasets.logging.set_verbosity(logging.CRITICAL)
        folder = Path(self.path)
        if folder.is_file():
            raise DataError("data.source", f"hub reads no file, and {self.path} is one; write source: files")
        if not folder.exists() and not re.fullmatch(r"[^./~][^/]*/[^/]+", self.path):
            raise DataError("data.path", self.path, "a folder that exists, or owner/name of a data set of the hub")
        if folder.is_dir():
            datasets.disable_progress_bars()
        if is_saved(folder):
            # What save_to_disk has written.
            _refuse_pointers(map(str, folder.rglob("*")))
            saved = datasets.load_from_disk(self.path)
            splits = saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
            return list(splits), lambda: self._read(splits[self.split])
        path, how = self.path, {"revision": self.revision, "data_files": self.files}
        try:
            builder = datasets.load_dataset_builder(path, self.name, **how)
        except ConnectionError:
            if (downloaded := _downloaded(path, self.revision)) is None:
                raise
            path = downloaded
            builder = datasets.load_dataset_builder(path, self.name, **how)
        _refuse_pointers(file for files in (builder.config.data_files or {}).values() for file in files)
        names = datasets.get_dataset_split_names(path, self.name, **how)

        def read() -> Records:
            if files := _text_files(builder, self.split):
                separator = builder.config.sep if builder.name == "csv" else ","
                return Files(files, self.reader, self.sizes, separator=separator).records()
            return self._read(datasets.load_dataset(path, self.name, split=self.split, **how))

        return names, read

    def _read(self, dataset: Any) -> Records:
        number, tables = 0, dataset.with_format("arrow")
        dates = date_columns(dataset.features.arrow_schema, lambda names: tables.select_columns(names)[:])
        for table in tables.iter(_ROWS):
            yield from arrow_records(table, dates, number, self.path)
            number += len(table)


def _refuse_pointers(files: Iterable[str]) -> None:
    for file in map(Path, files):
        if file.is_file() and is_lfs_pointer(file):
            raise DataError("data.path", f"{file.name} is a Git LFS pointer, not the data; run git lfs pull there")


def _text_files(builder: Any, split: str) -> tuple[str, ...]:
    """The files of a split, on this machine, if trainables.data.files reads them as they are.

    The library datasets gives values a type: it reads 007 in CSV as 7, NA as nothing, and writes dates in JSON anew.
    """
    import datasets

    config, kinds = builder.config, _TEXT_FILES.get(builder.name, ())
    own = {"name": "default", "version": None, "data_files": None, "data_dir": None}
    own |= {"sep": ","} if builder.name == "csv" else {}
    # Settings of the data set's own card, such as a field of the JSON, are for its reader.
    if not kinds or replace(config, **own) != type(config)(version=None):
        return ()
    files = tuple(datasets.DownloadManager().download(list((config.data_files or {}).get(split, ()))))
    return files if all(kind_of(Path(file)) in kinds for file in files) else ()


def _downloaded(path: str, revision: str | None) -> str | None:
    """The folder with what an earlier run has downloaded of a data set of the hub; None if there is nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError, HFValidationError):
        return snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True)
    return None


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk of the library datasets has written a folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
