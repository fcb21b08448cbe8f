"""The planned memory of a run against what one takes: small models at several lengths, on the CPU.

    python -m tests.benchmarks.memory_plan [--json FILE] [--quick]

The built-in models with one worker, and with two, which share the training with DDP or with FSDP; and with two workers
one of 29 million parameters ("qwen3"), which weigh more than activations do. Random weights; four rows a micro-batch;
float32 and bfloat16, with and without gradient checkpointing. Measured is the most that all tensors of a run take
together on the first worker, its data apart, in a step and an evaluation.

Keys: runs (model, sequence_length, precision, checkpointing, workers, sharding, planned_bytes, measured_bytes), worst
(the largest deviation, a share of what is measured; the goal is at most 0.2).
"""

import sys
from collections.abc import Iterator
from itertools import product

from transformers import PreTrainedConfig, Qwen3Config

from tests.memory import measured
from tests.scripts import parse, parser_of, write_results
from trainables.forward import PRECISIONS
from trainables.models.architectures import ARCHITECTURES
from trainables.models.builtin import unweighted
from trainables.settings import ModelSettings
from trainables.training.memory_estimate import memory_of

ROWS, LENGTHS = 4, (64, 256, 1024)
HEAVY = Qwen3Config(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
)
ALONE, SHARED = [(1, "ddp")], [(2, "ddp"), (2, "fsdp")]


def cases() -> Iterator[tuple[str, PreTrainedConfig, int, int, str]]:
    """Model, configuration, tokens in a row, workers, and how these share the training."""
    for model, length, (workers, sharding) in product(ARCHITECTURES, LENGTHS, ALONE + SHARED):
        yield model, unweighted(model)[0].config, length, workers, sharding
    for workers, sharding in SHARED:
        yield "qwen3", HEAVY, LENGTHS[0], workers, sharding


def main() -> int:
    options = parse(parser_of(__doc__))
    runs = []
    asked = list(product(cases(), PRECISIONS, (False, True)))
    if options.quick:
        # One way of sharing after the other.
        asked = asked[: 4 * len(ALONE + SHARED) : 4]
    for (model, config, length, workers, sharding), precision, checkpointing in asked:
        how = ModelSettings(gradient_checkpointing=checkpointing, sharding=sharding)
        shape = {"rows": ROWS, "sequence_length": length, "ranks": workers}
        dtype = PRECISIONS[precision]
        planned = memory_of(config, how, precision=dtype, sharding=sharding, device="cpu", **shape).total
        found = measured(config, how, precision=precision, **shape)
        print(
            f"{model:13} {length:5} {f'2 {sharding}' if workers > 1 else '1':6} {precision}"
            f" {'checkpointing' if checkpointing else '':13}"
            f" planned {planned / 1e6:7.1f} MB, measured {found / 1e6:7.1f} MB, {planned / found - 1:+.1%}",
            flush=True,
        )
        runs.append(
            {
                "model": model,
                "sequence_length": length,
                "precision": precision,
                "checkpointing": checkpointing,
                "workers": workers,
                "sharding": sharding,
                "planned_bytes": planned,
                "measured_bytes": found,
            }
        )
    worst = max(abs(run["planned_bytes"] / run["measured_bytes"] - 1) for run in runs)
    print(f"largest deviation {worst:.1%}")
    write_results(options, {"runs": runs, "worst": worst})
    return int(worst > 0.2 and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
