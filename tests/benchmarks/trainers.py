"""EntroDrop in transformers.Trainer and TRL's SFTTrainer against this project's own training, on builtin/nano.

    python -m tests.benchmarks.trainers [--json FILE] [--quick]

First the same training (data order, optimizer, learning rate, seed) here and there, with each presentation: padded rows
in both trainers, and rows that SFTTrainer packs. Then the CPU time from the end of a step to the end of the next one,
without a schedule, with one at full strength, and in the way that an older README documented: a second model gives the
entropies of each batch in a forward pass of its own. The three take turns on the same batches.
Where TRL is not installed, it says so and measures Trainer alone.

Keys, each by trainer: same_tokens (share of the tokens dropped here or there that are dropped in both, in the same
step), loss_difference (the largest of a step, nats), step_ratio (median over pairs of steps, with a schedule over
without), two_pass_ratio.
"""

import copy
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback

from tests.scripts import parse, parser_of, write_results
from tests.trainers import SameTrainer, arguments, dataset_of, our_training, packed_like, sft_trainer, trainer
from trainables.curriculum import Constant, Curriculum, Linear
from trainables.data.builtin import Builtin
from trainables.data.documents import SplitSizes
from trainables.masking import candidates, dropped_tokens, zero_inputs
from trainables.models.builtin import unweighted
from trainables.models.loading import load_model
from trainables.models.resolve import model_folder
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Preparation, Prepared
from trainables.settings import EntroDrop, Settings
from trainables.storage.cache import default_root
from trainables.trainer import EntroDropMixin
from trainables.training.warm_model import WarmModel

CPU = torch.device("cpu")
BATCH, LENGTH = 8, 256
PRESENTATIONS = ("input", "input_random_token", "loss")


def settings(presentation: str, curriculum: Curriculum, epochs: int) -> Settings:
    return Settings(
        entrodrop=EntroDrop(0.5, curriculum, quantile=0.5, presentation=presentation),
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup=0.1,
        batch_size=BATCH,
        accumulation=1,
        gradient_clip=1.0,
        precision="fp32",
        epochs=epochs,
        evaluations_per_epoch=1,
        seed=0,
    )


class Bench:
    """The model, its data and both trainers."""

    def __init__(self, folder: Path, model: Path, documents: int) -> None:
        self.folder, self.model = folder, model
        self.splits = Builtin("word_problems", SplitSizes(documents, 8, 8)).splits(0)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.padded = self.prepared("padded")
        self.warm = WarmModel(self.padded, CPU)
        self.rows = dataset_of(self.padded.packed("train"))

    def prepared(self, layout: str) -> Prepared:
        what = Preparation(self.splits, LENGTH, 0.2, 0.5, self.folder / "cache", layout=layout)
        return prepare(str(self.model), [str(self.model)], what)

    def made(self, warm: WarmModel, of: Settings, kind: Any, config: Any = None, **changes: Any) -> Any:
        if config is not None:
            changes |= {"kind": config, "max_length": LENGTH, "bf16": False, "gradient_checkpointing": False}
        model = load_model(self.model, CPU)
        out = self.folder / "out"
        return trainer(warm, of, out, model=model, tokenizer=self.tokenizer, data=self.rows, kind=kind, changes=changes)


def compared(warm: WarmModel, of: Settings, theirs: Any) -> tuple[float, float]:
    """same_tokens and loss_difference."""
    losses, dropped = our_training(warm, of)
    theirs.train()
    both = sum(len(one & two) for one, two in zip(dropped, theirs.dropped, strict=True))
    either = sum(len(one | two) for one, two in zip(dropped, theirs.dropped, strict=True))
    return both / either, max(abs(one - two) for one, two in zip(losses, theirs.losses, strict=True))


class TwoPass:
    """Put before a Trainer: a copy of the model scores each batch."""

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if not hasattr(self, "_reference"):
            self._reference = copy.deepcopy(model).eval()
        tokens = inputs.pop("input_ids")
        with torch.no_grad():
            logits = self._reference(tokens, attention_mask=inputs["attention_mask"]).logits
        entropy = torch.full(tokens.shape, torch.inf, device=tokens.device)
        entropy[:, 1:] = torch.distributions.Categorical(logits=logits[:, :-1].float()).entropy()
        low = candidates(entropy, inputs["attention_mask"].bool(), least=0.0, greatest=1.2)
        dropped = dropped_tokens(low, 0.5, torch.rand(tokens.shape, device=tokens.device))
        inputs["inputs_embeds"] = zero_inputs(model.get_input_embeddings()(tokens), dropped)
        return super().compute_loss(model, inputs, *arguments, **named)  # type: ignore[misc]


