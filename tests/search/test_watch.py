"""The page that follows a search: it moves by itself, stays on this machine, and becomes the report."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import uvicorn

from search.output.folder import lock_output
from search.output.object_store import open_for_reading
from search.watch import LivePage, _listen, main, make_app, serve_beside
from tests import DEADLINE_S, ROOT
from tests.accessibility import list_barriers
from tests.holds import PROGRAM, Holds
from tests.search.fed import FULL_TOKENS, space
from tests.search.test_report import search_in
from tests.searches import Searches
from trainables.errors import ConfigError

BAD = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7 * 7 }}"


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[int]:
    """The port of the page of the search in `folder`."""
    with _listen(port) as listening:
        config = uvicorn.Config(
            make_app(LivePage(folder), lambda: False), log_level="warning", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)


class Written:
    """A search whose events are written one after the other."""

    def __init__(self, folder: Path) -> None:
        search_in(folder, space())
        self._path, self.folder = folder / "events.jsonl", folder
        self.lines = self._path.read_text().splitlines(keepends=True)
        self._path.write_text("")
        (folder / "report.html").write_text("<!DOCTYPE html><title>r</title><h1>The report</h1>")

    def write(self, kind: str, count: int) -> None:
        """Writes up to and with the next so many events of a kind."""
        while count:
            line = self.lines.pop(0)
            with self._path.open("a") as file:
                file.write(line)
            count -= json.loads(line)["event"] == kind

    def end(self) -> None:
        while self.lines:
            with self._path.open("a") as file:
                file.write(self.lines.pop(0))


@pytest.mark.integration
def test_the_page_moves_without_a_reload_and_becomes_the_report(tmp_path: Path, browser: Any) -> None:
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    search.write("evaluation", 3)
    with lock_output(search.folder):
        page = browser.new_page(viewport={"width": 390, "height": 800})
        told: list[str] = []
        page.on("pageerror", lambda error: told.append(str(error)))
        with served(search.folder) as port:
            page.goto(f"http://127.0.0.1:{port}/")
            page.evaluate("window.here = true")
            page.locator("#now").get_by_text("builtin/nano, trial 0").wait_for()
            assert page.get_by_text(f"300 of {FULL_TOKENS} tokens").is_visible()
            assert page.locator("h1").text_content() == "The search: search of builtin/nano"
            search.write("trial_started", 2)
            page.locator("#now").get_by_text("builtin/nano, trial 2").wait_for()
            assert page.get_by_text(re.compile(r"2 of \d+ trials, 1 complete, 1 pruned")).is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert list_barriers(page) == []
            page.set_viewport_size({"width": 390, "height": 800})
            page.screenshot(path=tmp_path / "live.png", full_page=True)
        page.get_by_text("No answer from search.watch").wait_for()
        # Started again, it goes on in the page that is open.
        with served(search.folder, port):
            search.write("trial_started", 1)
            page.locator("#now").get_by_text("builtin/nano, trial 3").wait_for()
            assert page.evaluate("window.here")
            search.end()
            page.get_by_text("The report").wait_for()
        assert told == []
        page.close()


@pytest.mark.integration
def test_the_table_of_all_trials_grows_and_keeps_what_one_has_chosen(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.watch._REST", 0)
    whole, folder = tmp_path / "whole", tmp_path / "one"
    search_in(whole, space())
    shutil.copytree(whole, folder, ignore=lambda *_: ["summary.json", "report.html"])
    journal, events = (
        (whole / name).read_text().splitlines(keepends=True) for name in ("study.journal", "events.jsonl")
    )
    ended = [number for number, line in enumerate(events) if json.loads(line)["event"] == "trial_ended"]

    def write(share: float, trials: int) -> None:
        (folder / "study.journal").write_text("".join(journal[: int(share * len(journal))]))
        (folder / "events.jsonl").write_text("".join(events[: ended[trials - 1] + 1]))

    write(0.3, 2)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    told: list[str] = []
    page.on("pageerror", lambda error: told.append(str(error)))
    with lock_output(folder), served(folder) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        rows = page.locator("#trials tbody tr")
        before = rows.count()
        page.get_by_role("button", name="loss at best").click()
        page.get_by_role("button", name="loss at best").click()
        page.locator("select[name=y]").select_option("high-entropy loss at last")
        page.get_by_role("checkbox", name="select builtin/nano, trial 1", exact=True).check()
        page.evaluate("document.querySelector('.rows').scrollTo(40, 0)")
        write(1, len(ended))
        rows.nth(before).wait_for()
        assert page.evaluate("document.activeElement.ariaLabel") == "select builtin/nano, trial 1"
        assert page.get_by_role("checkbox", name="select builtin/nano, trial 1", exact=True).is_checked()
        assert page.locator("svg[data-picture=curves] .mark.chosen").count() == 1
        assert page.locator("select[name=y]").input_value() == "high-entropy loss at last"
        assert page.evaluate("document.querySelector('.rows').scrollLeft") == 40
        losses = [float(loss) for (loss,) in cells(page, "loss at best") if loss]
        assert len(losses) > 2
        assert losses == sorted(losses, reverse=True)
        assert list_barriers(page) == []
        page.screenshot(path=tmp_path / "trials.png", full_page=True)
    assert told == []
    page.close()


def cells(page: Any, *titles: str) -> list[list[str]]:
    """The columns with these headers of the first table that has them all, as text by row."""
    found: list[list[str]] = page.evaluate(
        """titles => {
          for (const table of document.querySelectorAll("table")) {
            const headers = [...table.tHead.rows[0].cells].map(cell => cell.textContent.trim());
            const at = titles.map(title => headers.indexOf(title));
            if (!at.includes(-1))
              return [...table.tBodies[0].rows].map(row => at.map(n => row.cells[n].textContent.trim()));
          }
        }""",
        titles,
    )
    return found


@pytest.mark.integration
def test_the_page_of_a_search_that_runs_has_the_numbers_of_its_summary(
    searches: Searches, holds: Holds, browser: Any, tmp_path: Path
) -> None:
    holds.hold("builtin-nano/0@2")
    process = searches.start("watched", "--watch", program=PROGRAM, environment=holds.environment)
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("page: "))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(1000 * DEADLINE_S)
    address = line.split()[1]
    page.goto(address)
    page.evaluate("window.here = true")
    holds.wait(process)
    evaluated = [event for event in searches.events("watched", "evaluation") if event["trial"] == 0]
    assert len(evaluated) == 1
    card = page.locator("#now").get_by_role("listitem").filter(has_text="builtin/nano, trial 0")
    card.get_by_text(f"high-entropy loss {evaluated[-1]['metrics']['high_entropy_loss']:.4f}").wait_for()
    assert f"{evaluated[-1]['tokens']:,} of {evaluated[-1]['full_tokens']:,} tokens" in card.text_content()
    node = page.locator("#now").get_by_role("listitem").filter(has_text=platform.node())
    assert re.search(r"CPU \d+ %, memory \d+ %", node.text_content())
    assert page.evaluate("window.here")
    page.screenshot(path=tmp_path / "running.png", full_page=True)
    holds.release()
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{out}\n{err}"
    # The page is the report by now, or becomes it where the folder is served again.
    with served(searches.folder / "watched", int(address.rstrip("/").rpartition(":")[2])):
        page.get_by_role("heading", name="which schedule to fine-tune with").wait_for()
    entry = searches.summary("watched")["models"]["builtin/nano"]
    tokens = {number: int(value.replace(",", "")) for number, value in cells(page, "trial", "tokens")}
    assert tokens == {str(row["number"]): row["tokens"] for row in entry["trials_table"]}
    losses = {row[0]: row[1:] for row in cells(page, "trial", "loss at best", "loss at last")}
    for trial in (entry["baseline"], entry["best"]):
        assert losses[str(trial["trial"])][0] == f"{trial['best_high_entropy_loss']:.4f}"
    assert losses["0"][1] == f"{entry['baseline']['final_high_entropy_loss']:.4f}"
    confirmation = entry["confirmation"]
    found, names = confirmation["difference"]["best"], ("mean", "low", "high", "here_low", "here_high", "detectable")
    titles = ("nats", "low", "high", "low, here", "high, here", "detectable")
    (row,) = cells(page, *titles)
    assert [float(cell) for cell in row] == pytest.approx([found[name] for name in names], abs=6e-5)
    assert len(tokens) + 3 + len(names) >= 10
    page.screenshot(path=tmp_path / "ended.png")
    page.close()


@pytest.mark.integration
def test_the_page_tells_the_use_of_each_node(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    trials = [json.loads(line) for line in search.lines if '"trial_started"' in line][:2]
    of = {key: trials[0][key] for key in trials[0].keys() & {"time", "study", "model", "stage"}}
    use = {"system/cpu_utilization_percentage": 31.4, "system/system_memory_usage_percentage": 50.0}
    use |= {"system/gpu_0_utilization_percentage": 97.2, "high_entropy_loss": 5.0}
    evaluations = [
        {"event": "evaluation", **of, "trial": number, "tokens": 100, "full_tokens": 800, "metrics": use, "node": node}
        for number, node in enumerate(("one<b>", "two"))
    ]
    search.lines[:] = [search.lines[0], *(json.dumps(line) + "\n" for line in (*trials, *evaluations))]
    search.end()
    with lock_output(search.folder):
        text = " ".join(LivePage(search.folder).show().now.split())
    assert "100 of 800 tokens, on one&lt;b&gt;</li>" in text
    for number, node in enumerate(("one&lt;b&gt;", "two")):
        own = f"builtin/nano, trial {number}: GPU 97 %"
        assert f"<strong>{node}</strong><br>CPU 31 %, memory 50 %<br>{own}</li>" in text


def spoil(value: Any, name: str = "") -> Any:
    """An event with a script in every word of others."""
    match value:
        case str() if name not in ("event", "stage", "state", "status", "shape"):
            return value + BAD
        case dict():
            # Studies have models' names.
            return {spoil(key) if name == "planned" else key: spoil(one, key) for key, one in value.items()}
        case list():
            return [spoil(one) for one in value]
    return value


@pytest.mark.integration
def test_nothing_in_a_space_runs_in_the_page(tmp_path: Path, browser: Any) -> None:
    search = Written(tmp_path / "one")
    search.lines = [json.dumps(spoil(json.loads(line))) + "\n" for line in search.lines]
    search.write("trial_started", 3)
    page = browser.new_page()
    told: list[str] = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: told.append(str(error)))
    with lock_output(search.folder), served(search.folder) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#now").get_by_text(f"builtin/nano{BAD}, trial 2").wait_for()
        search.write("trial_started", 1)
        # Now by an event, which the page's own script puts into it.
        page.locator("#now").get_by_text(f"builtin/nano{BAD}, trial 3").wait_for()
        assert BAD in page.title()
        assert page.locator("img").count() == 0
        assert page.locator("#now script").count() == 0
        assert told == []
    page.close()


@pytest.mark.integration
def test_it_answers_this_machine_with_its_page_only(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    with served(search.folder) as port:
        for path, headers, status in (
            ("/../resolved.yaml", {}, 404),
            ("/resolved.yaml", {}, 404),
            ("/", {"Host": "evil.example"}, 400),
        ):
            with pytest.raises(HTTPError) as caught:
                urlopen(Request(f"http://127.0.0.1:{port}{path}", headers=headers))
            assert caught.value.code == status
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"http://127.0.0.1:{port}/", data=b"", method="POST"))
        assert caught.value.code == 405
        with urlopen(f"http://localhost:{port}/") as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.integration
def test_a_search_serves_its_page_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.watch._LAST_LOOK_S", 0.1)
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    with lock_output(search.folder), serve_beside(search.folder, 0) as address:
        with urlopen(address) as answer:
            assert "builtin/nano, trial 0" in answer.read().decode()
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"^--watch: {port} cannot be used \("), serve_beside(tmp_path, port):
            pass
    with pytest.raises(URLError):
        urlopen(address)


@pytest.mark.integration
def test_the_trials_of_a_running_search_can_be_played_with(tmp_path: Path, browser: Any) -> None:
    search_in(tmp_path, space(), finished=False)
    page = browser.new_page()
    with lock_output(tmp_path), served(tmp_path) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_role("checkbox", name="select builtin/nano, trial 1", exact=True).check()
        assert page.locator("svg[data-picture=curves] .mark.chosen").count() == 1
        page.get_by_role("link", name="The report as it stands").click()
        page.get_by_text("This search has not finished.").wait_for()
        page.get_by_role("checkbox", name="select builtin/nano, trial 1", exact=True).check()
        assert page.locator("svg[data-picture=curves] .mark.chosen").count() == 1
    assert not (tmp_path / "report.html").exists()
    page.close()


BESIDE = """
import sys
from pathlib import Path
from search.watch import serve_beside
if __name__ == "__main__":
    try:
        with serve_beside(Path(sys.argv[1]), 0) as address:
            print(address, flush=True)
            sys.stdin.read()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
