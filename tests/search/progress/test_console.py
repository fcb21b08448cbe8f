import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from search.output.events import Evaluation, Event, PhaseBegan, SearchEnded, SearchStarted, TrialEnded, TrialStarted
from search.progress.console import ProgressConsole
from search.progress.state import RunningTrial, SearchProgress
from search.progress.table import ProgressTable

CURRICULUM = {"shape": "sigmoid", "midpoint": 0.45, "steepness": 11.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    """Tells `tell` of one study's trials, as events at the times of the clock."""

    def __init__(
        self,
        tell: Callable[[Event], object],
        clock: Clock | None = None,
        study: str = "m",
        full_tokens: int = 100,
        stage: str = "search",
    ) -> None:
        self._tell, self._clock, self._study, self._full = tell, clock or Clock(), study, full_tokens
        self._stage = stage

    @property
    def _of(self) -> dict[str, Any]:
        return {"time": self._clock.now, "study": self._study, "stage": self._stage}

    def started(
        self, trial: int, planned: int, curriculum: dict[str, Any] | None = None, arm: str = "entrodrop", **more: float
    ) -> None:
        parameters = {"curriculum": curriculum or {"shape": "linear"}} if arm == "entrodrop" else {}
        parameters |= more
        of = {**self._of, "planned": planned, "full_tokens": self._full, "tokens": 0}
        self._tell(TrialStarted(trial=trial, arm=arm, parameters=parameters, **of))

    def evaluated(self, trial: int, tokens: int, loss: float, **values: float) -> None:
        metrics = {"epoch": tokens / 1000, "high_entropy_loss": loss, **values}
        self._tell(
            Evaluation(trial=trial, tokens=tokens, full_tokens=self._full, metrics=metrics, node="a", **self._of)
        )

    def ended(
        self, trial: int, state: str, reason: str | None = None, loss: float | None = None, **values: Any
    ) -> None:
        self._tell(TrialEnded(trial=trial, state=state, reason=reason, objective=loss, **values, **self._of))


def three_trials(tell: Callable[[Event], object], clock: Clock) -> None:
    """One trial of 40 s, one stopped after 20 s, one running for 10 s; 1,000 tokens take 10 s."""
    told = Told(tell, clock, "builtin/nano", 4000)
    for trial, reports, state in ((0, 4, "complete"), (1, 2, "pruned"), (2, 1, None)):
        told.started(trial, 4, CURRICULUM)
        for k in range(1, reports + 1):
            clock.now += 10
            told.evaluated(trial, 1000 * k, 6.2 - 0.1 * k, seconds=8.0, tokens_per_s=125.0)
        if state is not None:
            told.ended(trial, state, "losing" if state == "pruned" else None, 5.8)


def test_what_ends_with_fewer_trials_than_it_could_have_is_not_waited_for() -> None:
    state = SearchProgress({"m": 2, "m/confirmation": 6}, lambda: 0.0)
    state.follow(SearchEnded(status="FINISHED"))
    assert [study.planned for study in state.studies.values()] == [0, 0]


def test_plain_lines_without_a_terminal() -> None:
    text, clock = StringIO(), Clock()
    with ProgressConsole(Console(file=text, width=80), {"builtin/nano": 4, "builtin/micro": 4}, clock) as progress:
        progress.note("base weights of builtin/micro: 43%")
        three_trials(progress.handle, clock)
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
    with ProgressConsole(Console(file=text, width=80), {"m": 1}) as progress:
        told = Told(progress.handle)
        told.started(0, 1)
        told.ended(0, "failed", "out_of_memory", detail="\x1b[31mnone left\r\nat step 3\x1b[0m")
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert not any(ord(c) < 32 for c in lines[1])
    assert "failed (out of memory:  [31mnone left  at step 3" in lines[1]
    assert "1 of 1 trials, time left not known yet" in lines[1]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines() -> None:
    text = StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None, _environ={"TERM": "dumb"})
    with ProgressConsole(console, {"m": 1}) as progress:
        Told(progress.handle).started(0, 1)
    assert "\x1b" not in text.getvalue()
    assert text.getvalue().endswith("m trial 0 linear: started\n")


def test_the_best_is_the_one_that_the_search_ranks_first_and_stands_beside_no_dropout() -> None:
    text, clock = StringIO(), Clock()
    ends = (
        (0, "none", "complete", None, 5.9),
        (1, "entrodrop", "pruned", "losing", 5.0),
        (2, "entrodrop", "complete", None, 6.0),
        # Its best evaluation lay behind it.
        (3, "entrodrop", "pruned", "plateau", 5.8),
        (4, "entrodrop", "complete", None, 6.5),
    )
    with ProgressConsole(Console(file=text, width=80), {"m": 5}, clock) as progress:
        told = Told(progress.handle, clock)
        for trial, arm, state, reason, loss in ends:
            told.started(trial, 5, arm=arm)
            told.ended(trial, state, reason, loss)
    lines = [line for line in text.getvalue().splitlines() if "started" not in line]
    standings = [line.partition("high-entropy loss ")[2].partition("; ")[0].partition(" ")[2] for line in lines]
    assert standings == [
        "(best -, no dropout 5.9000)",
        "(best -, no dropout 5.9000)",
        "(best 6.0000 (trial 2), no dropout 5.9000)",
        "(best 5.8000 (trial 3), no dropout 5.9000)",
        "(best 5.8000 (trial 3), no dropout 5.9000)",
    ]


