"""The data that a space is written for: a file, a folder or a data set of the hub, with splits of its own."""

import os
import re
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
# Files that lie beside data, by their names.
_BESIDE = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|authors|citation|requirements|config|package|dataset_infos?)([\W_].*)?",
    re.IGNORECASE,
)
# Files that are listed by name.
_LISTED = 8
# Documents that are advised at most: an evaluation reads the validation split, the verdict gains little from more.
MOST = {"validation": 300, "test": 1000}
# Documents without which there is nothing to train on and to compare.
FEWEST = 20


@dataclass(frozen=True)
class HeldOut:
    """A split with a source of its own.

    Attributes:
        setting: the value of data.validation or data.test.
        documents: that it has, or is limited to.
        columns: of its first record.
        named: its file or its split, for a person.
    """

    setting: dict[str, Any]
    documents: int
    columns: tuple[str, ...]
    named: str


@dataclass
class FoundData:
    """What the data is.

    Attributes:
        block: the settings that say where it is, with those that are guesses and why.
        held_out: of splits with a source of their own.
        whole: whether all records were read.
    """

    block: dict[str, tuple[Any, str]]
    records: list[Mapping[str, Any]]
    held_out: dict[str, HeldOut]

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

    text, sizes = os.path.expanduser(text.removeprefix("hub:")), SplitSizes("all", 0, 0)
    path = Path(text)
    files: list[Path] = []
    if path.is_dir():
        # What is in folders within it is read as the hub's data sets are; but text files are documents each.
        own = [] if is_saved(path) else sorted(file for file in path.iterdir() if file.is_file())
        if not any(map(_may_be_data, own)):
            below = list(filter(_may_be_data, sorted(path.rglob("*"))))
            own = below if all(kind_of(file) == ".txt" for file in below) else []
        files = _choose_kind(own)
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


def _may_be_data(file: Path) -> bool:
    from trainables.data.files import KINDS, kind_of

    return kind_of(file) in KINDS and not _BESIDE.fullmatch(file.name.partition(".")[0])


def _choose_kind(files: Sequence[Path]) -> list[Path]:
    """The data files of the kind that there is most of, by number, and then by size."""
    from trainables.data.files import kind_of

    by_kind: dict[str, list[Path]] = {}
    for file in filter(_may_be_data, files):
        by_kind.setdefault(kind_of(file), []).append(file)
    return max(by_kind.values(), key=lambda group: (len(group), _size_of(group)), default=[])


def _size_of(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _find_in_files(files: list[Path], path: Path, folder: Path, make: Any) -> FoundData:
    if path.is_dir():
        by_split: dict[str, list[Path]] = {}
        for file in files:
            by_split.setdefault(_name_split(file.name), []).append(file)
        own = by_split.pop("train", None) or [file for part in by_split.values() for file in part]
        beside = [file for file in sorted(path.iterdir()) if file.is_file()]
    else:
        beside = sorted(path.parent.iterdir()) if path.is_file() else []
        own = _find_shards(path, beside) or files
        by_split = _find_beside(path, beside)
    sample_by, why = _divide_text(own)
    # Text files all have the same.
    columns = {file: _read_columns(make, file, sample_by) for file in own} if len(own) > 1 and not why else {}
    groups = [[file for file in own if columns[file] == one] for one in dict.fromkeys(columns.values())]
    own = max(groups, key=lambda group: (len(group), _size_of(group)), default=own)
    if len(own) == 1 and (parted := _separator_of(make, own[0])):
        raise ConfigError(f"{own[0].name}: it has one column{parted}")
    read: Files = make(tuple(map(str, own)), sample_by)
    pattern = _as_pattern(own, path) if path.is_dir() else None
    used = {*own, *(file for part in by_split.values() for file in part)}
    left = [file.name for file in beside if path.is_dir() and file not in used and _may_be_data(file)]
    told = f"left out: {', '.join(left)}" if left else ""
    where = _relative(Path(pattern), folder) if pattern else _list_paths(own, folder)
    block: dict[str, tuple[Any, str]] = {"source": ("files", ""), "path": (where, told)}
    if why:
        block["sample_by"] = (sample_by, why)
    held_out = {}
    for split, part in by_split.items():
        if part and part[0] not in own:
            count = sum(1 for _ in make(tuple(map(str, part)), sample_by).records())
            setting, documents = _limit_split(split, {"path": _list_paths(part, folder)}, count)
            held_out[split] = HeldOut(setting, documents, _read_columns(make, part[0], sample_by), part[0].name)
    return FoundData(block, [record for _, record in islice(read.records(), _RECORDS)], held_out)


def _read_columns(make: Any, file: Path, sample_by: str) -> tuple[str, ...]:
    """The columns of the first record of a file, in alphabetical order."""
    return tuple(sorted(next((map(str, record) for _, record in make((str(file),), sample_by).records()), ())))


def _separator_of(make: Any, file: Path) -> str:
    """What to do with a table whose columns are parted by something else than a comma; nothing if they are not."""
    from trainables.data.files import kind_of
    from trainables.data.templates import separator_advice

    return separator_advice(_read_columns(make, file, "line")) if kind_of(file) in (".csv", ".tsv") else ""


def _as_pattern(files: Sequence[Path], folder: Path) -> str | None:
    """The pattern that stands for many files of one kind, and for no others; None if they are few."""
    from trainables.data.files import matching_files

    if len(files) <= _LISTED:
        return None
    pattern = str(folder / ("*" if all(file.parent == folder for file in files) else "**/*")) + files[0].suffix
    return pattern if matching_files(pattern) == sorted(files) else None


def _find_shards(path: Path, beside: Sequence[Path]) -> list[Path]:
    """All parts of the data of which the file is one, as in train-00000-of-00002.parquet."""
    parts = re.sub(r"-\d{5}-of-", "-*-of-", path.name)
    return [file for file in beside if re.sub(r"-\d{5}-of-", "-*-of-", file.name) == parts]


def _find_beside(path: Path, beside: Sequence[Path]) -> dict[str, list[Path]]:
    """The files beside the one with the data that are its splits: with another split's name in place of train, or with
    nothing but such a name."""
    stem = _stem(path)
    names = {stem.replace("train", word): split for split, words in _NAMES.items() for word in words}
    if _name_split(path.name) == "train":
        names |= {word: split for split, words in _NAMES.items() for word in words}
    found: dict[str, list[Path]] = {}
    for file in beside:
        if file != path and _may_be_data(file) and _stem(file) != stem and (split := names.get(_stem(file))):
            found.setdefault(split, []).append(file)
    # Of several names of a split the first.
    return {split: [file for file in files if _stem(file) == _stem(files[0])] for split, files in found.items()}


def _stem(file: Path) -> str:
    """The name without the part's number, and without what says how it is read."""
    return re.sub(r"-\d{5}-of-\d{5}|(\.(jsonl|ndjson|json|csv|parquet|txt|tsv|gz|zst|bz2))+$", "", file.name)


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
            setting, documents = _limit_split(split, {"split": name}, count)
            columns = tuple(next((map(str, record) for _, record in replace(hub, split=name).records()), ()))
            held_out[split] = HeldOut(setting, documents, columns, f"the split {name}")
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
