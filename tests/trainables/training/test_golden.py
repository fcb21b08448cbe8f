"""Golden losses: a change that should not change numbers proves it here.

    python -m tests.trainables.training.test_golden --write

writes tests/assets/losses anew, after a change that should.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pytest
import torch

from tests import ROOT, tiny
from trainables.curriculum import SHAPES, Constant, Cosine, Curriculum, Linear, Sigmoid, Spline, Step
from trainables.settings import EntroDrop
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

LOSSES = ROOT / "tests" / "assets" / "losses"
CURRICULA: list[Curriculum] = [
    Constant(),
    Linear(),
    Cosine(),
    Sigmoid(0.4, 10.0),
    Step(0.5),
    Spline((0.1, 0.6, 0.2, 0.1)),
]
PRESENTATIONS = ("input", "input_mask_token", "input_random_token", "loss")
RUNS: dict[str, EntroDrop | None] = {"none": None} | {
    f"{type(curriculum).__name__.lower()}.{presentation}": tiny.entrodrop(curriculum, 0.6, 0.7, presentation)
    for curriculum in CURRICULA
    for presentation in PRESENTATIONS
}
METRICS = ("high_entropy_loss", "loss", "mask_rate")


def curves(warm: WarmModel, entrodrop: EntroDrop | None) -> dict[str, list[float]]:
    """Each metric by epoch."""
    run = Run(warm, tiny.settings(entrodrop=entrodrop, epochs=4))
    while not run.finished:
        run.advance()
    return {name: [metrics[name] for metrics in run.history] for name in METRICS}


def test_every_curriculum_has_golden_losses() -> None:
    assert {type(curriculum) for curriculum in CURRICULA} == set(SHAPES.values())
    assert {path.stem for path in LOSSES.glob("*.json")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_golden(warm: WarmModel, name: str) -> None:
    golden = json.loads((LOSSES / f"{name}.json").read_text())
    assert golden.keys() == set(METRICS)
    for metric, values in curves(warm, RUNS[name]).items():
        assert values == pytest.approx(golden[metric], rel=1e-5), metric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", required=True, help="overwrite the golden losses")
    parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        warm = WarmModel(tiny.prepared(Path(cache)), tiny.CPU)
        for name, entrodrop in RUNS.items():
            path = LOSSES / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(curves(warm, entrodrop), indent=1) + "\n")


if __name__ == "__main__":
    main()
