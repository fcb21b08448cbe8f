import re
from io import StringIO

import pytest
from rich.console import Console

from search.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def three_trials(progress: Progress, clock: Clock) -> None:
    """One trial of 40 s, one stopped after 20 s, one running for 10 s; 1,000 tokens take 10 s."""
    progress.note("base weights of builtin/micro: 43%")
    for trial, reports, state in ((0, 4, "complete"), (1, 2, "pruned"), (2, 1, None)):
        progress.trial_started("builtin/nano", trial, "sigmoid 0.45 11", 4000)
        for k in range(1, reports + 1):
            clock.now += 10
            progress.trial_report("builtin/nano", trial, 1000 * k, 6.2 - 0.1 * k)
        if state is not None:
            reason = "will not win" if state == "pruned" else None
            progress.trial_ended("builtin/nano", trial, state, reason, 5.8)


def test_plain_lines_without_a_terminal() -> None:
    text, clock = StringIO(), Clock()
    with Progress(Console(file=text, width=80), {"builtin/nano": 4, "builtin/micro": 4}, clock) as progress:
        three_trials(progress, clock)
    lines = text.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert not any(ord(c) < 32 for line in lines for c in line)
    told = [line[20:] for line in lines]
    assert told[0] == "base weights of builtin/micro: 43%"
    assert told[1] == "builtin/nano trial 0 sigmoid 0.45 11: started"
    assert "1,000/4,000 tokens, high-entropy loss 6.1000 (best -)" in told[2]
    assert any("pruned (will not win)" in line and "2 of 4 trials" in line for line in told)


def test_a_reason_with_control_characters_stays_on_one_plain_line() -> None:
    text = StringIO()
    with Progress(Console(file=text, width=80), {"m": 1}) as progress:
        progress.trial_started("m", 0, "linear", 100)
        progress.trial_ended("m", 0, "failed", "\x1b[31mout of memory\r\nat step 3\x1b[0m", None)
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert not any(ord(c) < 32 for c in lines[1])
    assert "out of memory" in lines[1]
    assert "1 of 1 trials, time left not known yet" in lines[1]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines() -> None:
    text = StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None, _environ={"TERM": "dumb"})
    with Progress(console, {"m": 1}) as progress:
        progress.trial_started("m", 0, "linear", 100)
    assert "\x1b" not in text.getvalue()
    assert text.getvalue().endswith("m trial 0 linear: started\n")


def test_only_a_complete_trial_sets_the_best() -> None:
    text, clock = StringIO(), Clock()
    with Progress(Console(file=text, width=80), {"m": 3}, clock) as progress:
        for trial, state, loss in ((0, "pruned", 5.0), (1, "complete", 6.0), (2, "complete", 6.5)):
            progress.trial_started("m", trial, "linear", 100)
            progress.trial_ended("m", trial, state, None, loss)
    ends = [line for line in text.getvalue().splitlines() if "started" not in line]
    assert [line.partition("(best ")[2][:6] for line in ends] == ["-); 1 ", "6.0000", "6.0000"]


def test_a_line_about_a_trial_comes_at_most_every_five_seconds() -> None:
    text, clock = StringIO(), Clock()
    with Progress(Console(file=text, width=80), {"m": 1}, clock) as progress:
        progress.trial_started("m", 0, "linear", 100)
        for k in range(100):
            clock.now += 0.1
            progress.trial_report("m", 0, k, 6.0)
    assert len(text.getvalue().splitlines()) == 2


def test_time_left_goes_by_the_trials_that_ended() -> None:
    clock = Clock()
    progress = Progress(Console(file=StringIO()), {"builtin/nano": 4, "builtin/micro": 4}, clock)
    assert progress.time_left() is None
    three_trials(progress, clock)
    # A trial has 3,000 tokens on average, 30 s. Of the first model a trial and three quarters are left; the
    # second model has not begun, and is taken to be like the first.
    assert progress.time_left() == pytest.approx(30 * 1.75 + 30 * 4)


def test_time_left_is_shared_by_trials_that_run_at_the_same_time() -> None:
    clock = Clock()
    progress = Progress(Console(file=StringIO()), {"m": 5}, clock)
    for trial in (0, 1):
        progress.trial_started("m", trial, "linear", 2000)
    for tokens in (1000, 2000):
        clock.now += 10
        for trial in (0, 1):
            progress.trial_report("m", trial, tokens, 6.0)
    for trial in (0, 1):
        progress.trial_ended("m", trial, "complete", None, 6.0)
    # 20 s a trial, three trials on two slots.
    assert progress.time_left() == pytest.approx(20 * 3 / 2)
    for trial in (2, 3):
        progress.trial_started("m", trial, "linear", 2000)
        progress.trial_ended("m", trial, "failed", "NaN", None)
    # One is left, and has one slot.
    assert progress.time_left() == pytest.approx(20)


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_table_fits_the_terminal(width: int) -> None:
    text, clock = StringIO(), Clock()
    console = Console(file=text, width=width, height=24, force_terminal=True, color_system=None)
    with Progress(console, {"builtin/nano": 4, "builtin/micro": 4}, clock) as progress:
        three_trials(progress, clock)
        console.print(progress._view())
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    for line in shown.splitlines():
        assert len(line.rstrip("\r")) <= width
    for part in ("builtin/nano", "sigmoid 0.45", "25%", "6.1000", "5.8000", "2 of 4 trials"):
        assert part in shown
    assert "time left 2:52" in shown


def test_the_live_table_ends_cleanly_on_an_exception() -> None:
    text = StringIO()
    console = Console(file=text, width=80, height=24, force_terminal=True, color_system=None)
    progress = Progress(console, {"m": 1})

    def interrupted() -> None:
        with progress:
            progress.trial_started("m", 0, "a curriculum " * 20, 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = text.getvalue()
    # The cursor is hidden while the table is live, and shown again at the end.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    console.print("afterwards")
    assert text.getvalue().endswith("afterwards\n")