class Clock(TrainerCallback):  # type: ignore[misc]
    """CPU seconds of this process from the end of a step to the end of the next one."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.process_time()
        if hasattr(self, "_ended"):
            self.steps.append(now - self._ended)
        self._ended = now


def step_ratios(bench: Bench, kind: Any, config: Any, rounds: int, steps: int) -> tuple[float, float]:
    """step_ratio and two_pass_ratio."""
    of = settings("input", Constant(), 1)
    ways: dict[str, Any] = {
        "off": kind,
        "on": type("On", (EntroDropMixin, kind), {}),
        "two": type("Two", (TwoPass, kind), {}),
    }
    changes: dict[str, Any] = {"max_steps": steps}
    if config is not None:
        changes |= {"max_length": LENGTH, "bf16": False, "gradient_checkpointing": False}
    args = arguments(of, bench.folder / "out", **({"kind": config} if config else {}), **changes)
    named = {"args": args, "train_dataset": bench.rows, "processing_class": bench.tokenizer}
    if config is None:
        named["data_collator"] = DataCollatorForSeq2Seq(bench.tokenizer)
    schedule = {"entropy_threshold": {"quantile": 0.5}, "mask_ratio": 0.5, "curriculum": {"shape": "constant"}}
    trainers = {
        name: way(model=load_model(bench.model, CPU), **named, **({"schedule": schedule} if name == "on" else {}))
        for name, way in ways.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            clock = Clock()
            trainers[name].add_callback(clock)
            trainers[name].train()
            trainers[name].remove_callback(clock)
            # The first one starts the caches.
            seconds[name] += clock.steps[1:]
    print({name: f"{statistics.median(values) * 1000:.1f} ms" for name, values in seconds.items()}, flush=True)
    on, two = (
        statistics.median(one / other for one, other in zip(seconds[name], seconds["off"], strict=True))
        for name in ("on", "two")
    )
    return on, two


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    options = parse(parser, rounds=1)
    disable_progress_bars()
    documents, epochs, steps = (16, 1, 4) if options.quick else (160, 3, 16)
    kinds: dict[str, tuple[Any, Any, Any]] = {"Trainer": (SameTrainer, Trainer, None)}
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: Trainer alone")
    else:
        same, config = sft_trainer()
        kinds["SFTTrainer"] = same, same.__bases__[1], config
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        if options.quick:
            for part in unweighted("builtin/nano"):
                part.save_pretrained(model)
        else:
            model = model_folder("builtin/nano", default_root())
        os.environ["ENTRODROP_CACHE"] = str(folder / "cache")
        bench = Bench(folder, model, documents)
        results: dict[str, dict[str, float]] = {
            key: {} for key in ("same_tokens", "loss_difference", "step_ratio", "two_pass_ratio")
        }
        for name, (same, kind, config) in kinds.items():
            found = []
            for presentation in PRESENTATIONS:
                of = settings(presentation, Linear(), epochs)
                found.append(compared(bench.warm, of, bench.made(bench.warm, of, same, config)))
            results["same_tokens"][name] = min(tokens for tokens, _ in found)
            results["loss_difference"][name] = max(difference for _, difference in found)
            if config is not None:
                of = settings("input", Linear(), epochs)
                rows = bench.made(bench.warm, of, same, config, packing=True).train_dataset
                with packed_like(rows, bench.rows):
                    warm = WarmModel(bench.prepared("packed"), CPU)
                tokens, difference = compared(warm, of, bench.made(warm, of, same, config, packing=True))
                results["same_tokens"][f"{name}, packed"] = tokens
                results["loss_difference"][f"{name}, packed"] = difference
            ratios = step_ratios(bench, kind, config, options.rounds, steps)
            results["step_ratio"][name], results["two_pass_ratio"][name] = ratios
    print(json.dumps(results, indent=1))
    write_results(options, results)
    met = (
        min(results["same_tokens"].values()) == 1.0
        and max(results["loss_difference"].values()) <= 1e-4
        and max(results["step_ratio"].values()) <= 1.02
    )
    return int(not met and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
