"""Wall time and memory of the main job: the first run, base models included, and the second one.

    python -m tests.benchmarks.main_job [--space spaces/math.yaml] [--json FILE] [--quick]

Keys: first_s, second_s (wall time), overhead_first_s, overhead_second_s (median overhead of a trial), in seconds;
first_gb, second_gb (the most memory that all processes take at one time, what they share counted once; on Linux).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from tests import tiny
from tests.scripts import parse, parser_of, write_results


def run(space: Path, folder: Path, output: str) -> tuple[float, float, float]:
    """Runs a search. Returns its wall time and its median overhead of a trial, in seconds, and its memory in GB."""
    command = [sys.executable, "-m", "search.run", str(space.absolute()), "--output", output]
    began, most = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=folder, env=os.environ | {"ENTRODROP_CACHE": str(folder / "cache")}) as search:
        while search.poll() is None:
            most = max(most, used_bytes(psutil.Process(search.pid)))
            time.sleep(1.0)
    seconds = time.perf_counter() - began
    if search.returncode:
        raise subprocess.CalledProcessError(search.returncode, command)
    summary = json.loads((folder / output / "summary.json").read_text())
    return seconds, summary["timing"]["trial_overhead_s"], most / 1e9


def used_bytes(search: psutil.Process) -> int:
    """The memory of a process and of all that it has started; of a page that several share each has its part."""
    total = 0
    # They may end just now.
    with suppress(psutil.NoSuchProcess):
        for process in [search, *search.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--space", type=Path, default=Path("spaces/math.yaml"))
    options = parse(parser)
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.space = Path(scratch, "tiny.yaml")
            options.space.write_text(yaml.safe_dump(tiny.space(Path(scratch))))
        first = run(options.space, Path(scratch), "first")
        second = run(options.space, Path(scratch), "second")
    result = {
        "first_s": first[0],
        "second_s": second[0],
        "overhead_first_s": first[1],
        "overhead_second_s": second[1],
        "first_gb": first[2],
        "second_gb": second[2],
    }
    print(f"first run {first[0]:.0f} s, {first[2]:.1f} GB; second run {second[0]:.0f} s, {second[2]:.1f} GB")
    write_results(options, result)


if __name__ == "__main__":
    main()
