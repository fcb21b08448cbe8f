"""How a search stands, told by another process from what it writes."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

import pyte
import pytest

from search import status
from search.output.events import Event, SearchEnded, SearchStarted, append_events
from search.output.folder import lock_output
from tests import DEADLINE_S
from tests.search.progress.test_console import CURRICULUM, Told

ENDED_UNBEGUN = {
    "time": 1,
    "event": "trial_ended",
    "study": "m",
    "trial": 0,
    "state": "failed",
    "reason": "",
    "objective": None,
}
# Its brackets are no markup.
RESUME = "python -m search.run mine.yaml --set 'models=[builtin/nano]' --resume"


class Written:
    """Writes events.jsonl as a search does: ten seconds between two events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "resolved.yaml").write_text("name: mine\n")
        self.path = folder / "events.jsonl"
        self._now = time.time() - 1000

    def write(self, event: Event) -> None:
        self._now += 10
        append_events(self.path, replace(event, time=self._now))


def begun(events: Written, resumed: bool = False) -> Told:
    events.write(SearchStarted(planned={"builtin/nano": 4}, resumed=resumed, resume_command=RESUME))
    return Told(events.write, study="builtin/nano", full_tokens=4000)


def one_ended_and_one_running(told: Told) -> None:
    for trial in (0, 1):
        told.started(trial, 4, CURRICULUM)
    for k in range(1, 5):
        told.evaluated(0, 1000 * k, 6.2 - 0.1 * k, seconds=9.0, tokens_per_s=100.0)
    told.ended(0, "complete", None, 5.8)
    told.evaluated(1, 1000, 6.0, seconds=9.0, tokens_per_s=100.0)


def told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert status.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert not any(ord(c) < 32 and c != "\n" for c in out)
    return out


def test_a_running_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_ended_and_one_running(begun(Written(tmp_path)))
    with lock_output(tmp_path):
        out = told_of(tmp_path, capsys)
    assert "builtin/nano: 1 of 4 trials (1 complete), best 5.8000" in out
    assert "25%" in out
    assert "6.0000" in out
    assert out.endswith("running\n")


def test_a_search_that_was_killed_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Written(tmp_path)
    one_ended_and_one_running(begun(events))
    # Killed while it wrote a line.
    with events.path.open("a") as file:
        file.write('{"time": 17')
    assert told_of(tmp_path, capsys).endswith(f"its machine was lost; go on with: {RESUME}\n")


def test_a_search_that_goes_on_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Written(tmp_path)
    one_ended_and_one_running(begun(events))
    events.write(SearchEnded(status="KILLED"))
    assert f"interrupted; go on with: {RESUME}\n" in told_of(tmp_path, capsys)
    begun(events, resumed=True)
    events.write(SearchEnded(status="FAILED", description="budget.tokens: given 10; allowed: at least 4,000"))
    failed = f"failed: budget.tokens: given 10; allowed: at least 4,000; go on with: {RESUME}\n"
    assert failed in told_of(tmp_path, capsys)
    told = begun(events, resumed=True)
    for trial in (1, 2, 3):
        told.started(trial, 4, CURRICULUM)
        told.evaluated(trial, 4000, 6.0)
        told.ended(trial, "pruned", "losing", 6.0)
    events.write(SearchEnded(status="FINISHED"))
    out = told_of(tmp_path, capsys)
    assert "4 of 4 trials (1 complete, 3 pruned)" in out
    assert f"finished; see {tmp_path}/report.html\n" in out


@pytest.mark.faults
@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_one_steady_table(tmp_path: Path, width: int) -> None:
    events = Written(tmp_path)
    one_ended_and_one_running(told := begun(events))
    watch = [sys.executable, "-m", "search.status", str(tmp_path), "--watch"]
    with lock_output(tmp_path), Terminal(watch, width) as terminal:
        terminal.wait_for("25%")
        told.evaluated(1, 2000, 5.9, seconds=9.0, tokens_per_s=100.0)
        terminal.wait_for("50%")
        table = terminal.lines
        told.evaluated(1, 3000, 5.8, seconds=9.0, tokens_per_s=100.0)
        terminal.wait_for("75%")
        # Every line is where it was: nothing has wrapped or scrolled.
        assert [line.split()[:1] for line in terminal.lines] == [line.split()[:1] for line in table]
        events.write(SearchEnded(status="FINISHED"))
        terminal.wait_for("finished")
        assert terminal.process.wait(timeout=DEADLINE_S) == 0
    assert sum("builtin/nano:" in line for line in terminal.lines) == 1
    # Neither the screen nor a line is cleared before it is written anew but by the table itself.
    assert b"\x1b[2J" not in terminal.output
    # The cursor is there again.
    assert terminal.output.rindex(b"\x1b[?25h") > terminal.output.rindex(b"\x1b[?25l")


class Terminal:
    """A process on a terminal of its own, of 24 lines."""

    def __init__(self, command: list[str], width: int) -> None:
        self.output = b""
        self._screen = pyte.Screen(width, 24)
        self._stream = pyte.ByteStream(self._screen)
        here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, stdout=there, stderr=there, stdin=there, env=environment)
        os.close(there)
        self._lock = threading.Lock()
        threading.Thread(target=self._read, args=(here,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self, here: int) -> None:
        while True:
            try:
                part = os.read(here, 65536)
            except OSError:
                return
            with self._lock:
                self.output += part
                self._stream.feed(part)

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "holds no search"),
        ("no json\n", "events.jsonl:1: this line has no event"),
        ('{"time": 1, "event": "trial_started"}\n', "events.jsonl:1: this line has no study"),
        ("[1]\n", "events.jsonl:1: this line has no event"),
        (json.dumps(ENDED_UNBEGUN) + "\n", "events.jsonl:1: this line does not follow from those before"),
    ],
)
def test_what_is_no_search_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, expected: str
) -> None:
    if content is not None:
        Written(tmp_path).path.write_text(content)
    assert status.main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
