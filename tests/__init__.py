"""Tests mirror the packages. They are in four tiers, with these limits on two cores that nothing else uses:

    python -m pytest tests -m unit -n 2         1 minute
    python -m pytest tests -n 2                 5 minutes, with `integration`: what a change must pass
    python -m pytest tests -m faults -n 2
    python -m pytest tests -m cluster
    .ci/run                                     25 minutes: all but the scripts that start Ray; ruff; mypy

pytest says at its end how long each tier took.

unit: functions and classes, without Ray and without training.
integration: the training loop, with its golden losses, and the main job. A search by the command line with two slots, a
    confirmation and a registered model; its record in MLflow; the same search interrupted, out of disk space, and
    resumed; its report, in a browser; its best schedule trained; the README's commands for all that, and its example
    for `Trainer`.
faults: what goes wrong (killed drivers, workers and slots, memory that runs short, damaged files and spaces, a server
    that is away), tests that take seconds (plans of large models, Gaussian processes), and each script of
    tests/benchmarks and tests/faults with --quick.
cluster: several nodes, or several workers that share a run.

A test has the marker of one tier; what has none is `integration` in the files that train, and `unit` elsewhere. `gpu`
is beside them: a test that needs a CUDA device, which is skipped without one.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("unit", "integration", "faults", "cluster")
# Where tests train models.
TRAINING = tuple(ROOT / "tests/trainables" / name for name in ("training", "test_finetune.py", "test_trainer.py"))

# Seconds that a test waits for what must come: many, as a machine may be slow or busy, and nothing may depend on it.
DEADLINE_S = 1800.0
