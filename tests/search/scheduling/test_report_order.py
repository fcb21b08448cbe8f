import random

import pytest

from search.scheduling.report_order import ReportOrder


def simulate(slots: int, lengths: list[int], seed: int, ahead: int) -> list[tuple[str, int]]:
    """What happens, in order, when trials of these lengths report with random delays on the wall clock, with up to
    `ahead` reports before their turn."""
    wall = random.Random(seed)
    order, log = ReportOrder(slots), []
    waiting = dict.fromkeys(range(len(lengths)), 0)
    done = dict.fromkeys(range(len(lengths)), 0)
    begun = 0
    while True:
        while order.has_room and begun < len(lengths):
            order.start(begun)
            log.append(("start", begun))
            begun += 1
        running = [t for t in range(begun) if done[t] < lengths[t]]
        if not running:
            return log
        training = [t for t in running if waiting[t] <= ahead]
        # One or several trials finish an interval, in any order.
        for trial in wall.sample(training, wall.randint(min(1, len(training)), len(training))):
            order.report(trial)
            waiting[trial] += 1
        while not (order.has_room and begun < len(lengths)) and (trial := order.next()) is not None:
            waiting[trial] -= 1
            done[trial] += 1
            log.append(("report", trial))
            if done[trial] == lengths[trial]:
                order.end(trial)
                log.append(("end", trial))


@pytest.mark.parametrize("ahead", [0, 1, 9])
@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_order_depends_neither_on_the_wall_clock_nor_on_how_far_trials_run_ahead(slots: int, ahead: int) -> None:
    draw = random.Random(1)
    lengths = [draw.randint(1, 9) for _ in range(20)]
    expected = simulate(slots, lengths, seed=0, ahead=0)
    assert [kind for kind, _ in expected].count("report") == sum(lengths)
    for seed in range(1, 30):
        assert simulate(slots, lengths, seed, ahead) == expected


def test_trials_of_one_pace_do_not_wait() -> None:
    order = ReportOrder(2)
    order.start(0)
    order.start(1)
    order.report(1)
    assert order.next() is None  # trial 0 may still report the same evaluation, and comes first
    order.report(0)
    assert [order.next(), order.next()] == [0, 1]


def test_a_trial_that_runs_ahead_waits_for_its_turn() -> None:
    order = ReportOrder(2)
    order.start(0)
    order.start(1)
    for _ in range(3):
        order.report(1)
    assert order.next() is None
    order.report(0)
    assert [order.next(), order.next(), order.next()] == [0, 1, None]
    order.end(0)
    assert [order.next(), order.next(), order.next()] == [1, 1, None]


def test_a_trial_that_ends_without_a_report_holds_up_nobody() -> None:
    order = ReportOrder(2)
    order.start(0)
    order.start(1)
    order.report(1)
    order.end(0)
    assert order.next() == 1


def test_new_trial_starts_where_the_ended_one_stopped() -> None:
    order = ReportOrder(2)
    order.start(0)
    order.start(1)
    for _ in range(3):
        order.report(0)
        order.report(1)
        assert [order.next(), order.next()] == [0, 1]
    order.end(0)
    order.start(2)
    order.report(1)
    # Trial 1 reports its fourth evaluation, trial 2 its first, at the same progress.
    assert order.next() == 1
    order.report(2)
    assert order.next() == 2
