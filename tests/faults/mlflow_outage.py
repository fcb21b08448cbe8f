"""What a search loses, and how long it waits, while its MLflow server is away.

    python -m tests.faults.mlflow_outage [--outages 4] [--seconds 30] [--lock 20] [--trials 240] [--ready] [--quick]

Two searches of the same trials record on an MLflow server of their own, which keeps its runs in SQLite. The first is
left alone. In the second the server is killed (SIGKILL, with its workers) and started again, some seconds later, a few
times; then its database is locked (BEGIN EXCLUSIVE) for some seconds. The trials run one at a time, on one core: the
server has another one, and the least priority in both searches, as if it were on another machine.

A server that starts computes for ten seconds, which it takes from those who train on this machine, and would not take
from them on another one. With --ready all servers are started before the first search, and wait; the one that is killed
is followed by the next one, at the same address.

Keys: lost (metrics in the second search's events or study that MLflow lacks), duplicated (metrics and runs that MLflow
has more than once), wall_ratio (second search to first, of the time from the first evaluation to the end of the last
trial: the start of Ray and the wait for MLflow at the end are not training).
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from mlflow import MlflowClient
from optuna.trial import TrialState

from tests.scripts import parse, parser_of, write_results
from tests.searches import SPACE, Searches
from tests.servers import Door, Server
from trainables.storage.cache import default_root

# What a trial's run has at step 0.
LAST_VALUES = ("best_high_entropy_loss", "final_high_entropy_loss", "objective")


def locked(database: Path, seconds: float) -> None:
    """Locks the database for some seconds."""
    other = sqlite3.connect(database, timeout=60, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()


def disturb(
    door: Door, server: Server, another: Callable[[], Server], options: argparse.Namespace
) -> list[tuple[float, float]]:
    """The faults, one after the other. Returns when each began and ended."""
    times = []
    for number in range(options.outages + 1):
        began = time.time()
        if number < options.outages:
            door.shut()
            server.kill()
            time.sleep(options.seconds)
            server = another()
            door.lead_to(server.port)
        else:
            locked(server.database, options.lock)
        times.append((began, time.time()))
        time.sleep(options.pause)
    return times


def training_s(searches: Searches, output: str) -> float:
    """Seconds from the first evaluation to the end of the last trial."""
    ended: float = searches.events(output, "trial_ended")[-1]["time"]
    return ended - float(searches.events(output, "evaluation")[0]["time"])


def compared(searches: Searches, output: str, database: Path) -> tuple[int, int]:
    """Metrics of a search that MLflow lacks, and metrics and runs that it has too often."""
    client = MlflowClient(f"sqlite:///{database}")
    trials = searches.study(output).trials
    run_ids = searches.run_ids(output, len(trials))
    wanted: Counter[tuple[int, str, int, float]] = Counter()
    for event in searches.events(output, "evaluation"):
        trial, tokens = event["trial"], event["tokens"]
        wanted.update({(trial, name, tokens, value): 1 for name, value in event["metrics"].items()})
    for trial in trials:
        losses = trial.intermediate_values.items()
        # A metric that the study has and the events lack counts as well.
        wanted |= Counter({(trial.number, "high_entropy_loss", tokens, loss): 1 for tokens, loss in losses})
        best, final = min(trial.intermediate_values.values()), trial.intermediate_values[max(trial.intermediate_values)]
        for name, value in zip(LAST_VALUES, (best, final, best), strict=True):
            # One that was stopped early has no last epoch.
            if name != "final_high_entropy_loss" or trial.state == TrialState.COMPLETE:
                wanted[trial.number, name, 0, value] += 1
    found: Counter[tuple[int, str, int, float]] = Counter()
    for number, run_id in enumerate(run_ids):
        if run_id is not None:
            for name in client.get_run(run_id).data.metrics:
                found.update((number, name, m.step, m.value) for m in client.get_metric_history(run_id, name))
    experiment = client.get_experiment_by_name(output)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    print(f"{wanted.total()} metrics recorded, {found.total()} in MLflow, in {len(runs)} runs of {len(trials)} trials")
    return (wanted - found).total(), (found - wanted).total() + len(runs) - len(trials) - 1


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--outages", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each outage lasts")
    parser.add_argument("--lock", type=float, default=20.0, help="seconds that the database is locked")
    parser.add_argument("--pause", type=float, default=10.0, help="between two faults, for the server to take all")
    parser.add_argument("--trials", type=int, default=240, help="so many that the search outlasts its faults")
    parser.add_argument("--ready", action="store_true", help="servers that come back have been started before")
    options = parse(parser, outages=1, seconds=1.0, lock=1.0, pause=1.0, trials=10, ready=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        content = SPACE | {"early_stopping": {"pruner": "none", "patience": None}, "confirmation": None}
        searches = Searches(folder, content, default_root())
        door = Door()
        stack.callback(door.close)

        def another() -> Server:
            server = Server(folder)
            stack.callback(server.kill)
            return server

        waiting = deque(another() for _ in range(1 + options.outages * options.ready))
        for server in waiting:
            # The first request to a server takes longest.
            MlflowClient(server.uri).search_experiments()
        server = waiting.popleft()
        door.lead_to(server.port)
        arguments = [f"--set=budget.trials={options.trials}", "--set=resources.slots=1"]
        arguments += [f"--set=tracking.uri={door.uri}"]
        searches.run("undisturbed", *arguments, "--set=tracking.experiment=undisturbed", seconds=1800)
        undisturbed_s = training_s(searches, "undisturbed")
        print(f"undisturbed: {undisturbed_s:.1f} s", flush=True)
        faults_s = options.outages * (options.seconds + options.pause) + options.lock
        enough = options.quick or undisturbed_s > faults_s
        assert enough, f"a search of {undisturbed_s:.0f} s is too short: give it more --trials"
        process = searches.start("disturbed", *arguments, "--set=tracking.experiment=disturbed")
        searches.wait_for_evaluations("disturbed", 3, process)
        times = disturb(door, server, waiting.popleft if options.ready else another, options)
        assert options.quick or process.poll() is None, "the search was over before the faults: give it more --trials"
        out, err = process.communicate(timeout=1800)
        assert process.returncode == 0, f"{out}\n{err}"
        disturbed_s = training_s(searches, "disturbed")
        lost, duplicated = compared(searches, "disturbed", server.database)
        told = [event["time"] for event in searches.events("disturbed", "evaluation")]
    for began, ended in times:
        meanwhile = sum(began <= time <= ended for time in told)
        print(f"away for {ended - began:.0f} s: {meanwhile / (ended - began):.2f} evaluations a second")
    result = {"lost": lost, "duplicated": duplicated, "wall_ratio": disturbed_s / undisturbed_s}
    print(f"disturbed: {disturbed_s:.1f} s, {len(told) / disturbed_s:.2f} evaluations a second")
    print(f"lost {lost}, duplicated {duplicated}, wall ratio {result['wall_ratio']:.3f}")
    write_results(options, result)
    return int(lost + duplicated > 0)


if __name__ == "__main__":
    sys.exit(main())
