"""The report of a search: what it tells, and that a browser shows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from search.report import main
from search.results.model_result import ModelResult
from search.results.summary import summarize
from search.space import Space, to_store
from search.studies.study import STATES
from tests.search.fed import ARMS, EPOCHS, FULL_TOKENS, fed, space


def search_in(folder: Path, asked: Space, finished: bool = True) -> ModelResult:
    """A search of made-up losses, in `folder` as the search itself would leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    size = fed(folder, asked, confirm=finished)
    (folder / "resolved.yaml").write_text(yaml.safe_dump(to_store(asked)))
    planned = {study.name: study.planned for study in size.studies}
    lines: list[dict[str, Any]] = [{"event": "search_started", "planned": planned, "resume_command": "again"}]
    for study in size.studies:
        for trial in study.trials(*TrialState):
            common = {"study": study.name, "trial": trial.number, "full_tokens": FULL_TOKENS}
            begins = {"arm": trial.user_attrs["arm"], "parameters": {}, "planned": study.planned, "tokens": 0}
            lines.append({"event": "trial_started", **common, **begins})
            for tokens, loss in trial.intermediate_values.items():
                losses = {"high_entropy_loss": loss, "low_entropy_loss": 9.0 - loss}
                epoch = tokens / (FULL_TOKENS // EPOCHS)
                lines.append({"event": "evaluation", **common, "tokens": tokens, "epoch": epoch, **losses})
            ends = {"state": STATES[trial.state], "reason": trial.user_attrs.get("reason"), "objective": trial.value}
            lines.append({"event": "trial_ended", **common, **ends})
    if finished:
        lines.append({"event": "search_ended", "status": "FINISHED"})
    (folder / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, **line}) + "\n" for line in lines))
    if finished:
        summary = summarize([size], asked, {size.model: 300_000}, {}, lambda study, number: None)
        (folder / "summary.json").write_text(json.dumps(summary))
    return size


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two searches: one that has finished, with arms, and one that has not."""
    folder = tmp_path_factory.mktemp("searches")
    search_in(folder / "one", space(arms=ARMS, budget={"trials": 14, "epochs": EPOCHS}))
    search_in(folder / "two", space(name="two"), finished=False)
    path = folder / "both.html"
    assert main([str(folder / "one"), str(folder / "two"), "--output", str(path)]) == 0
    return path


@pytest.mark.integration
def test_the_verdict_comes_first(written: Path) -> None:
    text = written.read_text()
    body = text[text.index("<main>") :]
    assert "builtin/nano: confirmed better." in body
    assert "Use trial" in body
    assert body.index("confirmed better") < body.index("Is it better than no dropout?")
    titles = ["The best curricula", "Does it overfit?", "The search", "What matters", "Settings: entrodrop"]
    assert [title for title in titles if f"<h3>{title}</h3>" not in body] == []


@pytest.mark.integration
def test_a_search_that_has_not_finished_is_marked(written: Path) -> None:
    body = written.read_text().split("<main>")[1]
    assert body.count("This search has not finished.") == 1
    assert body.index("This search has not finished.") < body.index("two, in detail")


@pytest.mark.integration
def test_it_is_small_and_needs_no_network(written: Path) -> None:
    text = written.read_text()
    assert len(text.encode()) < 6_000_000
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']""", own)


@pytest.mark.faults
def test_the_folder_is_not_changed(tmp_path: Path) -> None:
    search_in(tmp_path / "one", space(), finished=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert main([str(tmp_path / "one"), "--output", str(tmp_path / "report.html")]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before


@pytest.mark.faults
def test_words_of_others_are_text(tmp_path: Path) -> None:
    search_in(tmp_path / "one", space())
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    summary["models"]["builtin/nano"]["failures"] = {"3": "<script>alert(1)</script>"}
    (tmp_path / "one" / "summary.json").write_text(json.dumps(summary))
    assert main([str(tmp_path / "one")]) == 0
    text = (tmp_path / "one" / "report.html").read_text()
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in text
    assert "<script>alert" not in text


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "DIR: nowhere holds no search"),
        (["nowhere", "there"], "name a file for it"),
        (["nowhere", "--output", "/"], "--output: / is a folder; name a file"),
    ],
)
def test_what_cannot_be_reported_is_told_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.integration
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_every_plot(written: Path, browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written.as_uri())
    plots = page.locator(".plot")
    assert plots.count() > 10
    for index in range(plots.count()):
        assert plots.nth(index).locator(".point, .barlayer path, .js-line, .js-fill").count() > 0, index
        assert plots.nth(index).get_attribute("aria-label")
    assert told == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    # Nothing but a plot's own box is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    page.screenshot(path=tmp_path / f"report-{scheme}-{width}.png", full_page=True)
    page.close()
