"""Searches that are run by the real command, and a browser, shared by the tests that look at them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.holds import Holds
from tests.searches import Searches, end_searches

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def whole(searches: Searches) -> tuple[str, str]:
    """The output of an uninterrupted search in `whole`."""
    return searches.run("whole", "--set", "tracking.register_as=tiny")


@pytest.fixture(autouse=True)
def _end_searches() -> Iterator[None]:
    yield
    end_searches()


@pytest.fixture
def holds(tmp_path: Path) -> Iterator[Holds]:
    holds = Holds(tmp_path / "holds")
    yield holds
    holds.release()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is empty, on a machine of two CPUs, and no cluster is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium has no sandbox; the pages are ours.
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()
