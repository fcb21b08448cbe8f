"""How the cost of a report, and the driver's memory, grow with the trials of a search: this project's and Ray's own.

    python -m tests.benchmarks.scale [--trials 100 1000] [--stock-trials 100 1000] [--slots 32] [--json FILE] [--quick]

A trial trains nothing: it answers at once, 20 times. All else is real: on this project's side Ray Tune, the studies in
their journal, the record in events.jsonl and MLflow (in SQLite), and plain lines in the place of the live table; the
pruner `curves` looks at each report, and is told to stop hardly any trial. The other side is Ray's OptunaSearch with
MLflowLoggerCallback, and with reused actors, which is faster than its default. Each run has a process and a Ray of its
own. It is measured from the moment when all slots have reported, until the last trial has ended and MLflow has all.

A report's cost is the driver's CPU time, of all its threads, without the sampler's own, for each report. What the
sampler takes for each suggestion is told beside it: with TPE it grows with the trials that it learns from.

Keys: growth (a report's cost with the most trials, over that with the fewest), reports_per_s and driver_bytes (peak
resident set) with the most trials; stock_growth, stock_reports_per_s and stock_driver_bytes, the same of Ray's own;
growth_as_stock (of this project, from the fewest to the most trials of --stock-trials); runs, in which "parts" tells
where CPU and wall seconds went, per report: begin (of a trial, with the sampler), sampler, report (and what is decided
after it), journal, events (with the plain lines), mlflow (the delivery, a thread of its own). Parts lie in one another.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from search.progress.table import duration_text
from search.studies.storage import open_journal
from tests.benchmarks.instant import REPORTS, TOKENS, Instant, InstantSlot
from tests.scripts import parse, parser_of, write_results

MODEL = "builtin/nano"
GOALS = "goals: growth at most 1.2, at least 50 reports/s, driver under 1.5 GB"
# Seconds between two lines of how far a run is.
_TELL_S = 60.0
# Seconds that MLflow may take for what is left at the end.
_DELIVERY = 3600.0


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        reports: while it was measured.
        report_s: CPU seconds of the driver for each report, without the sampler's; sampler_s: for each suggestion.
        slots_bytes: what the slots' processes have for themselves alone, together.
        parts: CPU and wall seconds for each report.
    """

    side: str
    trials: int
    reports: int
    wall_s: float
    report_s: float
    sampler_s: float
    driver_bytes: int
    slots_bytes: int
    parts: dict[str, dict[str, float]]

    @property
    def reports_per_s(self) -> float:
        return self.reports / self.wall_s


class Meter:
    """Where a driver's time goes, from the moment when all slots have reported."""

    def __init__(self, side: str, trials: int, slots: int) -> None:
        self._side, self._trials, self._slots = side, trials, slots
        self._told = 0.0
        self._reported: set[object] = set()
        self._reports = self._slots_bytes = 0
        self._cpu: Counter[str] = Counter()
        self._wall: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def reported(self, trial: object) -> None:
        if len(self._reported) < self._slots:
            self._reported.add(trial)
            if len(self._reported) == self._slots:
                self._slots_bytes = _bytes_of_slots()
                self._began = time.perf_counter(), time.process_time()
                for counter in (self._cpu, self._wall, self._calls):
                    counter.clear()
                self._told = self._began[0]
        else:
            self._reports += 1
            if time.perf_counter() - self._told >= _TELL_S:
                self._tell()

    def _tell(self) -> None:
        """Says how far it is: Ray's own with 1,000 trials took nearly two hours on a slow machine."""
        self._told = time.perf_counter()
        total = self._trials * REPORTS
        left = (self._told - self._began[0]) * (total - self._reports) / self._reports
        where = f"{self._side}, {self._trials:,} trials: {self._reports:,} of {total:,} reports"
        print(f"{where}, time left {duration_text(left)}", file=sys.stderr, flush=True)

    @contextmanager
    def parts(self, methods: Mapping[str, list[tuple[type, str]]]) -> Iterator[None]:
        """Measures the calls of these methods, by part."""
        with ExitStack() as stack:
            for part, owned in methods.items():
                for owner, name in owned:
                    stack.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                self._wall[part] += time.perf_counter() - wall
                self._cpu[part] += time.thread_time() - cpu
                self._calls[part] += 1

        return timed

    def measured(self) -> Measured:
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        reports = self._reports
        parts = {p: {"cpu_s": self._cpu[p] / reports, "wall_s": self._wall[p] / reports} for p in self._wall}
        return Measured(
            self._side,
            self._trials,
            reports,
            wall,
            (cpu - self._cpu["sampler"]) / reports,
            self._cpu["sampler"] / max(1, self._calls["sampler"]),
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            self._slots_bytes,
            parts,
        )


