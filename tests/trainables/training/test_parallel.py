"""Two processes train like one: each with the whole model (DDP) or with a part of it (FSDP2)."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from tests import tiny
from trainables.curriculum import Linear
from trainables.parallel import Agreement, leave_group
from trainables.preparation.prepared import Prepared
from trainables.preparation.scoring import score
from trainables.settings import ExactMatch, Lora, ModelSettings
from trainables.token_weight import Eaft, Mile, Selective
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

pytestmark = pytest.mark.cluster

REFRESHED = {"entrodrop": tiny.entrodrop(Linear()), "accumulation": 2, "epochs": 3}
NOISY = {"hidden_dropout": 0.1, "neftune_alpha": 5.0, "lr_schedule": "wsd", "evaluations_per_epoch": 2, "epochs": 2}

RUNS: dict[str, tuple[dict[str, Any], ModelSettings]] = {
    "ddp": (REFRESHED, ModelSettings(sharding="ddp")),
    "fsdp": (REFRESHED, ModelSettings(sharding="fsdp")),
    "ddp, noisy": (NOISY, ModelSettings(sharding="ddp")),
    "fsdp, noisy": (NOISY, ModelSettings(sharding="fsdp")),
    "fsdp, checkpointing": (NOISY, ModelSettings(sharding="fsdp", gradient_checkpointing=True)),
    "ddp, lora": (REFRESHED, ModelSettings(sharding="ddp", lora=Lora(4, 8.0))),
    "ddp, mile": ({"token_weight": Mile(), **REFRESHED}, ModelSettings(sharding="ddp")),
    "fsdp, mile": ({"token_weight": Mile(), **REFRESHED}, ModelSettings(sharding="fsdp")),
    "ddp, selective": ({"token_weight": Selective(), "accumulation": 2}, ModelSettings(sharding="ddp")),
    "ddp, eaft, lora": ({"token_weight": Eaft(5)}, ModelSettings(sharding="ddp", lora=Lora(4, 8.0, 0.1, ("q_proj",)))),
    "fsdp, lora": (REFRESHED, ModelSettings(sharding="fsdp", lora=Lora(4, 8.0))),
    "ddp, answers": ({}, ModelSettings(sharding="ddp", exact_match=ExactMatch(3, 4), test_answers=True)),
}
if find_spec("bitsandbytes"):
    RUNS["ddp, nf4"] = REFRESHED, ModelSettings(sharding="ddp", lora=Lora(4, 8.0), base_weights="nf4")


def losses(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in metrics.items() if k != "tokens_per_s"} for metrics in run.history]


def finish(run: Run, folder: Path, name: str, stop: int | None = None) -> None:
    """Trains to the end or to evaluation `stop`, and writes what came out."""
    while not run.finished and len(run.history) != stop:
        run.advance()
    if stop is not None:
        run.save(folder / "checkpoint")
    weights = run.weights()
    test = run.test()
    if not dist.is_initialized() or dist.get_rank() == 0:
        (folder / f"{name}.json").write_text(json.dumps(losses(run)))
        (folder / f"{name}.test.json").write_text(json.dumps(test))
        # Weights of 4 bits are bytes, which no run changes.
        untied = {n: t.contiguous() for n, t in weights.items() if n != "lm_head.weight" and t.is_floating_point()}
        save_file(untied, folder / f"{name}.safetensors")


class _Stop(Exception):
    pass


def _stopping(rank: int) -> Callable[[], None]:
    agreement = Agreement()

    def stepped() -> None:
        if agreement(rank == 0):
            raise _Stop

    return stepped


def _accumulates(run: Run) -> list[bool]:
    """Whether this rank's own parameters have gradients when a forward pass begins, one after the other."""
    found: list[bool] = []
    parameters = list(run.warm.step.parameters())
    run.warm.forward.register_forward_pre_hook(
        lambda *_: found.append(any(parameter.grad is not None for parameter in parameters))
    )
    return found


