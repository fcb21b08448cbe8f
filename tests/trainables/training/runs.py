"""Runs of a tiny model, and whether two of them are the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from trainables.curriculum import Linear, Sigmoid
from trainables.token_weight import Eaft, Mile, Selective
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

Weights = dict[str, Tensor]


def weights(warm: WarmModel) -> Weights:
    return {name: tensor.clone() for name, tensor in warm.model.state_dict().items()}


def same(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def untimed(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in metrics.items() if k != "tokens_per_s"} for metrics in run.history]


def finish(run: Run) -> Run:
    while not run.finished:
        run.advance()
    return run


def trained(warm: WarmModel, **changes: Any) -> tuple[list[dict[str, float]], Weights]:
    run = finish(Run(warm, tiny.settings(**changes)))
    return untimed(run), weights(warm)


def close(one: list[dict[str, float]], two: list[dict[str, float]], tolerance: float) -> bool:
    return len(one) == len(two) and all(a == pytest.approx(b, rel=tolerance) for a, b in zip(one, two, strict=True))


# What must be the same whatever interrupts a run or shares it out.
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "input": {"entrodrop": tiny.entrodrop(Sigmoid(0.3, 8.0), presentation="input")},
    "loss": {"entrodrop": tiny.entrodrop(Linear(), presentation="loss")},
    "mask token": {"entrodrop": tiny.entrodrop(presentation="input_mask_token")},
    "random token": {"entrodrop": tiny.entrodrop(presentation="input_random_token")},
    "refreshed": {"entrodrop": replace(tiny.entrodrop(), refresh_epochs=1)},
    "regularized": {
        "hidden_dropout": 0.1,
        "neftune_alpha": 5.0,
        "label_smoothing": 0.1,
        "lr_schedule": "cosine",
        "weight_decay": 0.5,
    },
    "eaft": {"token_weight": Eaft(5), "entrodrop": tiny.entrodrop(Linear(0.4), presentation="loss")},
    "mile": {"token_weight": Mile(), "entrodrop": tiny.entrodrop()},
    "selective": {"token_weight": Selective(0.4), "hidden_dropout": 0.1},
    "not redrawn": {"entrodrop": replace(tiny.entrodrop(Linear()), redraw="never")},
}
each_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
