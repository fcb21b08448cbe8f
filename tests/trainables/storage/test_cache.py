"""Cached folders: made once, whole or not at all, made again when damaged."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.errors import DataError
from trainables.storage.cache import cached, code_digest, content_digest, default_root
from trainables.storage.manifest import digest, file_hash, read_manifest

KEY = {"a": 1, "b": [2, "three"]}


class Build:
    """Writes two files and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "one.bin").write_bytes(bytes(range(256)))
        (folder / "two.txt").write_text("two")


def visible(root: Path) -> list[str]:
    return [path.name for path in (root / "kind").iterdir()] if (root / "kind").exists() else []


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    build = Build()
    folders = {cached(tmp_path, "kind", key, build) for key in (KEY, dict(reversed(KEY.items())))}
    assert build.calls == 1
    assert visible(tmp_path) == [folder.name for folder in folders]
    assert (folders.pop() / "two.txt").read_text() == "two"


def test_two_keys_and_two_kinds_are_two_entries(tmp_path: Path) -> None:
    build = Build()
    first = cached(tmp_path, "kind", KEY, build)
    others = {cached(tmp_path, "kind", KEY | {"a": 2}, build), cached(tmp_path, "other", KEY, build)}
    assert len({first, *others}) == 3
    assert build.calls == 3
    assert content_digest(first) == content_digest(others.pop())


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "one.bin").read_bytes())
    content[100] ^= 1
    (folder / "one.bin").write_bytes(content)


def rewrite(folder: Path, old: str, new: str) -> None:
    text = (folder / "manifest.json").read_text()
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new))


def swap(folder: Path) -> None:
    """Puts a whole entry in the place of another."""

    def build(entry: Path) -> None:
        (entry / "one.bin").write_bytes(b"other")

    other = cached(folder.parents[1], "others", {"c": 1}, build)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    build = Build()
    folder = cached(tmp_path, "kind", KEY, build)
    (tmp_path / "outside").write_text("not the cache's")
    content = read_manifest(folder / "manifest.json")
    content["files"]["../../outside"] = file_hash(tmp_path / "outside")
    (folder / "manifest.json").write_text(json.dumps({**content, "hash": digest(content)}, indent=1))
    assert "../../outside" in read_manifest(folder / "manifest.json")["files"]
    cached(tmp_path, "kind", KEY, build)
    assert build.calls == 2


DAMAGES: dict[str, Callable[[Path], object]] = {
    "byte flipped": flip_a_byte,
    "cut short": lambda folder: (folder / "one.bin").write_bytes(bytes(range(200))),
    "file missing": lambda folder: (folder / "two.txt").unlink(),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut short": lambda folder: (folder / "manifest.json").write_text('{"files": {"one.bin'),
    "manifest with another hash": lambda folder: rewrite(folder, "three", "four"),
    "a space more in the manifest": lambda folder: rewrite(folder, '"a": 1', '"a":  1'),
    "manifest emptied": lambda folder: (folder / "manifest.json").write_text(""),
    "deep manifest": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "a file more": lambda folder: (folder / "three.txt").touch(),
    "a file in place of a folder": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "a folder in place of a file": lambda folder: ((folder / "two.txt").unlink(), (folder / "two.txt").mkdir()),
    "another entry's files": lambda folder: swap(folder),
    "manifest is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    build = Build()
    folder = cached(tmp_path, "kind", KEY, build)
    before = content_digest(folder)
    damage(folder)
    assert cached(tmp_path, "kind", KEY, build) == folder
    assert build.calls == 2
    assert content_digest(folder) == before
    assert (folder / "one.bin").read_bytes() == bytes(range(256))
    assert visible(tmp_path) == [folder.name]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "one.bin").write_bytes(b"half")
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        cached(tmp_path, "kind", KEY, fails)
    assert visible(tmp_path) == []
    build = Build()
    cached(tmp_path, "kind", KEY, build)
    assert build.calls == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^ENTRODROP_CACHE: given .*/file; allowed: a folder that can be written"):
        cached(tmp_path / "file", "kind", KEY, Build())


def test_an_entry_shows_only_when_it_is_whole(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        Build()(folder)
        assert [name for name in visible(tmp_path) if not name.startswith(".")] == []

    assert (cached(tmp_path, "kind", KEY, build) / "manifest.json").exists()


def test_an_entry_that_another_process_built_meanwhile_serves(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        cached(tmp_path, "kind", KEY, Build())
        (folder / "one.bin").write_bytes(b"late")

    folder = cached(tmp_path, "kind", KEY, build)
    assert (folder / "one.bin").read_bytes() == bytes(range(256))
    assert visible(tmp_path) == [folder.name]


def test_the_content_digest_is_of_the_files(tmp_path: Path) -> None:
    def other(folder: Path) -> None:
        Build()(folder)
        (folder / "two.txt").write_text("2")

    assert content_digest(cached(tmp_path, "kind", KEY, Build())) != content_digest(cached(tmp_path, "x", KEY, other))


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENTRODROP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "entrodrop-search"
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"
    # Other processes, as those of slots, have another current folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTRODROP_CACHE", "mine")
    assert default_root() == tmp_path / "mine"


def test_what_a_killed_process_left_half_built_is_removed_after_a_day(tmp_path: Path) -> None:
    cached(tmp_path, "kind", KEY, Build())
    left, at_work = tmp_path / "kind" / ".building-left", tmp_path / "kind" / ".building-at-work"
    for folder in (left, at_work):
        (folder / "entry").mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    cached(tmp_path, "kind", {"a": 2}, Build())
    assert not left.exists()
    assert at_work.exists()


def test_what_a_process_is_building_stays_when_the_clock_jumps(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        yesterday = time.time() - 25 * 3600
        os.utime(folder.parent, (yesterday, yesterday))
        cached(tmp_path, "kind", {"a": 2}, Build())
        Build()(folder)

    assert {file.name for file in cached(tmp_path, "kind", KEY, build).iterdir()} >= {"one.bin", "two.txt"}
    assert not list((tmp_path / "kind").glob(".building-*"))


MODULES = {
    "here/one.py": "import here.two\nfrom here import three\n",
    "here/two.py": "def double(x):\n    return 2 * x  # twice\n",
    "here/three.py": "def lazy():\n    from here.deep.four import A\n",
    "here/deep/four.py": "import json\nfrom there import B\nA = 4\n",
    "here/five.py": "A = 5\n",
    "there.py": "B = 6\n",
}


def write_modules(folder: Path, **changes: str) -> str:
    for name, text in (MODULES | changes).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return code_digest("here.one", folder)


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("here/one.py", "import here.two\nfrom here import three\nA = 1\n", True),
        ("here/two.py", "def double(x):\n    return 3 * x\n", True),
        ("here/two.py", "# Doubles.\ndef double(x):\n\n    return (2 * x)\n", False),
        ("here/deep/four.py", "A = 5\n", True),
        ("here/five.py", "A = 6\n", False),
        ("there.py", "B = 7\n", False),
    ],
)
def test_code_counts_that_a_module_imports_from_its_package(tmp_path: Path, name: str, text: str, counts: bool) -> None:
    before = write_modules(tmp_path / "before")
    assert write_modules(tmp_path / "same") == before
    assert (write_modules(tmp_path / "after", **{name: text}) != before) == counts
