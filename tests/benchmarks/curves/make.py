"""Measures the tables beside this file: complete learning curves of random settings, and test losses of many seeds.

    python -m tests.benchmarks.curves.make [--models builtin/nano] [--settings 256] [--seeds 24] [--quick]

Each setting is drawn by Optuna's RandomSampler from space.yaml and trained to its end, never stopped; setting 0 is the
baseline without dropout, at the middle learning rate. What a file holds already is not measured again. On two cores
256 settings of builtin/nano take about 25 minutes.

curves.parquet: model, setting, params (JSON, by the names that a study gives them), tokens (list), and for each measure
the list of its validation losses in nats.
seeds.parquet: of the first model's baseline and best settings, model, setting, seed, point ("best" or "final"), and for
each document of the test split the summed high-entropy loss in nats and the number of its high-entropy tokens.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.progress import track

from search.space import Budget, Space, load
from search.studies.arm_spaces import arms_of, middle_settings, suggest_settings
from tests.scripts import parse, parser_of
from trainables.config.to_settings import fix_values, preparation_of, settings_of, splits_of
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Prepared
from trainables.settings import Settings
from trainables.storage.cache import default_root
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

FOLDER = Path(__file__).parent
CURVES, SEEDS = FOLDER / "curves.parquet", FOLDER / "seeds.parquet"
MEASURES = ("high_entropy_loss", "low_entropy_loss", "loss")

# The model of a process of the pool, which trains one run after the other.
_warm: list[WarmModel] = []


def space() -> Space:
    return load(FOLDER / "space.yaml").config


def drawn(space: Space, count: int) -> list[dict[str, Any]]:
    """The baseline's parameters and those of `count` - 1 random settings, by the names that a study gives them."""
    baseline, arm = arms_of(space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    settings = [middle_settings(baseline.space)]
    for _ in range(count - 1):
        trial = study.ask()
        suggest_settings(arm.space, trial)
        settings.append(trial.params)
    return settings


def settings_for(space: Space, number: int, params: dict[str, Any], seed: int = 0) -> Settings:
    baseline, arm = arms_of(space)
    own = baseline.space if number == 0 else arm.space
    chosen = fix_values(own, suggest_settings(own, optuna.trial.FixedTrial(params)))
    return settings_of(chosen.model_copy(update={"seed": seed}))


def _start(prepared: Prepared) -> None:
    torch.set_num_threads(1)
    _warm[:] = [WarmModel(prepared, torch.device("cpu"))]


def _curve(job: tuple[int, Settings]) -> dict[str, Any]:
    number, settings = job
    run = Run(_warm[0], settings)
    while not run.finished:
        run.advance()
    measured = {name: [metrics[name] for metrics in run.history] for name in MEASURES}
    return {"setting": number, "tokens": [int(metrics["tokens"]) for metrics in run.history], **measured}


def _tested(job: tuple[int, Settings]) -> list[dict[str, Any]]:
    number, settings = job
    run = Run(_warm[0], settings, keep_best=True)
    while not run.finished:
        run.advance()
    return [
        {"setting": number, "seed": settings.seed, "point": point, **read["test"]["high_entropy_loss"]}
        for point, read in run.test().items()
    ]


def measured_curves(what: Space, models: list[str], count: int, processes: int, path: Path) -> list[dict[str, Any]]:
    """The rows of curves.parquet, after measuring those of the models' settings that it does not have."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    params = drawn(what, count)
    for model in models:
        held = {row["setting"] for row in rows if row["model"] == model}
        jobs = [(n, settings_for(what, n, values)) for n, values in enumerate(params) if n not in held]
        if not jobs:
            continue
        with _pool(what, model, processes) as pool:
            for row in track(pool.imap(_curve, jobs), model, len(jobs)):
                rows.append({"model": model, "params": json.dumps(params[row["setting"]]), **row})
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return rows


def measure_seeds(what: Space, rows: list[dict[str, Any]], seeds: int, processes: int, path: Path) -> None:
    """Writes seeds.parquet: the baseline, and the settings of least loss at its best and at its end."""
    model = what.models[0]
    own = {row["setting"]: row for row in rows if row["model"] == model}
    values: tuple[Callable[[list[float]], float], ...] = (min, lambda losses: losses[-1])
    best = {min((n for n in own if n), key=lambda n: value(own[n]["high_entropy_loss"])) for value in values}
    jobs = [
        (number, settings_for(what, number, json.loads(own[number]["params"]), seed))
        for seed in range(1, seeds + 1)
        for number in (0, *sorted(best))
    ]
    with _pool(what, model, processes) as pool:
        tested = list(track(pool.imap(_tested, jobs), f"seeds of the settings 0 and {best}", len(jobs)))
    table = [{"model": model, **row} for rows in tested for row in rows]
    pq.write_table(pa.Table.from_pylist(table), path, compression="zstd")


def _pool(what: Space, model: str, processes: int) -> Pool:
    prepared = prepare(model, list(what.models), preparation_of(what, splits_of(what), default_root()))
    return multiprocessing.get_context("spawn").Pool(processes, _start, (prepared,))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=space().models)
    parser.add_argument("--settings", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables lie")
    options = parse(parser, settings=2, seeds=1, processes=1)
    what = space()
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            what = what.model_copy(update={"models": what.models[:1], "budget": Budget(epochs=1)})
            options.models, options.folder = what.models, Path(scratch)
        curves, tested = (options.folder / path.name for path in (CURVES, SEEDS))
        rows = measured_curves(what, options.models, options.settings, options.processes, curves)
        if not tested.exists():
            measure_seeds(what, rows, options.seeds, options.processes, tested)
    return 0


if __name__ == "__main__":
    sys.exit(main())
