"""What is said about damaged model folders: one line that names the model, or a model that can be used.

    python -m tests.faults.damaged_models [--files 300] [--seed 0] [--json FILE] [--quick]

The folder of a tiny model is damaged, with a seed, in turn: a value in one of its JSON files is dropped, renamed,
retyped, nested or moved; one of its files is cut, has bytes changed, is missing or is a Git LFS pointer; weights are
missing, of another shape, another type or not finite; there are shards, adapters, pickles, templates, and tokens
without embeddings. Each goes through `python -m search.run SPACE --dry-run` in this process; what is accepted is then
prepared, trained for a step, saved and loaded. Some six minutes on two cores.

Keys: tried, tracebacks, unplaced (refused in another way than in one line with a place in the YAML), misread (accepted,
and failed later), accepted, kinds (tried, by damage).
"""

import json
import os
import random
import resource
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.faults.damaged_data import conclude, options
from tests.faults.damaged_spaces import MEMORY, VALUE_KINDS, answer, damage_bytes, damage_value
from trainables.curriculum import Constant
from trainables.models.loading import load_model, load_tokenizer
from trainables.models.resolve import model_folder
from trainables.preparation.prepare import prepare
from trainables.settings import EntroDrop
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

_WEIGHTS = "model.safetensors"
_OTHERS = {
    "generation_config.json": {"eos_token_id": [0, 5], "do_sample": False, "temperature": 0.9},
    "special_tokens_map.json": {"eos_token": "<end>"},
    "added_tokens.json": {},
}
Damage = Callable[[Path, random.Random], object]


def _change_value(how: str) -> Damage:
    def change(folder: Path, dice: random.Random) -> None:
        path = dice.choice(sorted(folder.glob("*.json")))
        tree = json.loads(path.read_text())
        if tree:
            damage_value(tree, how, dice)
        path.write_text(json.dumps(tree))

    return change


def _change_bytes(how: str) -> Damage:
    def change(folder: Path, dice: random.Random) -> None:
        path = dice.choice(sorted(folder.iterdir()))
        path.write_bytes(damage_bytes(path.read_bytes(), how, dice))

    return change


def _remove(folder: Path, dice: random.Random) -> None:
    dice.choice(sorted(folder.iterdir())).unlink()


def _point(folder: Path, dice: random.Random) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    dice.choice(sorted(folder.iterdir())).write_text(pointer)


def _change_weights(folder: Path, dice: random.Random) -> None:
    state = load_file(folder / _WEIGHTS)
    name = dice.choice(sorted(state))
    match dice.randrange(6):
        case 0:
            del state[name]
        case 1:
            state[name] = state[name][..., :-1].contiguous()
        case 2:
            state[f"{name}x"] = state.pop(name)
        case 3:
            state[name] = torch.full_like(state[name], float(dice.choice(["nan", "inf"])))
        case _:
            kind = dice.choice([torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.float8_e4m3fn])
            state = {name: tensor.to(kind) for name, tensor in state.items()}
    save_file(state, folder / _WEIGHTS, {"format": "pt"})


def _shard(folder: Path, dice: random.Random) -> None:
    state = sorted(load_file(folder / _WEIGHTS).items())
    (folder / _WEIGHTS).unlink()
    parts = {"model-00001-of-00002.safetensors": state[::2], "model-00002-of-00002.safetensors": state[1::2]}
    for name, part in parts.items():
        save_file(dict(part), folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key, _ in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if dice.random() < 0.5:
        (folder / dice.choice(list(parts))).unlink()


def _add_adapters(folder: Path, dice: random.Random) -> None:
    about = {"peft_type": "LORA", "base_model_name_or_path": dice.choice([None, "a/b", str(folder)]), "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    (folder / "adapter_model.safetensors").write_bytes((folder / _WEIGHTS).read_bytes())
    if dice.random() < 0.5:
        (folder / _WEIGHTS).unlink()


def _add_tokens(folder: Path, dice: random.Random) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<extra{n}>" for n in range(3)])
    if dice.random() < 0.5:
        tokenizer.add_special_tokens({dice.choice(["eos_token", "mask_token", "bos_token"]): "<new>"})
    tokenizer.save_pretrained(folder)


def _pickle(folder: Path, dice: random.Random) -> None:
    (folder / _WEIGHTS).rename(folder / dice.choice(["pytorch_model.bin", "model.pt", "tf_model.h5"]))


KINDS: dict[str, Damage] = {
    **{how: _change_value(how) for how in VALUE_KINDS},
    **{how: _change_bytes(how) for how in ("truncated", "raw bytes")},
    "missing file": _remove, "pointer": _point, "weights": _change_weights, "shards": _shard,
    "adapters": _add_adapters, "tokens": _add_tokens, "pickles": _pickle,
}  # fmt: skip


def damaged(number: int, seed: int, folder: Path) -> str:
    """Writes the model folder of this number and its space, space.yaml, into `folder`; the damage."""
    dice = random.Random(f"{seed}/{number}")
    kind = list(KINDS)[number % len(KINDS)]
    space = tiny.space(folder, schedule={"presentation": dice.choice(["input", "input_random_token", "loss"])})
    for name, content in _OTHERS.items():
        (folder / "tiny" / name).write_text(json.dumps(content))
    (folder / "tiny" / "chat_template.jinja").write_text("{{ messages }}")
    KINDS[kind](folder / "tiny", dice)
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return kind


def use(folder: Path) -> None:
    """Prepares, trains for an evaluation, saves and loads again, as a trial would."""
    name = str(folder / "tiny")
    prepared = prepare(name, [name], tiny.preparation(folder / "cache"))
    run = Run(WarmModel(prepared, tiny.CPU), tiny.settings(epochs=1, entrodrop=_RANDOM))
    run.advance()
    run.save_model(folder / "saved")
    load_tokenizer(folder / "saved")
    load_model(model_folder(str(folder / "saved"), folder / "cache"), tiny.CPU)


_RANDOM = EntroDrop(0.5, Constant(), quantile=0.5, presentation="input_random_token")


def measure(files: int, seed: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(files):
        failed = ""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch).resolve()
            kind = damaged(number, seed, folder)
            with chdir(folder), mock.patch("search.plan.default_root", return_value=folder / "cache"):
                said = answer("space.yaml")
            if said.valid:
                try:
                    use(folder)
                # What a trial would end with.
                except Exception:
                    failed = traceback.format_exc()
        kinds[kind] += 1
        counts["tracebacks"] += said.crashed
        counts["accepted"] += said.valid
        counts["misread"] += bool(failed)
        unplaced = not said.valid and not said.crashed and not said.placed("space.yaml")
        counts["unplaced"] += unplaced
        if said.crashed or failed or unplaced:
            print(f"{number} ({kind}):\n{said.out if unplaced else ''}{said.err[-3000:]}{failed[-3000:]}", flush=True)
    names = ("tracebacks", "unplaced", "misread", "accepted")
    return {"tried": files, **{name: counts[name] for name in names}, "kinds": dict(kinds)}


def main() -> int:
    given = options(__doc__, len(KINDS))
    return conclude(given, measure(given.files, given.seed))


if __name__ == "__main__":
    sys.exit(main())