def test_what_breaks_the_constraint_is_not_the_best() -> None:
    state = SearchProgress({})
    state.follow(SearchStarted(planned={"m": 3}, resume_command="", settings={"constraints": {"general_loss": 0.05}}))
    told = Told(state.follow)
    for trial, arm, loss, general in ((0, "none", 6.0, 3.0), (1, "entrodrop", 5.0, 3.1), (2, "entrodrop", 5.5, 3.05)):
        told.started(trial, 3, arm=arm)
        told.ended(trial, "complete", None, loss, metrics={"objective.general_loss": general})
    assert state.studies["m"].best == (5.5, 2, "entrodrop")


def test_a_search_for_right_answers_tells_their_share() -> None:
    text, clock = StringIO(), Clock()
    with ProgressConsole(Console(file=text, width=80), {"m": 2}, clock) as progress:
        progress.handle(SearchStarted(planned={"m": 2}, resume_command="", settings={"objective": "exact_match"}))
        told = Told(progress.handle, clock)
        for trial, arm, wrong in ((0, "none", 0.5), (1, "entrodrop", 0.25)):
            told.started(trial, 2, arm=arm)
            told.ended(trial, "complete", None, wrong)
    assert "answers 75.0% right (best 75.0% right (trial 1), no dropout 50.0% right)" in text.getvalue()


def test_a_confirmation_shows_the_mean_of_each_arm_s_best_setting() -> None:
    text, clock = StringIO(), Clock()
    runs = [
        ("none", 6.0, 0.1),
        ("entrodrop", 5.0, 0.1),
        ("none", 5.5, 0.1),
        ("entrodrop", 5.6, 0.1),
        ("none", 5.0, 0.2),
    ]
    with ProgressConsole(Console(file=text, width=200), {"m/confirmation": 5}, clock) as progress:
        told = Told(progress.handle, clock, study="m/confirmation", stage="confirmation")
        for trial, (arm, loss, rate) in enumerate(runs):
            told.started(trial, 5, arm=arm, learning_rate=rate, seed=trial)
            told.ended(trial, "complete", None, loss)
    assert "(means: no dropout 5.7500, entrodrop 5.3000); 4 of 5 trials" in text.getvalue()
    # Another setting is not averaged with it.
    assert "(means: no dropout 5.0000 (best of 2 settings), entrodrop 5.3000); 5 of 5 trials" in text.getvalue()


def test_a_line_about_a_trial_comes_at_most_every_five_seconds() -> None:
    text, clock = StringIO(), Clock()
    with ProgressConsole(Console(file=text, width=80), {"m": 1}, clock) as progress:
        told = Told(progress.handle, clock)
        told.started(0, 1)
        for k in range(100):
            clock.now += 0.1
            told.evaluated(0, k, 6.0)
    assert len(text.getvalue().splitlines()) == 2


def test_time_left_goes_by_the_trials_that_ended() -> None:
    clock = Clock()
    state = SearchProgress({"builtin/nano": 4, "builtin/micro": 4}, clock)
    assert state.time_left() is None
    three_trials(state.follow, clock)
    # A trial has 3,000 tokens on average, 30 s. Of the first model a trial and three quarters are left; the
    # second model has not begun, and is taken to be like the first.
    assert state.time_left() == pytest.approx(30 * 1.75 + 30 * 4)


def test_time_left_is_shared_by_trials_that_run_at_the_same_time() -> None:
    clock = Clock()
    state = SearchProgress({"m": 5}, clock)
    told = Told(state.follow, clock, full_tokens=2000)
    for trial in (0, 1):
        told.started(trial, 5)
    for tokens in (1000, 2000):
        clock.now += 10
        for trial in (0, 1):
            told.evaluated(trial, tokens, 6.0, seconds=9.0)
    # Two slots have worked 9 s each of the 10 s since the first report, and the 9 s before it.
    assert state.busy() == pytest.approx(36 / (2 * 19))
    for trial in (0, 1):
        told.ended(trial, "complete", None, 6.0)
    # 20 s a trial, three trials on two slots.
    assert state.time_left() == pytest.approx(20 * 3 / 2)
    for trial in (2, 3):
        told.started(trial, 5)
        told.ended(trial, "failed", "NaN")
    # One is left, and has one slot.
    assert state.time_left() == pytest.approx(20)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_live_table_fits_the_terminal(width: int) -> None:
    text, clock = StringIO(), Clock()
    console = Console(file=text, width=width, height=24, force_terminal=True, color_system=None)
    with ProgressConsole(console, {"builtin/nano": 4, "builtin/micro": 4}, clock) as progress:
        three_trials(progress.handle, clock)
        console.print(ProgressTable(progress.state))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    for line in shown.splitlines():
        assert len(line.rstrip("\r")) <= width
    # The curriculum rises, the loss has one value.
    curve = "▁▁▁▁▂▂▄▅▆▇██████" if width == 200 else "▁▁▂▄▇███"
    for part in ("builtin/nano", "sigmoid 0.45", curve, "25%", "6.1000", "best 5.8000", "2 of 4 trials"):
        assert part in shown
    assert "time left 2:52, running for 0:00, 125 tokens/s, slots busy 82%" in shown
    assert "builtin/nano 0 sigmoid 0.45 11: 5.8000, complete" in shown


