"""The data that a space is written for: a file, a folder or a data set of the hub, with splits of its own."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import ConfigError, one_line

if TYPE_CHECKING:
    # torch takes seconds to import: what is wrong with the arguments is told before that.
    from trainables.data.files import Files
    from trainables.data.hub import Hub

# Records that are looked at.
_RECORDS = 20_000
# Names of splits, and of files with one.
_NAMES = {"validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
# Documents that are advised at most: an evaluation reads the validation split, the verdict gains little from more.
MOST = {"validation": 300, "test": 1000}
# Documents without which there is nothing to train on and to compare.
FEWEST = 20


@dataclass
class FoundData:
    """What the data is.

    Attributes:
        block: the settings that say where it is, with those that are guesses and why.
        held_out: of splits with a source of their own, the setting, and the number of documents.
        whole: whether all records were read.
    """

    block: dict[str, tuple[Any, str]]
    records: list[Mapping[str, Any]]
    held_out: dict[str, tuple[dict[str, Any], int]]

    @property
    def whole(self) -> bool:
        return len(self.records) < _RECORDS


def find_data(text: str, name: str | None, folder: Path) -> FoundData:
    """Reads the data.

    Args:
        text: a file, a folder or a data set of the hub.
        name: the configuration of a data set of the hub.
        folder: that the space's file will be in.

    Raises:
        DataError: it cannot be read.
        ConfigError: there is none.
    """
    from trainables.data.documents import SplitSizes
    from trainables.data.files import KINDS, Files, kind_of
    from trainables.data.hub import Hub, is_saved
    from trainables.data.templates import Templates

    text, sizes = text.removeprefix("hub:"), SplitSizes("all", 0, 0)
    path = Path(text)
    files: list[Path] = []
    if path.is_dir():
        # What is in folders within it is read as the hub's data sets are.
        own = [] if is_saved(path) else sorted(file for file in path.iterdir() if file.is_file())
        kinds = Counter(kind for file in own if (kind := kind_of(file)) in KINDS)
        # What there is most of: a README.txt may lie beside the data.
        files = [file for file in own if kinds and kind_of(file) == max(KINDS, key=lambda kind: kinds[kind])]
        if not files and not any(kind_of(file) in (*KINDS, ".arrow") for file in path.rglob("*")):
            names = ", ".join(KINDS)
            raise ConfigError(f"{one_line(text)}: no file in this folder ends in {names}; name one with data")
    elif path.exists() or kind_of(path) in KINDS:
        files = [path]
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        allowed = "a file or a folder that exists, or a data set of the hub: owner/name"
        raise ConfigError(f"DATA: given {one_line(text)}; allowed: {allowed}")
    if files:
        return _find_in_files(files, path, folder, lambda paths, by: Files(paths, Templates("{text}"), sizes, by))
    hub = Hub(text, name, "train", None, None, Templates("{text}"), sizes)
    # As everywhere, the folder of a data set is one from where the command runs.
    return _find_in_hub(hub, text if "/" in text else f"./{text}")


def _find_in_files(files: list[Path], path: Path, folder: Path, make: Any) -> FoundData:
    if path.is_dir():
        by_split: dict[str, list[Path]] = {}
        for file in files:
            by_split.setdefault(_name_split(file.name), []).append(file)
        own = by_split.pop("train", None) or [file for part in by_split.values() for file in part]
    else:
        own = files
        beside = [file for file in path.parent.iterdir() if "train" in path.name] if path.is_file() else []
        names = {path.name.replace("train", word): split for split, words in _NAMES.items() for word in words}
        by_split = {split: [file for file in sorted(beside) if names.get(file.name) == split] for split in _NAMES}
    sample_by, why = _divide_text(own)
    read: Files = make(tuple(map(str, own)), sample_by)
    block: dict[str, tuple[Any, str]] = {"source": ("files", ""), "path": (_list_paths(own, folder), "")}
    if why:
        block["sample_by"] = (sample_by, why)
    held_out = {}
    for split, part in by_split.items():
        if part and part[0] not in own:
            count = sum(1 for _ in make(tuple(map(str, part)), sample_by).records())
            held_out[split] = _limit_split(split, {"path": _list_paths(part, folder)}, count)
    return FoundData(block, [record for _, record in islice(read.records(), _RECORDS)], held_out)


def _find_in_hub(hub: "Hub", place: str) -> FoundData:
    names = hub.split_names()
    hub = replace(hub, split="train" if "train" in names else names[0])
    block: dict[str, tuple[Any, str]] = {"source": ("hub", ""), "path": (place, "")}
    if hub.name is not None:
        block["name"] = (hub.name, "")
    if hub.split != "train":
        block["split"] = (hub.split, f"there is no split 'train', but {', '.join(names)}")
    held_out = {}
    for split, words in _NAMES.items():
        if name := next((word for word in words if word in names and word != hub.split), None):
            count = sum(1 for _ in replace(hub, split=name).records())
            held_out[split] = _limit_split(split, {"split": name}, count)
    return FoundData(block, [record for _, record in islice(hub.records(), _RECORDS)], held_out)


def _limit_split(split: str, setting: dict[str, Any], count: int) -> tuple[dict[str, Any], int]:
    """A split with a source of its own, and its documents, limited where there are many."""
    most = MOST[split]
    return ({**setting, "documents": most}, most) if count > most else (setting, count)


def _name_split(name: str) -> str:
    """The split that the name of a file speaks of; train if of none."""
    words = re.split("[^a-z]+", name.lower())
    return next((split for split, names in _NAMES.items() if any(word in words for word in names)), "train")


def _divide_text(files: Sequence[Path]) -> tuple[str, str]:
    """What of text files is a document, and why; an empty reason for other files."""
    from trainables.data.files import kind_of, matching_files

    if kind_of(files[0]) != ".txt":
        return "line", ""
    there = [file for pattern in files for file in matching_files(str(pattern)) if file.is_file()]
    if len(there) >= FEWEST:
        return "document", f"there are {len(there)} text files: each is a document"
    begins = b""
    for file in there[:1]:
        with file.open("rb") as content:
            begins = content.read(2**16)
    if re.search(rb"\S[^\n]*\r?\n[ \t]*\r?\n\s*\S", begins):
        return "paragraph", "there are empty lines between paragraphs: each is a document"
    return "line", "there are no empty lines: each line is a document"


def _list_paths(files: Sequence[Path], folder: Path) -> str | list[str]:
    names = [_relative(file, folder) for file in files]
    return names[0] if len(names) == 1 else names


def _relative(path: Path, folder: Path) -> str:
    return str(path) if path.is_absolute() else os.path.relpath(path, folder)
