"""What a trial costs beside its training: warm slots against the recipe of Ray's documentation.

    python -m tests.benchmarks.trial_overhead [--trials 30] [--recipe-trials 6] [--json FILE] [--quick]

Both sides run the same small trials of builtin/nano one after the other on one CPU, in one Ray session. A trial's
overhead is the time from the end of the trial before it to its own first training step. The recipe is a Tune function
that builds a TorchTrainer with a TuneReportCallback for each trial, with OptunaSearch and ASHA. On this project's side
every second trial is stopped early; what is left over afterwards is counted.

Keys: ours_s and recipe_s (median overhead of a trial, seconds), ratio (recipe_s / ours_s), leftovers (kinds of
what Ray has here, as processes and placement groups, of which there is more or less after our side's last trial).
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import ray
import torch
from optuna.trial import TrialState
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from search.environment import set_ray_environment
from search.interruption import Interruption
from search.scheduling.preparation import DataPreparation
from search.scheduling.trial_loop import Observer, TrialLoop
from search.scheduling.tune_adapter import run_trials
from search.space import Space
from search.studies.pruners import LOSING
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate, TrialStudy
from tests.faults.leftovers import census, changes_since
from tests.scripts import parse, parser_of, write_results
from trainables.config.to_settings import splits_of
from trainables.preparation.prepared import Prepared
from trainables.settings import ModelSettings, Settings
from trainables.slots.shared import SlotConfig, StopSignal
from trainables.storage.cache import default_root
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

MODEL = "builtin/nano"


def small_space(trials: int, documents: int = 4, epochs: int = 4, batch_size: int = 1) -> Space:
    """Args: documents: to train on."""
    return Space.model_validate(
        {
            "models": [MODEL],
            "data": {"source": "builtin", "task": "word_problems", "train": documents, "validation": 4, "test": 6},
            "budget": {"trials": trials, "epochs": epochs},
            "training": {"batch_size": batch_size},
            "resources": {"slots": 1},
            "early_stopping": {"pruner": "none", "patience": None},
            "confirmation": None,
        }
    )


class EverySecondStops(SearchStudy):
    """Stops trials with odd numbers after their second evaluation."""

    def report(self, number: int, metrics: Mapping[str, float]) -> str | None:
        super().report(number, metrics)
        return LOSING if number % 2 == 1 and len(self.losses(number)) == 2 else None


class Silent:
    def slots_changed(self, slots: int) -> None: ...

    def trial_started(self, study: TrialStudy, candidate: Candidate) -> None: ...

    def trial_report(self, study: TrialStudy, candidate: Candidate, metrics: Any, node: str) -> None: ...

    def trial_ended(
        self, study: TrialStudy, candidate: Candidate, state: TrialState, reason: str | None, detail: str
    ) -> None: ...


def ours(trials: int, folder: Path) -> tuple[list[float], dict[str, list[Any]], Prepared]:
    """Overheads of our trials in seconds, what is left over, and the prepared data."""
    space = small_space(trials)
    study = EverySecondStops(open_journal(folder / "study.journal"), MODEL, space)
    preparing = DataPreparation(space, splits_of(space), [MODEL])
    prepared = preparing.result(MODEL)
    slot = slot_config(preparing)
    before = census()
    trial_loop = searched(study, space, slot, Silent(), folder)
    states = [t.state for t in study.study.trials]
    assert TrialState.PRUNED in states, states
    return trial_loop.overhead_s, changes_since(before), prepared


def slot_config(preparing: DataPreparation) -> SlotConfig:
    """Of a slot with one CPU, when its data is prepared and its stop signal is there."""
    preparing.result(MODEL)
    stop_signal = StopSignal.remote()  # type: ignore[attr-defined]
    ray.get(stop_signal.stopped.remote())
    return SlotConfig(1, 1, 0, "pack", preparing.prepared, ModelSettings(), default_root(), stop_signal)


def searched(study: SearchStudy, space: Space, slot: SlotConfig, observer: Observer, folder: Path) -> TrialLoop:
    """Runs a study's trials, on one slot."""
    full = ray.get(slot.prepared[MODEL]).train_tokens * space.budget.epochs
    trial_loop = TrialLoop([study], 1, lambda _: full, observer, Interruption())
    run_trials(trial_loop, slot, 1, folder / "ray", folder / "checkpoints", folder / "models")
    return trial_loop


