import pytest


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking.delivery._FIRST_DELAY", 0.01)
    monkeypatch.setattr("search.tracking.delivery._LAST_DELAY", 0.05)
