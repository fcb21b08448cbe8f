"""Held-out losses against a slow loop over full logits."""

import pytest
import torch

from tests import tiny
from trainables.preparation.prepared import Prepared
from trainables.training.evaluate import HeldOut, evaluate
from trainables.training.warm_model import WarmModel


@pytest.fixture
def untrained(warm: WarmModel) -> WarmModel:
    warm.reset()
    return warm


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_losses_by_group_equal_a_loop(untrained: WarmModel, prepared: Prepared, rows: int) -> None:
    packed, (high_RT, low_RT) = prepared.packed("validation"), prepared.groups("validation")
    _, loss_RT = tiny.dense(untrained.model, packed)
    values: dict[str, list[float]] = {"loss": [], "high_entropy_loss": [], "low_entropy_loss": []}
    for r in range(len(packed.token_RT)):
        for t in range(packed.token_RT.shape[1]):
            if packed.document_RT[r, t] >= 0 and packed.position_RT[r, t] > 0:
                values["loss"].append(float(loss_RT[r, t]))
                values["high_entropy_loss"] += [float(loss_RT[r, t])] * bool(high_RT[r, t])
                values["low_entropy_loss"] += [float(loss_RT[r, t])] * bool(low_RT[r, t])
    losses = evaluate(untrained.forward, untrained.validation, torch.float32, rows=rows)
    del losses["high_entropy_accuracy"]
    assert losses == pytest.approx({name: sum(part) / len(part) for name, part in values.items()}, rel=1e-5)
    assert len(values["high_entropy_loss"]) == round(0.2 * len(values["loss"]))


def test_a_group_is_aligned_to_its_labels(untrained: WarmModel, prepared: Prepared) -> None:
    packed = prepared.packed("validation")
    loss_RT = tiny.dense(untrained.model, packed)[1]
    one_RT = torch.zeros_like(packed.special_RT)
    one_RT[1, 5] = True
    losses = evaluate(untrained.forward, HeldOut.on(tiny.CPU, packed, (one_RT, one_RT)), torch.float32)
    assert losses["high_entropy_loss"] == losses["low_entropy_loss"] == pytest.approx(float(loss_RT[1, 5]), rel=1e-5)


def test_bfloat16_is_close(untrained: WarmModel) -> None:
    exact = evaluate(untrained.forward, untrained.validation, torch.float32)
    coarse = evaluate(untrained.forward, untrained.validation, torch.bfloat16)
    assert coarse == pytest.approx(exact, rel=0.02)
    assert coarse != exact