def train_one(config: dict[str, Any]) -> None:
    """The Ray Train worker of the recipe: the same run, from loading the model on."""
    torch.set_num_threads(1)
    run = Run(WarmModel(config["prepared"], torch.device("cpu")), Settings.from_json(config["settings"]))
    Path(config["times"]).write_text(str(time.time()))
    while not run.finished:
        metrics = run.advance()
        ray.train.report(metrics)


def recipe(trials: int, prepared: Prepared, folder: Path) -> list[float]:
    """Overheads of the recipe's trials in seconds."""
    space = small_space(2)
    settings = SearchStudy(open_journal(folder / "settings.journal"), MODEL, space).ask()
    assert settings is not None
    fixed = settings.settings.to_json()

    def drive(config: dict[str, Any]) -> None:
        trial = tune.get_context().get_trial_id()
        times = folder / f"{trial}.first"
        TorchTrainer(
            train_one,
            train_loop_config={
                "prepared": prepared,
                "settings": {**fixed, "learning_rate": config["learning_rate"]},
                "times": str(times),
            },
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=trial, storage_path=str(folder / "train"), callbacks=[TuneReportCallback()]),
        ).fit()

    ended: list[float] = []

    class Ends(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ended.append(time.time())

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tune.Tuner(
        tune.with_resources(drive, {"CPU": 0.001}),
        param_space={"learning_rate": tune.loguniform(1e-3, 3e-3)},
        tune_config=tune.TuneConfig(
            metric="high_entropy_loss",
            mode="min",
            num_samples=trials,
            max_concurrent_trials=1,
            search_alg=OptunaSearch(sampler=optuna.samplers.TPESampler(seed=0)),
            scheduler=ASHAScheduler(max_t=4, grace_period=2, reduction_factor=2),
        ),
        run_config=tune.RunConfig(name="recipe", storage_path=str(folder), verbose=0, callbacks=[Ends()]),
    ).fit()
    firsts = sorted(float(path.read_text()) for path in folder.glob("*.first"))
    return [first - end for first, end in zip(firsts[1:], sorted(ended), strict=False)]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--recipe-trials", type=int, default=6)
    options = parse(parser, trials=2, recipe_trials=2)
    set_ray_environment()
    # Logical CPUs, so that both sides have room for their bookkeeping actors; the trials take one. Ray Train may leave
    # the placement group of a trial that the recipe stops, whose CPU the next one would wait for without end.
    cpus = 2 + options.recipe_trials
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            ours_s, left, prepared = ours(options.trials, Path(scratch))
            print(f"warm slots: {len(ours_s)} overheads, {min(ours_s):.2f} to {max(ours_s):.2f} s", flush=True)
            recipe_s = recipe(options.recipe_trials, prepared, Path(scratch))
    finally:
        ray.shutdown()
    result = {
        "ours_s": statistics.median(ours_s),
        "recipe_s": statistics.median(recipe_s),
        "ratio": statistics.median(recipe_s) / statistics.median(ours_s),
        "leftovers": len(left),
    }
    print(f"{'':20}{'trials':>8}{'median overhead, s':>22}")
    print(f"{'warm slots':20}{options.trials:>8}{result['ours_s']:>22.3f}")
    print(f"{'recipe':20}{options.recipe_trials:>8}{result['recipe_s']:>22.3f}")
    print(f"ratio {result['ratio']:.1f}; left over: {left or 'nothing'}")
    write_results(options, result)


if __name__ == "__main__":
    main()