def _rank(rank: int, prepared: Prepared, folder: Path, ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    for name in RUNS:
        _train_on_rank(rank, prepared, folder, name)
    leave_group()


def _train_on_rank(rank: int, prepared: Prepared, folder: Path, name: str) -> None:
    changes, how = RUNS[name]
    warm = WarmModel(prepared, tiny.CPU, how)
    run = Run(warm, tiny.settings(**changes), keep_best=True)
    accumulates = _accumulates(run)
    finish(run, folder, name)
    if rank == 0:
        (folder / f"{name}.accumulates.json").write_text(json.dumps(accumulates))
    # A second run on the same warm model, interrupted.
    (folder / name).mkdir(exist_ok=True)
    finish(Run(warm, tiny.settings(**changes), keep_best=True), folder / name, "half", stop=2)
    entropy_RT, _ = score(warm.forward, warm.train[: warm.rows])
    if rank == 0:
        save_file({"entropy": entropy_RT}, folder / name / "entropy.safetensors")
    # A third, stopped between two evaluations when rank 0 wishes it.
    stopped = Run(warm, tiny.settings(**changes), keep_best=True)
    stopped.advance()
    with suppress(_Stop):
        stopped.advance(_stopping(rank))
    stopped.save(folder / f"{name}, stopped" / "checkpoint")
    # One process began, two go on.
    alone = Run(warm, tiny.settings(**changes), keep_best=True)
    alone.restore(folder / f"{name}, alone" / "checkpoint")
    finish(alone, folder, f"{name}, resumed by two")


@pytest.fixture(scope="module")
def folder(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two processes make of each run."""
    folder = tmp_path_factory.mktemp("ranks")
    for name, (changes, how) in RUNS.items():
        warm = WarmModel(prepared, tiny.CPU, how)
        finish(Run(warm, tiny.settings(**changes), keep_best=True), folder, f"{name}, one")
        (folder / f"{name}, alone").mkdir()
        finish(Run(warm, tiny.settings(**changes), keep_best=True), folder / f"{name}, alone", "half", stop=1)
    torch.multiprocessing.spawn(_rank, (prepared, folder, 2), nprocs=2)
    return folder


def history(folder: Path, name: str) -> list[dict[str, float]]:
    metrics: list[dict[str, float]] = json.loads((folder / f"{name}.json").read_text())
    return metrics


def agree(folder: Path, one: str, two: str) -> None:
    """The same numbers up to rounding: sums over ranks are taken in another order."""
    assert history(folder, one)
    for a, b in zip(history(folder, one), history(folder, two), strict=True):
        assert a == pytest.approx(b, rel=2e-5)
    first, second = (load_file(folder / f"{name}.safetensors") for name in (one, two))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        difference = float((tensor - second[name]).norm() / second[name].norm().clamp(min=1e-3))
        assert difference < 1e-4, name


each_run = pytest.mark.parametrize("name", RUNS)


@each_run
def test_two_processes_train_like_one(folder: Path, name: str) -> None:
    agree(folder, name, f"{name}, one")
    two, one = history(folder, name), history(folder, f"{name}, one")
    assert [m["mask_rate"] for m in two] == [m["mask_rate"] for m in one]


@each_run
@pytest.mark.parametrize("how", ["", ", resumed by two"])
def test_two_processes_read_the_test_split_like_one(folder: Path, name: str, how: str) -> None:
    two, one = (json.loads((folder / f"{run}.test.json").read_text()) for run in (name + how, f"{name}, one"))
    assert one.keys() == two.keys() == {"best", "final"}
    assert ("exact_match" in one["final"]["test"]) == ("answers" in name)
    for point in one:
        for measure, expected in one[point]["test"].items():
            assert two[point]["test"][measure]["counts"] == expected["counts"]
            assert two[point]["test"][measure]["sums"] == pytest.approx(expected["sums"], rel=1e-4, abs=1e-4)


@each_run
def test_a_rank_has_the_gradients_of_a_micro_batch_on_its_own_parameters(folder: Path, name: str) -> None:
    # With FSDP a whole gradient would lie elsewhere until it is exchanged.
    accumulates = json.loads((folder / f"{name}.accumulates.json").read_text())
    assert any(accumulates) == (RUNS[name][0].get("accumulation", 1) > 1)


@pytest.mark.parametrize("name", ["", ", noisy", ", lora"])
def test_ddp_equals_fsdp(folder: Path, name: str) -> None:
    agree(folder, f"ddp{name}", f"fsdp{name}")


@each_run
def test_one_process_goes_on_where_two_stopped(folder: Path, prepared: Prepared, name: str) -> None:
    changes, how = RUNS[name]
    run = Run(WarmModel(prepared, tiny.CPU, how), tiny.settings(**changes), keep_best=True)
    run.restore(folder / name / "checkpoint")
    assert len(run.history) == 2
    finish(run, folder, f"{name}, resumed by one")
    agree(folder, f"{name}, resumed by one", f"{name}, one")


@each_run
def test_one_process_goes_on_where_two_stopped_between_two_evaluations(
    folder: Path, prepared: Prepared, name: str
) -> None:
    changes, how = RUNS[name]
    run = Run(WarmModel(prepared, tiny.CPU, how), tiny.settings(**changes), keep_best=True)
    run.restore(folder / f"{name}, stopped" / "checkpoint")
    assert len(run.history) == 1
    assert run.progress > 1 / run.settings.evaluations
    finish(run, folder, f"{name}, stopped, resumed by one")
    agree(folder, f"{name}, stopped, resumed by one", f"{name}, one")


@each_run
def test_two_processes_go_on_where_one_stopped(folder: Path, name: str) -> None:
    agree(folder, f"{name}, resumed by two", f"{name}, one")


@each_run
def test_two_processes_score_like_one(folder: Path, prepared: Prepared, name: str) -> None:
    changes, how = RUNS[name]
    run = Run(WarmModel(prepared, tiny.CPU, how), tiny.settings(**changes), keep_best=True)
    run.restore(folder / name / "checkpoint")
    entropy_RT, _ = score(run.warm.forward, run.warm.train[: run.warm.rows])
    expected_RT = load_file(folder / name / "entropy.safetensors")["entropy"]
    assert torch.allclose(entropy_RT, expected_RT, rtol=1e-3)
    assert math.isfinite(float(entropy_RT[entropy_RT.isfinite()].sum()))
