"""The page of one trial."""

from pathlib import Path
from typing import Any

import pytest

from search.results.page.trial import TrialPage, render_trial


@pytest.mark.integration
@pytest.mark.parametrize("width", [390, 1200])
def test_its_charts_can_be_read_on_a_phone(tmp_path: Path, browser: Any, width: int) -> None:
    curriculum = {"shape": "sigmoid", "midpoint": 0.4, "steepness": 10.0}
    trial = TrialPage("builtin/nano, trial 3", {400: 5.0, 800: 4.9}, 800, curriculum, [], {})
    (tmp_path / "trial.html").write_text(render_trial(trial))
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "trial.html").as_uri())
    texts = page.locator("svg text")
    assert texts.count() > 6
    heights = [texts.nth(n).bounding_box()["height"] for n in range(texts.count())]
    assert min(heights) > 11
    assert max(heights) < 24
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # As many digits as the other losses have.
    assert "4.9000 at its least" in page.locator("figcaption").first.text_content()
    page.close()
