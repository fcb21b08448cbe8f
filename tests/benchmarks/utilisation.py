"""The share of a slot's time in which it trains or evaluates: of one slot, and of many that differ in speed.

    python -m tests.benchmarks.utilisation [--seconds 5 20 60] [--trials 4] [--json FILE] [--quick]
    python -m tests.benchmarks.utilisation [--slots 32] [--jitter 0.1] [--slow 0.5] [--json FILE]

One slot with one CPU trains builtin/nano for eight epochs, with an evaluation and a checkpoint after each, on as many
documents as take about so long. The slot's time is counted from the end of its first trial, which starts the slot, to
the end of its last. Training or evaluation is what `Run.advance` takes: batches, forward and backward passes,
optimizer steps and the validation split. What is not: a run's set-up, its checkpoints, waiting for an order,
and what the driver does in between. All are seconds on the wall clock.

Keys: share_5, share_20, share_60 (goals: 0.90, 0.95, 0.98); lost, for each length what is neither, in seconds for each
trial: checkpoints, between_trials (from the end of a trial to the first step of the next), orders (the rest: an
evaluation's answer on its way to the driver, and the next order back); and trial_s, a trial's time.

With --jitter or --slow nothing is trained: the slots are simulated, with the decisions in the order of a search and no
other delays. Five trials for each slot have the curves of builtin/nano in tests/benchmarks/curves, with the objective
best: most are stopped. The first --slots of them find their slots free, so that time is counted until a slot finds no
further trial. With --jitter each evaluation takes a normally distributed time, of which that is the standard deviation,
in shares of the mean; with --slow one slot has that speed, in shares of the others', for ever.

Keys: share_jitter, share_slow (goals: 0.95, 0.90), the share of all slots' time in training that counts; wasted_jitter,
wasted_slow (goal: 0.03), the share of the training that was ahead of a stop and discarded; and the shares if all slots
waited for each decision, share_jitter_waiting and share_slow_waiting.
"""

import heapq
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from optuna.trial import TrialState

from search.environment import set_ray_environment
from search.scheduling.preparation import DataPreparation
from search.scheduling.report_order import ReportOrder
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import Candidate, TrialStudy
from tests.benchmarks.trial_overhead import MODEL, searched, slot_config, small_space
from tests.scripts import parse, parser_of, write_results
from trainables.config.to_settings import splits_of
from trainables.slots.mailbox import AHEAD

EPOCHS, BATCH = 8, 8
GOALS = {5: 0.90, 20: 0.95, 60: 0.98}
# Of the simulated slots; each simulation is repeated with other times.
_TRIALS_OF_A_SLOT, _REPEATS = 5, 5


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

    def trial_report(self, study: TrialStudy, candidate: Candidate, metrics: Mapping[str, float], node: str) -> None:
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


def search_lengths(slots: int, trials: int) -> tuple[list[int], int]:
    """The evaluations of each trial of a search, and those of one that is not stopped."""
    from tests.benchmarks.curves.table import table_of
    from tests.benchmarks.replay import settings
    from tests.benchmarks.searchers import ours

    table = table_of(MODEL)
    searcher = ours(table, MODEL, settings("best", seed=0))[0]
    order, curves, done = ReportOrder(slots), [], []
    while True:
        while order.has_room and len(curves) < trials:
            asked = searcher.ask()
            assert asked is not None
            order.start(len(curves))
            order.report(len(curves))
            curves.append(table.nearest(asked[1]))
            done.append(0)
        if (trial := order.next()) is None:
            return done, len(curves[0].losses)
        curve = curves[trial]
        done[trial] += 1
        stops = searcher.report(trial, done[trial], curve.tokens[done[trial] - 1], curve.losses[done[trial] - 1])
        if stops or done[trial] == len(curve.losses):
            searcher.end(trial, stops and done[trial] < len(curve.losses))
            order.end(trial)
        else:
            order.report(trial)


def simulate(
    lengths: Sequence[int], full: int, slots: int, ahead: int, seconds: Callable[[int], float]
) -> tuple[float, float]:
    """The share of the slots' time in training that counts, and the share of the training that does not.

    Args:
        lengths: evaluations after which each trial is stopped, or `full` if it is not.
        ahead: evaluations that a trial may have undecided when it trains on.
        seconds: that the next evaluation on a slot takes.
    """
    order, free = ReportOrder(slots), list(range(slots))
    slot_of: dict[int, int] = {}
    # Of each trial, the seconds of each evaluation, and how many of them are decided on.
    took: dict[int, list[float]] = {}
    decided: dict[int, int] = {}
    training: list[tuple[float, float, int]] = []
    now = counted = discarded = 0.0

    def train_on(trial: int) -> None:
        if len(took[trial]) < full and len(took[trial]) <= decided[trial] + ahead:
            taking = seconds(slot_of[trial])
            heapq.heappush(training, (now + taking, taking, trial))

    while True:
        while free:
            if (trial := len(took)) == len(lengths):
                return counted / (slots * now), discarded / (counted + discarded)
            slot_of[trial], took[trial], decided[trial] = free.pop(), [], 0
            order.start(trial)
            train_on(trial)
        if (index := order.next()) is not None:
            waited = len(took[index]) > decided[index] + ahead
            counted += took[index][decided[index]]
            decided[index] += 1
            if decided[index] < lengths[index]:
                if waited:
                    train_on(index)
                continue
            order.end(index)
            free.append(slot_of[index])
            discarded += sum(took[index][decided[index] :])
            discarded += sum(now - (ends - taking) for ends, taking, trial in training if trial == index)
            training = [each for each in training if each[2] != index]
            heapq.heapify(training)
            continue
        now, taking, trial = heapq.heappop(training)
        took[trial].append(taking)
        order.report(trial)
        train_on(trial)


def simulated(slots: int, jitter: float | None, slow: float | None, trials: int) -> dict[str, float]:
    """The keys of slots that differ in speed."""
    lengths, full = search_lengths(slots, trials)
    draw = random.Random(0)
    cases: dict[str, Callable[[int], float]] = {}
    if jitter is not None:
        cases["jitter"] = lambda slot: max(0.0, draw.gauss(1, jitter))
    if slow is not None:
        cases["slow"] = lambda slot: 1.0 if slot else 1 / slow
    result: dict[str, float] = {}
    print(f"{len(lengths)} trials on {slots} slots, {sum(length < full for length in lengths)} of them stopped")
    for name, seconds in cases.items():
        for suffix, ahead in (("", AHEAD), ("_waiting", 0)):
            found = [simulate(lengths, full, slots, ahead, seconds) for _ in range(_REPEATS)]
            share, wasted = (statistics.fmean(values) for values in zip(*found, strict=True))
            result[f"share_{name}{suffix}"] = share
            if ahead:
                result[f"wasted_{name}"] = wasted
            print(f"{name}{suffix.replace('_', ', ')}: {share:.1%} of the time, {wasted:.1%} of the training discarded")
    return result


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--first", type=int, default=64, help="documents of the run that tells how long one takes")
    parser.add_argument("--slots", type=int, default=32, help="that are simulated")
    parser.add_argument("--jitter", type=float, help="of an evaluation's time: standard deviation / mean")
    parser.add_argument("--slow", type=float, help="speed of one slot, in shares of the others'")
    options = parse(parser, seconds=[1], trials=2, first=BATCH, slots=4)
    if options.jitter is not None or options.slow is not None:
        trials = _TRIALS_OF_A_SLOT * options.slots
        write_results(options, simulated(options.slots, options.jitter, options.slow, trials))
        return
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
