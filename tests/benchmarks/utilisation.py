"""The share of a slot's time in which it trains or evaluates, with trials of about 5, 20 and 60 seconds.

    python -m tests.benchmarks.utilisation [--seconds 5 20 60] [--trials 4] [--json FILE] [--quick]

One slot with one CPU trains builtin/nano for eight epochs, with an evaluation and a checkpoint after each, on as many
documents as take about so long. The slot's time is counted from the end of its first trial, which starts the slot, to
the end of its last. Training or evaluation is what `Run.advance` takes: batches, forward and backward passes,
optimizer steps and the validation split. What is not: a run's set-up, its checkpoints, waiting for an order,
and what the driver does in between. All are seconds on the wall clock.

Keys: share_5, share_20, share_60 (goals: 0.90, 0.95, 0.98); lost, for each length what is neither, in seconds for each
trial: checkpoints, between_trials (from the end of a trial to the first step of the next), orders (the rest: an
evaluation's answer on its way to the driver, and the next order back); and trial_s, a trial's time.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from optuna.trial import TrialState

from search.environment import set_ray_environment
from search.scheduling.preparation import DataPreparation
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate, TrialStudy
from tests.benchmarks.trial_overhead import MODEL, searched, slot_config, small_space
from tests.scripts import parse, parser_of, write_results
from trainables.config.to_settings import splits_of

EPOCHS, BATCH = 8, 8
GOALS = {5: 0.90, 20: 0.95, 60: 0.98}


class Clocked:
    """Adds up what a slot did after its first trial.

    Attributes:
        ended: when each trial ended, in seconds.
        advance_s: of training and evaluation; seconds: with checkpoints.
    """

    def __init__(self) -> None:
        self.ended: list[float] = []
        self.advance_s = self.seconds = 0.0
        self._tokens = 0.0

    def slots_changed(self, slots: int) -> None:
        """Nothing: there is one slot."""

    def trial_started(self, study: TrialStudy, candidate: Candidate) -> None:
        self._tokens = 0.0

    def trial_report(self, study: TrialStudy, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        if self.ended:
            self.advance_s += (metrics["tokens"] - self._tokens) / metrics["tokens_per_s"]
            self.seconds += metrics["seconds"]
        self._tokens = metrics["tokens"]

    def trial_ended(
        self, study: TrialStudy, candidate: Candidate, state: TrialState, reason: str | None, detail: str
    ) -> None:
        assert state == TrialState.COMPLETE, detail
        self.ended.append(time.perf_counter())


def used(documents: int, trials: int, folder: Path) -> dict[str, float]:
    """How a slot spends its time, in seconds for each trial after the first."""
    folder.mkdir()
    space = small_space(trials, documents, EPOCHS, BATCH)
    study = SearchStudy(open_journal(folder / "study.journal"), MODEL, space)
    clocked = Clocked()
    slot = slot_config(DataPreparation(space, splits_of(space), [MODEL]))
    trial_loop = searched(study, space, slot, clocked, folder)
    count, wall = trials - 1, clocked.ended[-1] - clocked.ended[0]
    between = sum(trial_loop.overhead_s)
    whole = {
        "trial_s": wall,
        "advance_s": clocked.advance_s,
        "checkpoints": clocked.seconds - clocked.advance_s,
        "between_trials": between,
        "orders": wall - clocked.seconds - between,
    }
    return {name: seconds / count for name, seconds in whole.items()}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--first", type=int, default=64, help="documents of the run that tells how long one takes")
    options = parse(parser, seconds=[1], trials=2, first=BATCH)
    set_ray_environment()
    # As in tests.benchmarks.trial_overhead: the bookkeeping has a CPU of its own.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    result: dict[str, Any] = {"lost": {}, "trial_s": {}}
    print(f"{'seconds':>8}{'documents':>11}{'trial, s':>10}{'share, %':>10}{'goal, %':>9}  lost, s for each trial")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            document_s = used(options.first, 2, Path(scratch, "first"))["advance_s"] / options.first
            for seconds in options.seconds:
                documents = max(BATCH, round(seconds / document_s))
                found = used(documents, options.trials, Path(scratch, str(seconds)))
                trial_s, advance_s = found.pop("trial_s"), found.pop("advance_s")
                share = result[f"share_{seconds}"] = advance_s / trial_s
                result["lost"][seconds], result["trial_s"][seconds] = found, trial_s
                goal = f"{100 * GOALS[seconds]:.0f}" if seconds in GOALS else "-"
                lost = ", ".join(f"{name} {lost_s:.2f}" for name, lost_s in found.items())
                print(f"{seconds:>8}{documents:>11}{trial_s:>10.1f}{100 * share:>10.1f}{goal:>9}  {lost}", flush=True)
    finally:
        ray.shutdown()
    write_results(options, result)


if __name__ == "__main__":
    main()
