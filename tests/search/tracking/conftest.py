import pytest


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking.delivery._FIRST_DELAY", 0.01)
    monkeypatch.setattr("search.tracking.delivery._LAST_DELAY", 0.05)


@pytest.fixture(autouse=True)
def no_power_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests the 15 ms of a commit."""
    monkeypatch.setattr("search.tracking.outbox._SYNCHRONOUS", "OFF")
