"""Worker processes killed at random moments of a search: every trial ends with the losses that it has without.

    python -m tests.faults.worker_kills [--kills 20] [--seed 0] [--json FILE]

A small search runs to its end; then it runs again and again, and about every ten seconds one of its Ray Train workers
is killed with SIGKILL, until there were so many kills. 20 take about ten minutes on two cores that nothing else uses.

Keys: kills, searches, changed (trials with other states, parameters or losses than without a kill).
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.faults.driver_kills import tables
from tests.searches import Searches

# A trial may lose its workers twice; a search in which one is killed more often would fail it, as it should.
_RESTARTS = "faults.restarts=1000"


def kill_some(searches: Searches, output: str, draw: random.Random, left: int) -> int:
    """Runs a search, and kills up to `left` of its workers. Returns how many."""
    process = searches.start(output, "--set", _RESTARTS)
    kills = 0
    while process.poll() is None:
        time.sleep(draw.uniform(2, 18))
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [p for p in children if "RayTrainWorker" in p.name()]
            if workers and kills < left:
                draw.choice(workers).kill()
                kills += 1
        except psutil.NoSuchProcess:
            continue
    _, err = process.communicate()
    assert process.returncode == 0, err
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        searches = Searches(Path(folder))
        searches.run("whole", "--set", _RESTARTS)
        whole = tables(searches, "whole")
        kills = number = changed = 0
        while kills < options.kills:
            output = f"killed-{number}"
            kills += kill_some(searches, output, draw, options.kills - kills)
            changed += sum(
                a != b
                for ours, theirs in zip(tables(searches, output), whole, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            )
            number += 1
            print(f"{output}: {kills} kills, {changed} trials changed", flush=True)
    result = {"kills": kills, "searches": number, "changed": changed}
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
