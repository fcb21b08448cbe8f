"""The report of a search: what it tells, and that a browser shows it."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState
from PIL import Image

from search.report import main
from search.results.model_result import ModelResult
from search.results.summary import summarize
from search.space import Space, to_store
from search.studies.study import STATES
from tests.accessibility import list_barriers
from tests.search.fed import ARMS, EFFECTS, EPOCHS, FULL_TOKENS, fed, space


def search_in(folder: Path, asked: Space, finished: bool = True, evaluation_hash: str | None = None) -> ModelResult:
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
        if evaluation_hash is not None:
            summary["models"][size.model] |= {"data_hash": "d" * 64, "evaluation_hash": evaluation_hash}
        shown = [[["Ann", None, "read"], [" buys", 0.2, "candidate"], [" 24", 9.7, "learned"], [".", 9.5, "candidate"]]]
        summary["models"][size.model]["documents"] = {"tokens": shown, "share": 0.5}
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
    assert len(text.encode()) < 1_600_000
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']""", own)


@pytest.mark.integration
def test_the_question_comes_before_the_answer(written: Path) -> None:
    body = written.read_text().split("<main>")[1]
    question = (
        "Which schedule among the arms no dropout, entrodrop, weight-decay, random-tokens gives the least held-out "
        "high-entropy loss at the best evaluation (the checkpoint one would keep) of 8 epochs on 4 training documents "
        "(builtin word_problems), for builtin/nano? Budget of each model and arm: 14 full trials."
    )
    assert question in body
    assert body.index(question) < body.index("confirmed better")


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
def test_nothing_in_a_space_runs_in_the_page(tmp_path: Path, browser: Any) -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7 * 7 }}"
    data = {"source": "files", "path": f"{bad}.txt", "template": f"{{text}}{bad}", "train": 4, "validation": 4}
    asked = space(data=data | {"test": 20}, tracking={"experiment": bad, "uri": f"http://a/{bad}"})
    search_in(tmp_path / "one", asked)
    (tmp_path / "one" / "mlflow.cursor").write_text(json.dumps({"runs": {"builtin/nano/1": bad}}))
    search_in(tmp_path / "two", space(name="two", tracking={"experiment": f"other {bad}"}))
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "both.html")]) == 0
    page = browser.new_page()
    told: list[str] = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto((tmp_path / "both.html").as_uri())
    assert page.locator("#trials tbody tr").count() > 10
    assert bad in page.locator("table", has_text="tracking.experiment").first.text_content()
    assert page.locator("img").count() == 0
    assert told == []
    page.close()


