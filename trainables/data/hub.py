"""Data sets of the Hugging Face hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from trainables.data.documents import Splits, SplitSizes, split, unseen
from trainables.data.templates import Templates
from trainables.errors import DataError
from trainables.hub import advice


@dataclass(frozen=True)
class Hub:
    """Records of a data set.

    Attributes:
        path: owner/name on the hub, or a local folder of a data set.
        name: its configuration; None for the default one.
        split: its split that all documents are taken from.
        revision: commit, tag or branch; None for the newest.
        files: a pattern of the files that are read; None for all.
        templates: of a document.
    """

    path: str
    name: str | None
    split: str
    revision: str | None
    files: str | None
    templates: Templates
    sizes: SplitSizes

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        documents = self.templates.documents(self._records(), self.path)
        return split(unseen(documents, apart), self.sizes, seed, f"in the split '{self.split}' of {self.path}")

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        import datasets

        problems = (OSError, datasets.exceptions.DatasetsError)
        try:
            how = {"revision": self.revision, "data_files": self.files}
            names = datasets.get_dataset_split_names(self.path, self.name, **how)
            if self.split not in names:
                close = get_close_matches(self.split, names, n=1)
                raise DataError("data.split", self.split, ", ".join(names), close[0] if close else None)
            records = datasets.load_dataset(self.path, self.name, split=self.split, **how)
        except DataError:
            raise
        except ValueError as error:
            # Most often a configuration that does not exist or is missing; the message names those that there are.
            given = self.name or f"no configuration of {self.path}"
            raise DataError("data.name", given, f"a configuration that can be loaded ({_first_line(error)})") from None
        except ConnectionError as error:
            raise DataError("data.path", advice("dataset", self.path, error)) from None
        except problems as error:
            raise DataError("data.path", self.path, f"a data set that can be loaded ({_first_line(error)})") from None
        for number, record in enumerate(records, 1):
            yield f"record {number} of {self.path}", record


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
