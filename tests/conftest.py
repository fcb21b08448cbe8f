"""Fixtures that all tests share, and their tiers."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ROOT, TIERS, TRAINING
from tests.searches import Searches

# Two test processes share two cores, and a small tensor gains nothing from a second thread.
torch.set_num_threads(1)
# Nothing that is written in this process has to outlast the machine; a search has a process of its own.
os.fsync = lambda _: None


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def file(content: str | bytes, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


@pytest.fixture(scope="session")
def searches(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Searches]:
    """A folder for searches, with one cache. Base models are kept from one run of pytest to the next."""
    searches = Searches(tmp_path_factory.mktemp("searches"))
    kept, base = Path(pytestconfig.cache.mkdir("base")), searches.cache / "base"
    shutil.copytree(kept, base, ignore=shutil.ignore_patterns(".*"))
    yield searches
    for model in base.iterdir():
        if not (kept / model.name).exists():
            # Whole or not at all: another process of this run may be reading.
            own = kept / f".{os.getpid()}-{model.name}"
            shutil.copytree(model, own)
            with suppress(OSError):
                own.rename(kept / model.name)
            shutil.rmtree(own, ignore_errors=True)


def pytest_itemcollected(item: pytest.Function) -> None:
    tiers = {mark.name for mark in item.iter_markers()} & set(TIERS)
    if len(tiers) > 1:
        raise pytest.UsageError(f"{item.nodeid} is in more than one tier: {', '.join(sorted(tiers))}")
    tier = next(iter(tiers), "integration" if any(map(item.path.is_relative_to, TRAINING)) else "unit")
    if not tiers:
        item.add_marker(tier)
    item.user_properties.append(("tier", tier))
    # With -n 2 one process runs the tests that look at one search, and the tests of a module that starts Ray for all of
    # them; the other tests go wherever there is time.
    folders = item.path.relative_to(ROOT / "tests").parts
    if tier != "unit" and ("trainables" not in folders or "slots" in folders):
        together = (tier == "integration" and "searches" in item.fixturenames) or "whole" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("whole" if together else item.path.stem))
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How long each tier took."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[dict(report.user_properties)["tier"]] += report.duration
    terminalreporter.write_line("tiers: " + ", ".join(f"{tier} {spent:.0f} s" for tier, spent in seconds.items()))