@pytest.fixture
def trials(written: Path, browser: Any) -> Iterator[Any]:
    """The section of all trials, in a browser."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(written.as_uri())
    yield page.locator("#trials")
    page.close()


def marks(trials: Any, kind: str = "") -> dict[str, list[str]]:
    """The numbers of the rows that are marked in each picture."""
    pictures = trials.locator("[data-picture]")
    return {
        pictures.nth(n).get_attribute("data-picture"): pictures.nth(n).evaluate(
            "(e, kind) => [...e.querySelectorAll('.mark' + kind)].map(one => one.dataset.trial)", kind
        )
        for n in range(pictures.count())
    }


@pytest.mark.integration
def test_what_is_selected_in_one_is_selected_in_all(trials: Any) -> None:
    row = trials.locator("tbody tr", has=trials.page.get_by_text("entrodrop", exact=True)).first
    index = row.get_attribute("data-trial")
    row.locator("input").focus()
    trials.page.keyboard.press("Space")
    assert row.evaluate("row => row.classList.contains('chosen')")
    assert set(marks(trials)) == {"parallel", "scatter", "curves", "curricula"}
    assert all(chosen == [index] for chosen in marks(trials, ".chosen").values())
    other = next(one for one in marks(trials)["curves"] if one != index)
    # A click at the end of its curve.
    trials.locator(f"[data-picture=curves] [data-trial='{other}'] .point").dispatch_event("click")
    assert trials.locator(f"tbody tr[data-trial='{other}'] input").is_checked()
    assert "2 selected" in trials.get_by_role("status").text_content()
    trials.get_by_role("checkbox", name="only selected ones").check()
    assert len(marks(trials)["curves"]) == 2
    trials.get_by_role("button", name="Clear the selection").click()
    assert all(chosen == [] for chosen in marks(trials, ".chosen").values())
    assert len(marks(trials)["curves"]) > 10


@pytest.mark.integration
def test_a_drag_along_an_axis_selects(trials: Any) -> None:
    axis = trials.locator("[data-picture=parallel] .brush").last
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    page, x = trials.page, box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(x, box["y"] + box["height"] - 1, steps=5)
    page.mouse.up()
    # All that have a loss.
    assert sorted(marks(trials, ".chosen")["curves"]) == sorted(marks(trials)["curves"])
    assert len(marks(trials)["curves"]) > 10


@pytest.mark.integration
def test_a_finger_along_an_axis_selects_and_does_not_scroll(written: Path, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(written.as_uri())
    trials, touch = page.locator("#trials"), context.new_cdp_session(page)
    axis = trials.locator("[data-picture=parallel] .brush").last
    axis.evaluate("axis => axis.scrollIntoView({ block: 'center', inline: 'center' })")
    box, scrolled = axis.bounding_box(), page.evaluate("scrollY")
    x, low, high = box["x"] + box["width"] / 2, box["y"] + box["height"] - 1, box["y"] + 1

    def send(kind: str, *places: float) -> None:
        points = [{"x": x, "y": y} for y in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", low)
    for n in range(1, 14):
        send("touchMove", low + (high - low) * n / 13)
    send("touchEnd")
    chosen = marks(trials, ".chosen")["curves"]
    assert sorted(chosen) == sorted(marks(trials)["curves"])
    assert len(chosen) > 10
    assert page.evaluate("scrollY") == scrolled
    # What the browser takes for something else changes nothing.
    send("touchStart", low)
    send("touchMove", low - 20)
    send("touchCancel")
    assert marks(trials, ".chosen")["curves"] == chosen
    assert trials.locator(".brushed").count() == 0
    context.close()


@pytest.mark.integration
def test_a_line_joins_only_neighbouring_axes_on_which_its_trial_has_a_value(trials: Any) -> None:
    picture = trials.locator("[data-picture=parallel]")
    axes = picture.locator(".brush").evaluate_all("all => all.map(one => +one.getAttribute('x') + 7)")
    names = picture.locator(".halo").evaluate_all("all => all.map(one => one.querySelector('text').textContent)")
    of_trials = json.loads(trials.locator("script").text_content())
    drawn = picture.locator(".mark").evaluate_all(
        """all => all.map(mark => {
            const paths = [...mark.querySelectorAll(".curve")].map(path => path.getAttribute("d"));
            return [+mark.dataset.trial, paths.map(d => [...d.matchAll(/[ML]([^,]+)/g)].map(found => +found[1]))];
        })"""
    )
    broken = 0
    for index, paths in drawn:
        values = dict(zip(of_trials["settings"], of_trials["trials"][index]["settings"], strict=True))
        for path in paths:
            places = [min(range(len(axes)), key=lambda n, x=x: abs(axes[n] - x)) for x in path]
            assert places == list(range(places[0], places[-1] + 1))
            assert all(values.get(names[place], 0) is not None for place in places)
        broken += len(paths) > 1 or (len(paths) == 1 and len(paths[0]) < len(axes))
    assert broken > 2


@pytest.mark.integration
def test_a_logarithmic_axis_has_two_ticks_at_least(tmp_path: Path, browser: Any) -> None:
    decay = {"training": {"weight_decay": {"low": 11.0, "high": 19.0, "log": True}}}
    search_in(tmp_path, space(arms=[ARMS[0], ARMS[2] | decay]), finished=False)
    assert main([str(tmp_path)]) == 0
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_role("combobox", name="arm", exact=True).select_option("weight-decay")
    texts = page.locator("[data-picture=parallel] .halo").first.locator("text").all_text_contents()
    assert texts[0] == "weight_decay"
    assert len(texts) > 2
    assert all(11 <= float(tick) <= 19 for tick in texts[1:])
    page.close()


@pytest.mark.integration
def test_filters_hold_for_the_table_and_the_pictures(trials: Any) -> None:
    trials.get_by_role("combobox", name="arm", exact=True).select_option("random-tokens")
    rows = trials.locator("tbody tr:visible")
    assert rows.count() > 1
    assert {rows.nth(n).locator("td").nth(1).text_content() for n in range(rows.count())} == {"random-tokens"}
    shown = {rows.nth(n).get_attribute("data-trial") for n in range(rows.count())}
    assert set(marks(trials)["curves"]) == shown
    trials.get_by_role("combobox", name="state", exact=True).select_option("complete")
    assert set(marks(trials)["curves"]) < shown


@pytest.mark.integration
def test_headers_sort_by_number_and_what_is_missing_is_last(trials: Any) -> None:
    header = trials.get_by_role("columnheader", name="mask_ratio")
    for order in ("ascending", "descending"):
        header.get_by_role("button").focus()
        trials.page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == order
        assert header.get_by_role("button", name="mask_ratio", exact=True).count() == 1
        column = header.evaluate("header => header.cellIndex + 1")
        cells = trials.locator(f"tbody tr > :nth-child({column})")
        values = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")
        numbers = [float(value) for value in values if value]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert len(numbers) > 2
        assert set(values[len(numbers) :]) == {""}


@pytest.mark.integration
def test_losses_of_different_evaluation_sets_share_no_axis(trials: Any) -> None:
    above = "above the best without dropout (nats)"
    caption = trials.locator("figcaption", has_text="by epoch")
    axis = trials.locator("[data-picture=parallel] .halo").last
    assert above in caption.text_content()
    assert f"high-entropy loss at best{above}" in axis.text_content()
    trials.get_by_role("combobox", name="search", exact=True).select_option("two")
    assert above not in caption.text_content()
    assert "high-entropy loss at best(nats)" in axis.text_content()


@pytest.mark.integration
def test_headers_stand_in_one_line(trials: Any) -> None:
    bottoms = trials.locator("thead th").evaluate_all(
        """headers => headers.map(header => {
            const text = document.createRange();
            text.selectNodeContents(header.querySelector("button") ?? header);
            return Math.round(text.getBoundingClientRect().bottom);
        })"""
    )
    assert len(set(bottoms)) == 1


@pytest.mark.integration
def test_without_javascript_the_searchs_pictures_are_seen(tmp_path: Path, browser: Any) -> None:
    search_in(tmp_path, space())
    Image.effect_noise((400, 300), 50).convert("RGB").save(tmp_path / "rebound.png")
    assert main([str(tmp_path)]) == 0
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((tmp_path / "report.html").as_uri())
    (picture,) = page.get_by_role("img", name="Held-out high-entropy loss by tokens").all()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [400, 300]
    # A phone scrolls it.
    page.set_viewport_size({"width": 390, "height": 800})
    assert picture.bounding_box()["width"] > 600
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.integration
def test_the_report_of_a_url_names_its_url(tmp_path: Path) -> None:
    search_in(tmp_path / "my search", space())
    assert main([f"file://{tmp_path}/my search"]) == 0
    text = (tmp_path / "my search" / "report.html").read_text()
    assert f"<code>file://{tmp_path}/my search/resolved.yaml</code>" in text
    assert "python -m search.run resolved.yaml --output runs/again" in text
    assert main([str(tmp_path / "my search")]) == 0
    text = (tmp_path / "my search" / "report.html").read_text()
    assert f"python -m search.run &#39;{tmp_path}/my search/resolved.yaml&#39; --output" in text


@pytest.mark.integration
def test_everybody_can_use_the_report(written: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(written.as_uri())
    assert list_barriers(page) == []
    page.close()


@pytest.mark.integration
@pytest.mark.parametrize("width", [390, 1440])
def test_long_names_leave_room_for_the_plots_and_are_not_cut_off(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    name = "random-tokens-" + "x" * 60
    monkeypatch.setitem(EFFECTS, name, 0.1)
    search_in(tmp_path / "one", space(arms=[*ARMS[:2], {"name": name, "schedule": {"tokens": "random"}}]))
    assert main([str(tmp_path / "one")]) == 0
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "one" / "report.html").as_uri())
    plot = page.locator("figure", has_text="Is it better than no dropout?").locator(".plot")
    inside = plot.bounding_box()
    texts = plot.locator(".ytick text, .xtick text, .xtitle")
    assert texts.count() > 5
    for n in range(texts.count()):
        text = texts.nth(n).bounding_box()
        assert text["x"] >= inside["x"] - 1
        assert text["x"] + text["width"] <= inside["x"] + inside["width"] + 1
    assert plot.locator(".gridlayer").first.bounding_box()["width"] > 0.3 * inside["width"]
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert all(after <= before + 1 for before, after in pairwise(levels))
    page.screenshot(path=tmp_path / f"long-{width}.png", full_page=True)
    page.close()


@pytest.mark.integration
def test_without_javascript_the_table_and_its_curves_are_there(written: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    rows = page.locator("#trials tbody tr")
    assert rows.locator("td:nth-of-type(4) .spark").count() == rows.count()
    assert rows.first.is_visible()
    assert page.locator("#trials form").is_hidden()
    assert page.locator(".plot").first.is_hidden()
    assert page.locator("details").first.is_visible()
    context.close()


@pytest.mark.integration
def test_it_prints_in_black_on_white(written: Path, browser: Any) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(written.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#trials form").is_hidden()
    breaks = page.locator("h2, h3").evaluate_all("all => all.map(heading => getComputedStyle(heading).breakAfter)")
    assert set(breaks) == {"avoid"}
    assert page.evaluate("getComputedStyle(document.querySelector('.plot .xtick text')).fill") == "rgb(27, 31, 35)"
    page.close()


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
