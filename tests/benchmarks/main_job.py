"""Wall time of the main job: the first run, base models included, and the second one.

    python -m tests.benchmarks.main_job [--space spaces/math.yaml] [--json FILE] [--quick]

Keys: first_s, second_s (wall time), overhead_first_s, overhead_second_s (median overhead of a trial); all in seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests import tiny
from tests.scripts import parse, parser_of, write_results


def run(space: Path, folder: Path, output: str) -> tuple[float, float]:
    """Runs a search. Returns its wall time and its median overhead of a trial, in seconds."""
    command = [sys.executable, "-m", "search.run", str(space.absolute()), "--output", output]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ | {"ENTRODROP_CACHE": str(folder / "cache")}, check=True)
    seconds = time.perf_counter() - began
    summary = json.loads((folder / output / "summary.json").read_text())
    return seconds, summary["timing"]["trial_overhead_s"]


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
    }
    print(f"first run {first[0]:.0f} s, second run {second[0]:.0f} s")
    write_results(options, result)


if __name__ == "__main__":
    main()
