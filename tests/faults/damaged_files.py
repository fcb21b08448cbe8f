"""What happens with damaged files of the cache and of checkpoints: found by their hashes, made again or refused.

    python -m tests.faults.damaged_files [--files 50] [--seed 0] [--json FILE] [--quick]

A tiny model's data is prepared, and a run of it saved. Then in turn a file of a cache entry or of the checkpoint has a
byte changed, is cut short, emptied, appended to or swapped with another, the manifest is altered, or a file is added. A
damaged cache entry must be made again as it was; a damaged checkpoint must be refused. About half a minute.

Keys: tried, used (damaged files that were read as if they were whole), kinds (tried, by damage).
"""

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import tiny
from tests.scripts import parse, parser_of, write_results
from trainables.preparation.prepared import Prepared
from trainables.training.checkpoint import CheckpointError
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


def _change_a_byte(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= dice.randrange(1, 256)
    path.write_bytes(content)


def _cut(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def _empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


def _append(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes() + dice.choice([b"\n", b" ", b"\0", dice.randbytes(9)]))


def _swap(path: Path, dice: random.Random) -> None:
    other = dice.choice([other for other in sorted(path.parent.iterdir()) if other != path and other.is_file()])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _add(path: Path, dice: random.Random) -> None:
    shutil.copyfile(path, path.with_name(f"more-{path.name}"))


def _remove(path: Path, dice: random.Random) -> None:
    path.unlink()


def _alter_the_manifest(path: Path, dice: random.Random) -> None:
    manifest = path.parent / "manifest.json"
    if not manifest.exists():
        manifest = path.parents[1] / "manifest.json"
    content: dict[str, Any] = json.loads(manifest.read_text())
    match dice.randrange(4):
        case 0:
            content["files"].pop(dice.choice(sorted(content["files"])))
        case 1:
            content["files"][f"../{dice.choice(sorted(content['files']))}"] = "0" * 64
        case 2:
            content["files"][dice.choice(sorted(content["files"]))] = "0" * 64
        case 3:
            content["key" if "key" in content else "about"] = {}
    manifest.write_text(json.dumps(content, indent=1))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "a byte changed": _change_a_byte, "cut short": _cut, "emptied": _empty, "appended to": _append, "swapped": _swap,
    "a file added": _add, "removed": _remove, "manifest altered": _alter_the_manifest,
}  # fmt: skip


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _entries(prepared: Prepared) -> list[Path]:
    return [prepared.folder, prepared.tokens, prepared.entropies, prepared.evaluation]


def damaged_cache(cache: Path, damage: Callable[[Path, random.Random], None], dice: random.Random) -> bool:
    """Damages a file of the cache, and prepares again. Returns whether what is damaged was used."""
    prepared = tiny.prepared(cache)
    entry = dice.choice(_entries(prepared))
    before = _content(entry)
    damage(dice.choice(sorted(path for path in entry.iterdir() if path.is_file())), dice)
    assert _content(entry) != before, "nothing was damaged"
    again = tiny.prepared(cache)
    return again != prepared or _content(entry) != before


def damaged_checkpoint(
    warm: WarmModel, saved: Path, folder: Path, damage: Callable[[Path, random.Random], None], dice: random.Random
) -> bool:
    """Damages a copy of the checkpoint `saved`, and restores it. Returns whether what is damaged was used."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    # The folder of the state has several files; the manifest lies above it.
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    inner = [path for path in files if path.parent != folder]
    damage(dice.choice(inner if damage in (_swap, _add) else files), dice)
    assert _content(folder) != _content(saved), "nothing was damaged"
    run = Run(warm, tiny.settings())
    try:
        run.restore(folder)
    except CheckpointError:
        return bool(run.history)
    return True


def measure(files: int, seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    used = 0
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        warm = WarmModel(tiny.prepared(folder / "cache"), tiny.CPU)
        run = Run(warm, tiny.settings())
        run.advance()
        run.save(folder / "saved")
        for number in range(files):
            name = list(DAMAGES)[number // 2 % len(DAMAGES)]
            if number % 2:
                bad = damaged_checkpoint(warm, folder / "saved", folder / "damaged", DAMAGES[name], dice)
            else:
                bad = damaged_cache(folder / "cache", DAMAGES[name], dice)
            what = f"{'checkpoint' if number % 2 else 'cache'}, {name}"
            kinds[what] += 1
            if bad:
                used += 1
                print(f"used all the same: {what} (number {number})")
    return {"tried": sum(kinds.values()), "used": used, "kinds": dict(kinds)}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, files=2 * len(DAMAGES))
    result = measure(options.files, options.seed)
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return int(result["used"] > 0)


if __name__ == "__main__":
    sys.exit(main())
