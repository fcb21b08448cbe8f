"""What the record of an evaluation takes of the driver, whether MLflow is there, away, starting, or has much to take.

    python -m tests.benchmarks.record [--outages 2] [--seconds 30] [--json FILE] [--quick]

A search's record and its study, without Ray and without training: an evaluation is a pause of 0.25 s, and what is timed
is what a driver does after it, while the trial waits: events.jsonl, the journal and the pruner's decision.
The MLflow server is a real one, in processes of its own.

Keys: for each of "there", "away", "starting" and "behind" the mean milliseconds of an evaluation; and catch_up_s, how
long the server took what had waited.
"""

import json
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from optuna.trial import TrialState

from search.recorder import Recorder
from search.tracking.delivery import Delivery
from tests.scripts import parse, parser_of, write_results
from tests.servers import Server
from tests.studies import FULL_TOKENS, ask, search, space

EVALUATIONS = 8
METRICS = ("loss", "low_entropy_loss", "train_loss", "mask_rate", "curriculum_strength", "learning_rate")
# Events that may wait where MLflow is said to be there.
_FEW = 15


class Driver:
    """Runs trials of made-up evaluations, one at a time.

    Attributes:
        took: seconds of each evaluation, by what MLflow was doing.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)
        self._study = search(folder, budget={"trials": 100_000, "epochs": EVALUATIONS}, sampler={"name": "random"})
        self.delivery = Delivery(uri, "record", folder / "events.jsonl")
        self._record = Recorder(mock.Mock(), self.delivery, folder / "events.jsonl")
        self._record.search_started(space(), {}, "")

    def run(self, state: str, goes_on: Callable[[], bool]) -> None:
        """Runs trials as long as `goes_on`, asked before each of them, is true."""
        while goes_on():
            candidate = ask(self._study)
            self._record.trial_started(self._study, candidate)
            for number in range(1, EVALUATIONS + 1):
                time.sleep(0.25)
                metrics: dict[str, float] = dict.fromkeys(METRICS, 0.5 / number)
                metrics |= {"tokens": FULL_TOKENS * number / EVALUATIONS, "epoch": number, "high_entropy_loss": 1.0}
                began = time.perf_counter()
                self._record.trial_report(self._study, candidate, metrics, "")
                self._study.report(candidate.number, metrics)
                self.took[state].append(time.perf_counter() - began)
            self._record.trial_ended(self._study, candidate, TrialState.COMPLETE, None)
            self._study.tell(candidate.number, TrialState.COMPLETE)


def _for(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline


def measured(outages: int, seconds: float, folder: Path) -> dict[str, Any]:
    server, catch_up_s = Server(folder), []
    try:
        driver = Driver(folder, server.uri)
        driver.run("there", _for(seconds))
        for _ in range(outages):
            server.kill()
            driver.run("away", _for(seconds))
            start = threading.Thread(target=server.start)
            start.start()
            driver.run("starting", start.is_alive)
            began = time.monotonic()
            driver.run("behind", lambda: driver.delivery.undelivered >= _FEW)
            catch_up_s.append(time.monotonic() - began)
            driver.run("there", _for(seconds))
        driver.delivery.close(60)
    finally:
        server.kill()
    return {state: 1000 * statistics.fmean(took) for state, took in driver.took.items()} | {"catch_up_s": catch_up_s}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--outages", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each outage lasts")
    options = parse(parser, outages=1, seconds=1.0)
    with tempfile.TemporaryDirectory() as folder:
        result = measured(options.outages, options.seconds, Path(folder))
    print(json.dumps(result, indent=2))
    write_results(options, result)


if __name__ == "__main__":
    main()