"""


def _heed() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.integration
@pytest.mark.parametrize(("program", "told"), [("-m search.watch --port 0", "interrupted\n"), (None, "ended\n")])
def test_ctrl_c_ends_the_page_in_one_line_while_a_browser_follows_it(
    program: str | None, told: str, tmp_path: Path
) -> None:
    search, script = Written(tmp_path / "one"), tmp_path / "beside.py"
    search.write("trial_started", 1)
    script.write_text(BESIDE)
    command = [sys.executable, *(program.split() if program else [str(script)]), str(search.folder)]
    # As a terminal does: all processes of the group get it, also where these tests ignore it, in the background.
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, text=True, start_new_session=True, env=environment, preexec_fn=_heed, **pipes)  # type: ignore[call-overload]
    address = process.stdout.readline().strip()
    with urlopen(f"{address}events") as followed:
        assert followed.readline().startswith(b"data: ")
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=DEADLINE_S)
    assert error == told


@pytest.mark.integration
def test_a_search_that_was_killed_says_how_to_go_on(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    page = LivePage(search.folder)
    assert "it was killed, or its machine was lost; go on with: again" in page.show().now
    assert not page.over


@pytest.mark.integration
def test_a_search_that_failed_with_a_report_becomes_it(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    for files, over in (([], False), (["report.html"], True)):
        ending = {"event": "search_ended", "status": "FAILED", "description": "no trial", "files": files}
        search.lines = [json.dumps({"time": 1.0, **ending}) + "\n"]
        search.end()
        page = LivePage(search.folder)
        page.show()
        assert page.over == over


@pytest.mark.integration
def test_a_url_of_a_folder_in_which_a_search_runs_is_followed(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    url = f"file://{search.folder}"
    with lock_output(search.folder), open_for_reading(url) as copy:
        assert "of 800 tokens" in LivePage(copy, url).show().now


@pytest.mark.integration
def test_a_page_that_is_opened_before_the_first_event_follows_the_search(tmp_path: Path) -> None:
    search = Written(tmp_path / "one")
    (tmp_path / "one" / "events.jsonl").unlink()
    with lock_output(search.folder), served(search.folder) as port:
        for expected in ("The search: packages and Ray are being loaded", "builtin/nano, trial 0"):
            with urlopen(f"http://127.0.0.1:{port}/events") as stream:
                while expected not in (line := stream.readline().decode()):
                    assert "Errno" not in line
            if not (tmp_path / "one" / "events.jsonl").exists():
                search.write("trial_started", 1)


@pytest.mark.integration
def test_the_output_at_a_url_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.watch._URL_PAUSE_S", 0.0)
    search = Written(tmp_path / "one")
    search.write("trial_started", 1)
    search.write("evaluation", 1)
    url = f"file://{search.folder}"
    with open_for_reading(url) as copy:
        page = LivePage(copy, url)
        assert re.search(r"\n0 of \d+ trials", page.show().now)
        search.write("trial_ended", 1)
        assert re.search(r"\n1 of \d+ trials, 1 complete", page.show().now)
        assert not page.over
        search.end()
        page.show()
        assert page.over
        assert "The report" in page.report.read_text()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "DIR: nowhere holds no search"),
        (["memory://nothing"], "DIR: memory://nothing holds no search"),
        (["{folder}", "--port", "70000"], "--port: 70000 cannot be used (allowed: from 0 to 65535)"),
        (["{folder}", "--port", "{taken}"], "cannot be used (Address already in use); name another, or 0"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    tmp_path: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    search_in(tmp_path / "one", space())
    with _listen(0) as listening:
        taken = listening.getsockname()[1]
        assert main([each.format(folder=tmp_path / "one", taken=taken) for each in arguments]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
