"""The planned memory of a run against what one takes: the built-in models at several lengths, on the CPU.

    python -m tests.benchmarks.memory_plan [--json memory_plan.json]

Random weights; four rows a micro-batch; float32 and bfloat16, with and without gradient checkpointing. Measured is the
most that all tensors of a run take together, its data apart, in a step and an evaluation.

Keys: runs (model, sequence_length, precision, checkpointing, planned_bytes, measured_bytes), worst (the largest
deviation, a share of what is measured; the goal is at most 0.2).
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path

from tests.memory import measured
from trainables.builtin import ARCHITECTURES, unweighted
from trainables.forward import PRECISIONS
from trainables.memory import memory_of
from trainables.settings import ModelSettings

ROWS, LENGTHS = 4, (64, 256, 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = []
    for model, length, precision, checkpointing in product(ARCHITECTURES, LENGTHS, PRECISIONS, (False, True)):
        config, how = unweighted(model)[0].config, ModelSettings(gradient_checkpointing=checkpointing)
        shape = {"rows": ROWS, "sequence_length": length}
        planned = memory_of(config, how, precision=PRECISIONS[precision], device="cpu", **shape).total
        found = measured(config, how, precision=precision, **shape)
        print(
            f"{model} {length:5} {precision} {'checkpointing' if checkpointing else '':13}"
            f" planned {planned / 1e6:7.1f} MB, measured {found / 1e6:7.1f} MB, {planned / found - 1:+.1%}",
            flush=True,
        )
        runs.append(
            {
                "model": model,
                "sequence_length": length,
                "precision": precision,
                "checkpointing": checkpointing,
                "planned_bytes": planned,
                "measured_bytes": found,
            }
        )
    worst = max(abs(run["planned_bytes"] / run["measured_bytes"] - 1) for run in runs)
    print(f"largest deviation {worst:.1%}")
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "worst": worst}, indent=1) + "\n")
    return 0 if worst <= 0.2 else 1


if __name__ == "__main__":
    sys.exit(main())
