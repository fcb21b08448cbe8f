"""Each script of tests/benchmarks and tests/faults still runs, with --quick: how fast anything is, is not judged.

A script of tests/faults fails if anything was lost, changed or left over.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.searches import Searches

SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "faults")
    for path in sorted((ROOT / "tests" / folder).rglob("*.py"))
    if "\ndef main()" in path.read_text()
]


@pytest.mark.faults
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str, searches: Searches, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "ENTRODROP_CACHE": str(searches.cache)}
    command = [sys.executable, "-m", script, "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
    if "the package reasoning-gym is not installed" in done.stderr:
        pytest.skip("needs reasoning-gym")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
