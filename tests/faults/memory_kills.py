"""A node that runs short of memory: what Ray's memory monitor ends goes on, and no trial is lost.

    python -m tests.faults.memory_kills [--times 6] [--json FILE] [--quick]

A small search runs to its end; then it runs again and again with Ray's memory monitor set to a few gigabytes more than
what is in use, and about every 25 seconds another process takes the rest, in turn 0.1 and 2 GB more than that. 6 times
take about ten minutes on two cores. The machine needs some 8 GB that nothing else uses.

Keys: times (that memory ran short), gone (processes of the search that ended meanwhile: those that Ray ended, and what
hung on them), searches, halved (trials that went on with smaller micro-batches), failed (trials), changed (trials with
another state, other parameters or other losses than without: a trial whose worker is ended goes on with smaller
micro-batches, which changes a loss by less than 1e-4 nats).
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.faults.driver_kills import searches_in, tables
from tests.scripts import parse, parser_of, write_results
from tests.searches import Searches, ray_processes

_GB = 1e9
# What a search may take beyond what is in use before it starts; it takes about 3.
_ROOM = 4 * _GB
_PAUSE_S = 25.0
# Ray ends a process about so long after memory ran short.
_HOLD_S = 5.0
_TOLERANCE = 1e-4
# A trial may lose its slot as often as memory runs short.
_RESTARTS = "faults.restarts=1000"
# Takes memory until so many bytes of the machine's are in use, and no more, whatever others give back then.
_TAKE = """
import mmap, sys, time
import psutil
limit, hold = float(sys.argv[1]), float(sys.argv[2])
taken = []
while psutil.virtual_memory().total - psutil.virtual_memory().available < limit:
    block = mmap.mmap(-1, 32 * 2**20)
    for page in range(0, len(block), 4096):
        block[page] = 1
    taken.append(block)
time.sleep(hold)
"""


def run_short(searches: Searches, output: str, limit: float, times: int, done: list[int]) -> None:
    """Runs a search, and lets memory run short until it has `times` times; `done` has how many of its processes ended
    each time."""
    process = searches.start(output, "--set", _RESTARTS)
    searches.wait_for_evaluations(output, 1, process)
    while len(done) < times and process.poll() is None:
        before = _ours(process)
        excess = 0.1 * _GB if len(done) % 2 == 0 else 2 * _GB
        subprocess.run([sys.executable, "-c", _TAKE, str(limit + excess), str(_HOLD_S)], check=True)
        if process.poll() is not None:
            break
        done.append(len(before - _ours(process)))
        print(f"{output}: {done[-1]} processes ended", flush=True)
        if len(done) < times:
            time.sleep(_PAUSE_S)
    _, err = process.communicate()
    assert process.returncode == 0, err


def _ours(process: "subprocess.Popen[str]") -> set[psutil.Process]:
    """Ray's processes of a search; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return ray_processes(psutil.Process(process.pid).children(recursive=True))
    return set()


def _differ(ours: Any, theirs: Any) -> bool:
    """Whether two trials differ by more than micro-batches do."""
    (*same, value, losses), (*same_there, value_there, losses_there) = ours, theirs
    if same != same_there or losses.keys() != losses_there.keys():
        return True
    pairs = [(losses[step], losses_there[step]) for step in losses] + [(value or 0.0, value_there or 0.0)]
    return not all(math.isclose(a, b, abs_tol=_TOLERANCE) for a, b in pairs)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--times", type=int, default=6)
    options = parse(parser, times=1)
    memory = psutil.virtual_memory()
    limit = memory.total - memory.available + _ROOM
    os.environ |= {"RAY_memory_usage_threshold": str(limit / memory.total)}
    done: list[int] = []
    number = halved = failed = changed = 0
    with tempfile.TemporaryDirectory() as folder:
        searches = searches_in(Path(folder), options)
        searches.run("whole", "--set", _RESTARTS)
        whole = tables(searches, "whole")
        while len(done) < options.times:
            output = f"short-{number}"
            run_short(searches, output, limit, options.times, done)
            halved += sum("accumulation" in trial.user_attrs for trial in searches.study(output).trials)
            failed += sum(event["state"] == "failed" for event in searches.events(output, "trial_ended"))
            changed += sum(
                _differ(a, b)
                for ours, theirs in zip(tables(searches, output), whole, strict=True)
                for a, b in zip(ours, theirs, strict=True)
            )
            number += 1
    result = {"times": len(done), "gone": sum(done), "searches": number}
    result |= {"halved": halved, "failed": failed, "changed": changed}
    print(json.dumps(result, indent=2))
    write_results(options, result)
    return int(failed + changed > 0)


if __name__ == "__main__":
    sys.exit(main())