def _bytes_of_slots() -> int:
    own = 0
    for process in psutil.Process().children(recursive=True):
        # It may end just now.
        with suppress(psutil.NoSuchProcess):
            if "Instant" in " ".join(process.cmdline()):
                own += process.memory_full_info().uss
    return own


def _space(trials: int, slots: int) -> Any:
    from search.space import Space

    return Space.model_validate(
        {
            "models": [MODEL],
            "data": {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": 6},
            "budget": {"trials": trials, "epochs": REPORTS},
            "resources": {"slots": slots},
            # Student's t says 1e-100 of many a trial's last step.
            "early_stopping": {"chance": 1e-300},
            "confirmation": None,
        }
    )


def ours(trials: int, slots: int, folder: Path) -> Measured:
    from optuna.storages import JournalStorage
    from optuna.trial import TrialState
    from rich.console import Console

    from search.interruption import Interruption
    from search.output.folder import RESOLVED, SPACE
    from search.progress.console import ProgressConsole
    from search.recorder import Recorder
    from search.scheduling.trial_loop import TrialLoop
    from search.scheduling.tune_adapter import run_trials
    from search.studies.samplers import ArmSampler
    from search.studies.search_study import SearchStudy
    from search.tracking.delivery import Delivery
    from trainables.settings import ModelSettings
    from trainables.slots.shared import SlotConfig, StopSignal

    meter = Meter("this project", trials, slots)

    class Metered(Recorder):
        def trial_report(self, study: Any, candidate: Any, metrics: Any, node: str) -> None:
            meter.reported(candidate.number)
            super().trial_report(study, candidate, metrics, node)

    space = _space(trials, slots)
    for name in (SPACE, RESOLVED):
        (folder / name).write_text("")
    study = SearchStudy(open_journal(folder / "study.journal"), MODEL, space)
    delivery = Delivery(f"sqlite:///{folder}/mlflow.db", "scale", folder / "events.jsonl")
    planned = {study.name: study.planned}
    parts: dict[str, list[tuple[type, str]]] = {
        "begin": [(TrialLoop, "begin")],
        "sampler": [(ArmSampler, "suggest")],
        "report": [(TrialLoop, "report"), (TrialLoop, "decide")],
        "journal": [(JournalStorage, "_write_log"), (JournalStorage, "_sync_with_backend")],
        "events": [(Recorder, "_write")],
        "mlflow": [(Delivery, "_deliver")],
    }
    with (folder / "lines").open("w") as lines, ProgressConsole(Console(file=lines), planned) as progress:
        record = Metered(progress, delivery, folder / "events.jsonl")
        record.search_started(space, planned, "")
        # MLflow makes its database.
        assert delivery.flush(_DELIVERY), delivery.last_error
        trial_loop = TrialLoop([study], slots, lambda _: REPORTS * TOKENS, record, Interruption())
        stop_signal = StopSignal.remote()  # type: ignore[attr-defined]
        config = SlotConfig(1, 1, 0, "pack", {}, ModelSettings(), folder / "cache", stop_signal)
        with meter.parts(parts), mock.patch("search.scheduling.tune_adapter.Slot", InstantSlot):
            run_trials(trial_loop, config, slots, folder / "ray", folder / "checkpoints", folder / "models")
            assert delivery.flush(_DELIVERY), delivery.last_error
        measured = meter.measured()
    assert all(t.state == TrialState.COMPLETE for t in study.study.trials)
    assert delivery.close(_DELIVERY), delivery.last_error
    return measured


@cache
def _searched() -> Any:
    from search.studies.arm_spaces import arms_of

    return arms_of(_space(2, 1))[1].space


def define(trial: Any) -> None:
    """Suggests what this project searches. OptunaSearch pickles it."""
    from search.studies.arm_spaces import suggest_settings

    suggest_settings(_searched(), trial)


def stock(trials: int, slots: int, folder: Path) -> Measured:
    import optuna
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    meter = Meter("stock", trials, slots)

    class Reports(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            meter.reported(trial.trial_id)

    parts: dict[str, list[tuple[type, str]]] = {
        "sampler": [(OptunaSearch, "suggest")],
        "mlflow": [(MLflowLoggerCallback, f"log_trial_{what}") for what in ("start", "result", "end")],
    }
    # What `define` loads: OptunaSearch warns of a slow one.
    _searched()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="scale")
    with meter.parts(parts):
        tune.Tuner(
            tune.with_resources(Instant, {"CPU": 0.001}),
            tune_config=tune.TuneConfig(
                num_samples=trials,
                max_concurrent_trials=slots,
                reuse_actors=True,
                search_alg=OptunaSearch(space=define, metric="high_entropy_loss", mode="min", seed=0),
            ),
            run_config=tune.RunConfig(
                name="stock",
                storage_path=str(folder),
                stop={"training_iteration": REPORTS},
                verbose=0,
                callbacks=[mlflow, Reports()],
            ),
        ).fit()
        return meter.measured()


def run(side: Callable[[int, int, Path], Measured], trials: int, slots: int) -> Measured:
    """One run, in a process of its own."""
    # Tune is silent.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    if side is ours:
        from search.environment import set_ray_environment

        set_ray_environment()
    import ray

    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            return side(trials, slots, Path(scratch))
    finally:
        ray.shutdown()


def growth(measured: Mapping[int, Measured], counts: list[int]) -> float:
    return measured[max(counts)].report_s / measured[min(counts)].report_s


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, nargs=2, default=[100, 1000])
    parser.add_argument("--stock-trials", type=int, nargs=2, default=[100, 1000])
    parser.add_argument("--slots", type=int, default=32)
    options = parse(parser, trials=[2, 2], stock_trials=[2, 2], slots=2)
    print(f"{'':14}{'trials':>8}{'reports/s':>11}{'ms/report':>11}{'ms/suggestion':>15}{'driver, MB':>12}", flush=True)
    found: dict[Callable[[int, int, Path], Measured], dict[int, Measured]] = {ours: {}, stock: {}}
    for side, counts in ((ours, {*options.trials, *options.stock_trials}), (stock, set(options.stock_trials))):
        for trials in sorted(counts):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                one = found[side][trials] = pool.apply(run, (side, trials, options.slots))
            print(
                f"{one.side:14}{trials:>8}{one.reports_per_s:>11.1f}{1e3 * one.report_s:>11.2f}"
                f"{1e3 * one.sampler_s:>15.2f}{one.driver_bytes / 1e6:>12.0f}",
                flush=True,
            )
    most, stock_most = found[ours][max(options.trials)], found[stock][max(options.stock_trials)]
    result = {
        "growth": growth(found[ours], options.trials),
        "reports_per_s": most.reports_per_s,
        "driver_bytes": most.driver_bytes,
        "stock_growth": growth(found[stock], options.stock_trials),
        "stock_reports_per_s": stock_most.reports_per_s,
        "stock_driver_bytes": stock_most.driver_bytes,
        "growth_as_stock": growth(found[ours], options.stock_trials),
        "runs": [asdict(one) for measured in found.values() for one in measured.values()],
    }
    print(f"growth {result['growth']:.2f}; from {options.stock_trials[0]} to {options.stock_trials[1]} trials", end=" ")
    print(f"{result['growth_as_stock']:.2f}, stock {result['stock_growth']:.2f}; {GOALS}")
    print(f"{most.trials} trials, in ms for each report (CPU, wall):")
    for part, seconds in most.parts.items():
        print(f"  {part:10}{1e3 * seconds['cpu_s']:>8.2f}{1e3 * seconds['wall_s']:>8.2f}")
    write_results(options, result)


if __name__ == "__main__":
    main()
