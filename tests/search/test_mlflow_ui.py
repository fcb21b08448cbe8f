"""What a person finds in MLflow's own pages after a search: the search with its trials, the best on top, charts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import DEADLINE_S, ROOT
from tests.searches import Searches
from tests.servers import Server

pytestmark = pytest.mark.faults

TIMEOUT_MS = 1000 * DEADLINE_S


@pytest.fixture(scope="module")
def pages(browser: Any, searches: Searches, whole: tuple[str, str]) -> Iterator[str]:
    """The address of the experiment's runs, on a real server."""
    server = Server(searches.folder, searches.folder / "mlflow.db")
    yield f"{server.uri}/#/experiments/1/runs"
    server.kill()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1500, "height": 900})
    opened.set_default_timeout(TIMEOUT_MS)
    yield opened
    opened.close()


def sorted_by_objective(pages: str, model: str, **more: str) -> str:
    """The filter and sort of the steps in spaces/README.md."""
    asked = {"searchFilter": f'tags.model = "{model}" and tags.stage = "search"', **more}
    asked |= {"orderByKey": "metrics.`objective_value`", "orderByAsc": "true"}
    return f"{pages}?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())


def run_names(page: Any) -> list[str]:
    links = page.locator('[role="gridcell"] a[href*="/runs/"]')
    links.first.wait_for()
    return [link.inner_text() for link in links.all()]


def test_the_search_holds_its_trials(pages: str, page: Any, searches: Searches, tmp_path: Path) -> None:
    page.goto(pages)
    row = page.get_by_role("gridcell").filter(has_text="tiny").last
    row.get_by_role("button").click()
    page.locator('a[href*="/runs/"]').filter(has_text="builtin/nano/0").first.wait_for()
    names = run_names(page)
    page.screenshot(path=tmp_path / "search.png")
    searched = [name for name in names if name.startswith("builtin/nano/") and "confirmation" not in name]
    assert len(searched) == len(searches.study("whole").trials)


def assert_the_best_is_on_top(page: Any, searches: Searches) -> None:
    table = searches.summary("whole")["models"]["builtin/nano"]["trials_table"]
    known = [row for row in table if row["objective"] is not None]
    best = min(known, key=lambda row: row["objective"])
    # The grid places its rows, whatever their order in the document.
    first = page.locator('[row-index="0"] a[href*="/runs/"]').first
    first.get_by_text(f"builtin/nano/{best['number']} ").wait_for()


def test_the_link_at_a_search_s_end_shows_the_best_on_top_and_its_settings(
    pages: str, page: Any, searches: Searches, whole: tuple[str, str], tmp_path: Path
) -> None:
    link = re.search(r"^  builtin/nano, the best on top: http://127\.0\.0\.1:5000(/#\S+)$", whole[0], re.MULTILINE)
    assert link is not None
    # What is not in sight is not drawn.
    page.set_viewport_size({"width": 2600, "height": 900})
    page.goto(pages.partition("/#")[0] + link[1])
    assert_the_best_is_on_top(page, searches)
    assert sum("builtin/nano/" in name for name in run_names(page)) == len(searches.study("whole").trials)
    for column in ("objective_value", "mask_ratio", "entropy_threshold.quantile", "curriculum.shape"):
        page.get_by_role("columnheader").filter(has_text=column).first.wait_for()
    page.screenshot(path=tmp_path / "link.png")


def test_the_steps_of_the_document_show_the_best_on_top(
    pages: str, page: Any, searches: Searches, tmp_path: Path
) -> None:
    page.goto(pages.partition("/#")[0])
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="entrodrop").first.click()
    search = page.get_by_placeholder("metrics.rmse < 1")
    text = (ROOT / "spaces/README.md").read_text()
    query = re.search(r"filter by `(tags\.model .*?)`", " ".join(text.split()))
    assert query is not None
    search.fill(query[1])
    search.press("Enter")
    # The trials, and the search that they belong to.
    page.get_by_text(f"{len(searches.study('whole').trials) + 1} matching runs").wait_for()
    page.get_by_text("Sort: Created").click()
    page.get_by_test_id("sort-select-objective_value").first.click()
    page.get_by_text("Sort: objective_value").click()
    page.get_by_label("Sort ascending").click()
    assert_the_best_is_on_top(page, searches)
    page.screenshot(path=tmp_path / "sorted.png")


def test_charts_are_drawn(pages: str, page: Any, tmp_path: Path) -> None:
    page.goto(sorted_by_objective(pages, "builtin/nano", compareRunsMode="CHART"))
    drawn = page.locator(".js-plotly-plot .scatterlayer .trace, .js-plotly-plot .barlayer .trace")
    drawn.nth(5).wait_for(state="attached")  # the page draws its charts one after the other
    page.screenshot(path=tmp_path / "charts.png")


def test_a_trial_shows_its_curriculum_and_what_it_dropped(
    pages: str, page: Any, searches: Searches, tmp_path: Path
) -> None:
    run_id = searches.run_ids("whole", 2)[1]
    page.goto(f"{pages}/{run_id}/model-metrics")
    for name in ("curriculum_strength", "mask_rate"):
        page.get_by_placeholder("Search metric charts").fill(name)
        page.get_by_text(name, exact=True).first.wait_for()
        page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
        page.screenshot(path=tmp_path / f"{name}.png")


def test_a_trial_has_a_page_of_its_own(pages: str, page: Any, searches: Searches, tmp_path: Path) -> None:
    run_id = searches.run_ids("whole", 2)[1]
    page.goto(f"{pages}/{run_id}/artifacts/trial.html")
    shown = page.frame_locator("iframe")
    shown.get_by_role("heading", name="Curriculum").wait_for()
    shown.get_by_role("heading", name="What is dropped of the first training documents").wait_for()
    assert shown.locator("polyline.curve").count() == 2
    assert shown.locator(".document s").count() > 0
    page.screenshot(path=tmp_path / "trial.png")
