"""Fixtures that all tests share, and their tiers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import TIERS
from tests.searches import Searches


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def file(content: str | bytes, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


@pytest.fixture(scope="session")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Searches:
    """A folder for searches, with one cache."""
    return Searches(tmp_path_factory.mktemp("searches"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tiers = {mark.name for mark in item.iter_markers()} & set(TIERS)
        if not tiers:
            item.add_marker("unit")
        elif len(tiers) > 1:
            raise pytest.UsageError(f"{item.nodeid} is in more than one tier: {', '.join(sorted(tiers))}")
        item.user_properties.append(("tier", *(tiers or {"unit"})))
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