def frame(state: SearchProgress) -> list[str]:
    text = StringIO()
    Console(file=text, width=80, color_system=None).print(ProgressTable(state))
    return text.getvalue().splitlines()


def test_what_is_done_before_the_first_evaluation_is_told() -> None:
    clock = Clock()
    state = SearchProgress({"m": 1}, clock)
    state.follow(SearchStarted(time=clock.now, planned={"m": 1}, resume_command=""))
    clock.now += 30
    assert frame(state)[-1] == "data, entropies and slots are being prepared, running for 0:30"
    state.follow(PhaseBegan(time=clock.now, words="base weights of m: 43%"))
    Told(state.follow, clock).started(0, 1)
    assert frame(state)[-1] == "base weights of m: 43%, running for 0:30"
    Told(state.follow, clock).evaluated(0, 100, 5.0)
    assert frame(state)[-1].startswith("time left not known yet, running for 0:30")


def test_an_arm_is_named_where_its_curriculum_does_not_tell_it() -> None:
    def label(arm: str, curriculum: str, *strengths: float) -> str:
        return RunningTrial("m", 0, arm, curriculum, 100, 0, strengths).label

    assert label("entrodrop", "linear", 0.0, 1.0) == "linear"
    assert label("random-tokens", "linear", 0.0, 1.0) == "random-tokens linear"
    assert label("weight-decay", "weight-decay") == "weight-decay"


def test_the_last_frame_has_no_empty_table() -> None:
    state = SearchProgress({"m": 1}, Clock())
    told = Told(state.follow)
    told.started(0, 1, arm="random-tokens")
    told.evaluated(0, 100, 5.0)
    told.ended(0, "complete", loss=5.0)
    state.follow(SearchEnded(status="FINISHED"))
    assert frame(state) == [
        "m 0 random-tokens: 5.0000, complete",
        "",
        "m: 1 of 1 trials (1 complete), best 5.0000 (trial 0)",
    ]


def test_the_live_table_ends_cleanly_on_an_exception() -> None:
    text = StringIO()
    console = Console(file=text, width=80, height=24, force_terminal=True, color_system=None)
    progress = ProgressConsole(console, {"m": 1})

    def interrupted() -> None:
        with progress:
            Told(progress.handle).started(0, 1, arm="an arm " * 40)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = text.getvalue()
    # The cursor is hidden while the table is live, and shown again at the end.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    console.print("afterwards")
    assert text.getvalue().endswith("afterwards\n")


def test_a_trial_tells_the_use_of_its_node() -> None:
    state = SearchProgress({"m": 1}, Clock())
    told = Told(state.follow, full_tokens=1000)
    told.started(0, 1)
    assert state.nodes == {}
    told.evaluated(0, 500, 5.0, **{"system/cpu_utilization_percentage": 97.0, "system/other": 1.0})
    assert (state.nodes, state.running[0].gpu_use) == ({"a": {"CPU": 97.0}}, {})
    use = {"system/gpu_0_memory_usage_percentage": 80.0, "system/gpu_0_utilization_percentage": 55.0}
    told.evaluated(0, 1000, 5.0, **use, **{"system/system_memory_usage_percentage": 9.0})
    assert (state.nodes, state.running[0].gpu_use) == ({"a": {"memory": 9.0}}, {"GPU": 55.0, "memory": 80.0})


def test_a_search_that_goes_on_counts_what_was_before() -> None:
    state, clock = SearchProgress({}, Clock()), Clock()
    earlier: list[Event] = [SearchStarted(time=0.0, planned={"m": 3}, resume_command="")]
    told = Told(earlier.append, clock, full_tokens=1000)
    for trial in (0, 1):
        told.started(trial, 3)
        for tokens in (500, 1000):
            clock.now += 10
            told.evaluated(trial, tokens, 5.0)
        told.ended(trial, "complete", loss=5.0 - trial)
    told.started(2, 3)
    for event in earlier:
        state.follow(event)
    state.begin({"m": 4})
    study = state.studies["m"]
    assert (study.ended, study.planned, study.best, state.running) == (2, 4, (4.0, 1, "entrodrop"), [])
    state.follow(SearchStarted(time=1000.0, planned={"m": 4}, resume_command=""))
    # Not the time between the two parts.
    assert state.earlier_s == 40.0
    # 1,000 tokens took 20 s; two trials are left.
    assert state.time_left() == 40.0
    # A driver that was killed had told the end of trial 1, but not the study.
    again = Told(state.follow, full_tokens=1000)
    again.started(1, 4)
    again.ended(1, "complete", loss=4.0)
    assert study.ended == 2
