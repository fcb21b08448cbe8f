"""What happens to the files of a checkpoint, by accident or by a stranger's hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.storage.manifest import hashes_of, manifest_of, read_manifest


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shards(folder: Path) -> Path:
    """The largest file of a checkpoint."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": lambda folder: (folder / "manifest.json").write_text(""),
    "manifest changed": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('"steps": ', '"steps": 1')
    ),
    "no checkpoint": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "no shards": lambda folder: shards(folder).unlink(),
    "cut short": lambda folder: shards(folder).write_bytes(shards(folder).read_bytes()[:-2000]),
    "byte flipped": lambda folder: flip_a_byte(shards(folder)),
    "metadata flipped": lambda folder: flip_a_byte(next(folder.glob("state-*/.metadata"))),
}


def unlisted(folder: Path) -> None:
    (next(folder.glob("state-*")) / "__1_0.distcp").write_bytes(b"more")


def resealed(folder: Path, **changes: Any) -> None:
    """Seals the manifest again, as a stranger could."""
    manifest = read_manifest(folder / "manifest.json")
    part = next(folder.glob("state-*"))
    del manifest["files"]
    (folder / "manifest.json").write_text(manifest_of(hashes_of(part), {**manifest, **changes}))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
