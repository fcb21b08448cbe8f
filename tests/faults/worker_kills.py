"""Workers and slots killed at random moments of a search: every trial ends with the losses that it has without.

    python -m tests.faults.worker_kills [--kills 20] [--seed 0] [--json FILE] [--quick]

A small search runs to its end; then it runs again and again, and about every ten seconds one of its Ray Train workers,
or every third time the process of a slot, is killed with SIGKILL, until so many workers were. 20 take about a quarter
of an hour on two cores that nothing else uses.

Keys: kills (of workers), slot_kills, searches, changed (trials with other states, parameters or losses than without
a kill).
"""

import json
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.driver_kills import searches_in, tables
from tests.scripts import parse, parser_of, write_results
from tests.searches import Searches, workers_and_slots

# A trial may lose its workers twice; a search in which one is killed more often would fail it, as it should.
_RESTARTS = "faults.restarts=1000"


def kill_some(searches: Searches, output: str, draw: random.Random, pause: float, kills: list[str], limit: int) -> None:
    """Runs a search, and kills its workers and slots until `kills` has "worker" `limit` times."""
    process = searches.start(output, "--set", _RESTARTS)
    while process.poll() is None:
        time.sleep(draw.uniform(2, pause))
        # It may end just now.
        with suppress(psutil.NoSuchProcess):
            workers, slots = workers_and_slots(process.pid)
            kind, there = ("slot", slots) if len(kills) % 3 == 2 else ("worker", workers)
            if there and kills.count("worker") < limit:
                draw.choice(there).kill()
                kills.append(kind)
    _, err = process.communicate()
    assert process.returncode == 0, err


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=18.0, help="the most seconds between two kills")
    options = parse(parser, kills=1, pause=3.0)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        searches = searches_in(Path(folder), options)
        searches.run("whole", "--set", _RESTARTS)
        whole = tables(searches, "whole")
        kills: list[str] = []
        number = changed = 0
        while kills.count("worker") < options.kills:
            output = f"killed-{number}"
            kill_some(searches, output, draw, options.pause, kills, options.kills)
            changed += sum(
                a != b
                for ours, theirs in zip(tables(searches, output), whole, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            )
            number += 1
            print(f"{output}: {len(kills)} kills, {changed} trials changed", flush=True)
    result = {"kills": kills.count("worker"), "slot_kills": kills.count("slot")}
    result |= {"searches": number, "changed": changed}
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
