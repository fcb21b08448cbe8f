"""What the trial loop makes of results, without Ray."""

import errno
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from optuna.storages.journal import JournalFileBackend
from ray import cloudpickle
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RaySystemError, RayTaskError
from ray.tune.experiment import Trial

from search.interruption import Interruption
from search.scheduling.trial_loop import Decision, TrialLoop
from search.scheduling.tune_adapter import _StudyScheduler
from search.studies.search_study import SearchStudy
from search.studies.storage import open_journal
from search.studies.study import TrialStudy, reason_of
from tests.search.studies.test_search_study import MODEL, space
from trainables.errors import DataError
from trainables.slots.mailbox import AHEAD, Failure, TrainResponse
from trainables.slots.slot import NoRoomError, SlotReport
from trainables.storage.files import StorageError

EVALUATIONS, TOKENS = 8, 100


def trial_loop(
    folder: Path, slots: int = 1, observer: Any = None, interruption: Interruption | None = None
) -> tuple[TrialLoop, SearchStudy]:
    folder.mkdir(exist_ok=True)
    study = SearchStudy(open_journal(folder / "study.journal"), MODEL, space())
    interruption = interruption or Interruption()
    return TrialLoop([study], slots, lambda _: EVALUATIONS * TOKENS, observer or mock.Mock(), interruption), study


def evaluated(tokens: float, loss: float, **metrics: float) -> SlotReport:
    return SlotReport(TrainResponse(1, {"tokens": tokens, "high_entropy_loss": loss, **metrics}), seconds=1.0)


def not_evaluated(**changes: Any) -> SlotReport:
    return SlotReport(TrainResponse(1, {}, **changes))


class _Killed(BaseException):
    pass


class _Fragile:
    """Counts the lines of a journal, and breaks off before one of them or within it."""

    def __init__(self, journal: Path, lines: int) -> None:
        self._journal, self._left = journal, lines
        self._append = JournalFileBackend.append_logs

    def __call__(self, backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        if not self._left:
            with self._journal.open("a") as file:
                file.write('{"op_code": 6, "wor'[: random.randrange(20)])
            raise _Killed
        self._left -= 1
        self._append(backend, logs)


@dataclass
class _Slot:
    """What a slot knows of its trial.

    Attributes:
        done: evaluations that are reported.
        over: whether the trial has been stopped.
    """

    number: int
    done: int
    decided: int
    over: bool = False


class _Slots:
    """What Tune and the slots do: each trial evaluates at once, as far ahead as it may, and keeps the number of its
    evaluations on disk."""

    def __init__(self, slots: int, ahead: int = AHEAD) -> None:
        self._slots, self._ahead = slots, ahead
        self.saved: dict[int, int] = {}
        self.trained: list[tuple[int, int]] = []

    def run(self, opened: TrialLoop, wall: random.Random, losses: float = 0.0) -> int:
        """Returns how many slots were lost.

        Args:
            losses: the chance of each slot to be lost at each turn.
        """
        lost = 0
        training: dict[str, _Slot] = {}
        begun = 0
        while True:
            while (candidate := opened.begin(str(begun))) is not None:
                done = opened.count_done(str(begun))
                training[str(begun)] = _Slot(candidate.number, done, done)
                begun += 1
            assert len(training) <= self._slots
            if not training:
                return lost
            for key in list(training):
                if wall.random() < losses:
                    opened.lose(key, "killed", counts=False)
                    del training[key]
                    lost += 1
            # Slots finish their intervals in any order; some have not yet, and some have not heard that they are to.
            for key in wall.sample(list(training), wall.randint(0, len(training))):
                slot = training[key]
                if slot.over:
                    opened.take_back(key)
                    del training[key]
                elif slot.done < min(slot.decided + 1 + self._ahead, EVALUATIONS):
                    slot.done += 1
                    self._evaluate(slot.number, slot.done)
                    opened.report(key, evaluated(TOKENS * slot.done, _loss(slot.number, slot.done)))
            for decision in opened.decide():
                slot = training[decision.tune_id]
                slot.decided, slot.over = decision.evaluations, not decision.goes_on

    def _evaluate(self, number: int, evaluation: int) -> None:
        for done in range(self.saved.get(number, 0) + 1, evaluation + 1):
            self.trained.append((number, done))
            self.saved[number] = done


def _loss(number: int, evaluation: int) -> float:
    """Curves that cross: some are stopped for a plateau, some because they will not win."""
    draw = random.Random(number)
    return 5 + draw.random() + abs(evaluation - draw.randint(2, 7)) * draw.uniform(0.01, 0.2)


def table(study: TrialStudy) -> list[Any]:
    """All but the device time, of which the last evaluation's is lost with the driver."""
    rows = []
    for t in study.study.trials:
        decided = {name: value for name, value in t.user_attrs["decided"].items() if name != "device_s"}
        rows.append((t.number, t.state, t.params, t.intermediate_values, {**t.user_attrs, "decided": decided}))
    return rows


def test_a_failed_trial_ends_and_the_search_goes_on(tmp_path: Path) -> None:
    opened, study = trial_loop(tmp_path)
    assert opened.begin("a") is not None
    opened.report("a", not_evaluated(failure=Failure.OUT_OF_MEMORY, detail="CUDA out of memory"))
    assert opened.decide() == [Decision("a", 0, goes_on=False)]
    assert study.study.trials[0].user_attrs["reason"] == "out_of_memory"
    assert not opened.finished
    # Its slot has not heard of it yet.
    assert opened.begin("b") is None
    opened.take_back("a")
    assert opened.begin("b") is not None


def test_all_that_a_run_reports_and_is_finite_is_recorded(tmp_path: Path) -> None:
    observer = mock.Mock()
    opened, study = trial_loop(tmp_path, observer=observer)
    opened.begin("a")
    opened.report("a", evaluated(TOKENS, 5.0, a_new_one=2.0, norm=math.inf))
    opened.decide()
    (call,) = observer.trial_report.call_args_list
    assert call.args[2] == {"tokens": TOKENS, "high_entropy_loss": 5.0, "a_new_one": 2.0, "seconds": 1.0}
    # The observer is told first.
    assert observer.trial_report.called
    assert study.losses(0) == [5.0]


def test_a_stop_that_an_older_version_decided_is_carried_out(tmp_path: Path) -> None:
    opened, study = trial_loop(tmp_path)
    opened.begin("a")
    opened.report("a", evaluated(TOKENS, 5.0))
    opened.decide()
    # Killed before the trial was told to have ended.
    study.annotate(0, "decided", {"tokens": TOKENS, "reason": "will not win", "device_s": 1.0})
    again, study = trial_loop(tmp_path)
    again.begin("a")
    again.report("a", evaluated(TOKENS, 5.0))
    assert again.decide() == [Decision("a", 1, goes_on=False)]
    assert reason_of(study.study.trials[0]) == "losing"


def test_what_no_trial_can_be_trained_on_ends_the_search(tmp_path: Path) -> None:
    opened, study = trial_loop(tmp_path)
    opened.begin("a")
    error = DataError("training.hidden_dropout", "the architecture x", "one with blocks")
    opened.report("a", not_evaluated(failure=Failure.ERROR, detail=str(error), fatal=error))
    assert opened.decide() == []
    assert opened.error is error
    assert opened.finished
    assert opened.begin("b") is None
    # The trial is left as it is: mended, the search goes on with it.
    assert study.study.trials[0].state.name == "RUNNING"


def test_trials_beside_one_that_cannot_be_saved_do_not_wait_for_it(tmp_path: Path) -> None:
    opened, _ = trial_loop(tmp_path, slots=2)
    for tune_id in "ab":
        opened.begin(tune_id)
        opened.report(tune_id, evaluated(TOKENS, 1.0))
    assert opened.decide() == [Decision("a", 1, goes_on=True), Decision("b", 1, goes_on=True)]
    error = StorageError(errno.EIO, "Please reduce your request rate.", "s3://bucket/runs")
    opened.report("a", not_evaluated(failure=Failure.ERROR, fatal=error))
    assert opened.decide() == []
    assert opened.interruption.asked
    assert opened.interruption.reason == "[Errno 5] Please reduce your request rate.: 's3://bucket/runs'"
    assert not opened.saved
    opened.report("b", not_evaluated(interrupted=True))
    assert opened.saved


def test_what_ran_ahead_of_a_stop_is_counted_apart(tmp_path: Path) -> None:
    observer = mock.Mock()
    opened, study = trial_loop(tmp_path, observer=observer)
    # The baseline, which is never stopped; its slot is lost before it has heard that it is free.
    opened.begin("a")
    opened.report("a", not_evaluated(failure=Failure.NAN))
    opened.decide()
    opened.lose("a", "killed", counts=True)
    assert study.discarded["tokens"] == 0
    opened.begin("b")
    for evaluation in range(1, 6):
        opened.report("b", evaluated(TOKENS * evaluation, 5.0))
    # It is stopped after its fourth evaluation, as the last three were no better than the first.
    opened.report("b", not_evaluated(failure=Failure.NAN))
    assert [decision.goes_on for decision in opened.decide()] == [True, True, True, False]
    assert study.tokens(1) == 4 * TOKENS
    assert observer.trial_report.call_count == 4
    opened.take_back("b", not_evaluated(discarded=5 * TOKENS + 50))
    assert study.discarded == {"tokens": TOKENS + 50, "device_s": 1.0}


@pytest.mark.parametrize("slots", [2, 5])
@pytest.mark.faults
def test_how_far_slots_run_ahead_changes_nothing(tmp_path: Path, slots: int) -> None:
    found = []
    for seed, ahead in enumerate((0, 0, 1, 1, EVALUATIONS)):
        observer = mock.Mock()
        opened, study = trial_loop(tmp_path / str(seed), slots, observer)
        _Slots(slots, ahead).run(opened, random.Random(seed))
        told = [(name, args[1], *args[2:]) for name, args, _ in observer.mock_calls]
        found.append((table(study), told))
        assert {t.state.name for t in study.study.trials} == {"COMPLETE", "PRUNED"}
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.faults
def test_a_search_that_is_killed_again_and_again_comes_to_the_same_end(tmp_path: Path, slots: int) -> None:
    whole, study = trial_loop(tmp_path / "whole", slots)
    _Slots(slots).run(whole, random.Random(0))
    draw, kept = random.Random(slots), _Slots(slots)
    killed = 0
    while True:
        fragile = _Fragile(tmp_path / "killed" / "study.journal", draw.randint(1, 25))
        resumed, again = trial_loop(tmp_path / "killed", slots)
        try:
            with mock.patch.object(JournalFileBackend, "append_logs", lambda *call, f=fragile: f(*call)):
                kept.run(resumed, draw)
            break
        except _Killed:
            killed += 1
    assert killed > 3
    assert {state.name for _, state, *_ in table(study)} >= {"COMPLETE", "PRUNED"}
    assert table(again) == table(study)
    # Nothing is trained twice.
    assert len(kept.trained) == len(set(kept.trained))


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.faults
def test_slots_that_are_lost_change_nothing(tmp_path: Path, slots: int, seed: int) -> None:
    whole, study = trial_loop(tmp_path / "whole", slots)
    _Slots(slots).run(whole, random.Random(0))
    disturbed, again = trial_loop(tmp_path / "disturbed", slots)
    assert _Slots(slots).run(disturbed, random.Random(seed), losses=0.3) > 3
    assert table(again) == table(study)


def test_a_trial_goes_on_after_its_slot_was_lost_and_fails_in_the_end(tmp_path: Path) -> None:
    observer = mock.Mock()
    opened, study = trial_loop(tmp_path, observer=observer)

    def goes_on(tune_id: str, evaluations: range) -> None:
        candidate = opened.begin(tune_id)
        assert candidate is not None
        assert candidate.number == 0
        assert opened.count_done(tune_id) == evaluations[0] - 1
        for evaluation in evaluations:
            opened.report(tune_id, evaluated(100 * evaluation, 5.0))
            assert opened.decide() == [Decision(tune_id, evaluation, goes_on=True)]

    goes_on("a", range(1, 3))
    # A node that the cluster takes away is no fault of the trial.
    for tune_id in "bcd":
        opened.lose(chr(ord(tune_id) - 1), "the node was taken away", counts=False)
        # The last evaluation is repeated, and counts once.
        goes_on(tune_id, range(2, 3))
    for tune_id in "ef":
        opened.lose(chr(ord(tune_id) - 1), "killed", counts=True)
        goes_on(tune_id, range(2, 3))
    assert observer.trial_report.call_count == 2
    assert study.losses(0) == [5.0] * 2
    opened.lose("f", "killed", counts=True)
    assert study.study.trials[0].user_attrs["reason"] == "slot_lost"
    candidate = opened.begin("g")
    assert candidate is not None
    assert candidate.number == 1


def died(node: Any) -> ActorDiedError:
    """As Ray tells that an actor's node is gone."""
    cause = ActorDiedErrorContext(
        actor_id=bytes(16), error_message="Its node is gone. Node Id: 1", node_death_info=node
    )
    return ActorDiedError(cause=cause)


@pytest.mark.parametrize(
    ("error", "counts", "detail"),
    [
        (died(NodeDeathInfo(reason=NodeDeathInfo.UNEXPECTED_TERMINATION)), True, "Its node is gone"),
        (died(NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)), False, "Its node is gone"),
        (RayTaskError("step", "", NoRoomError("no room")).as_instanceof_cause(), False, "no room"),
        (None, True, "the slot's process died"),
    ],
)
def test_what_the_cluster_takes_away_is_no_failure(
    tmp_path: Path, error: Exception | None, counts: bool, detail: str
) -> None:
    opened, file = mock.Mock(), tmp_path / "error.pkl"
    if error is not None:
        file.write_bytes(cloudpickle.dumps(error))
    _StudyScheduler(opened, 1, mock.Mock(), mock.Mock()).on_trial_error(
        None, mock.Mock(trial_id="a", pickled_error_file=str(file))
    )
    opened.lose.assert_called_once_with("a", detail, counts=counts)


# What Ray 2.60 says of an actor that its memory monitor has ended, cut short.
LOW = "1 worker(s) were killed due to the node running low on memory. Memory on the node was 9GB used / 10GB limit"
OTHER_ENDED = RayTaskError("step", "", OutOfMemoryError(LOW)).as_instanceof_cause()


@pytest.mark.parametrize("failed", ["_actor_start_failed", "_actor_task_failed"])
@pytest.mark.parametrize(
    ("error", "died"),
    [
        (OutOfMemoryError(f"{LOW}\nmore"), True),
        (RaySystemError("of a result that cannot be read"), True),
        (RayActorError(), True),
        # A slot that lives has asked another that was ended.
        (OTHER_ENDED, False),
        (ValueError("of Tune"), False),
    ],
)
def test_whatever_ray_says_of_a_slot_is_its_death(tmp_path: Path, failed: str, error: Exception, died: bool) -> None:
    manager, pending = mock.Mock(), mock.Mock(status=Trial.PENDING)
    tunes = getattr(manager, failed)
    scheduler = _StudyScheduler(trial_loop(tmp_path)[0], 1, mock.Mock(), mock.Mock(**{"slots.return_value": 1}))
    scheduler._orphans = mock.Mock()
    scheduler.on_trial_add(mock.Mock(), pending)
    controller = mock.Mock(_actor_manager=manager, **{"_actor_cache.num_cached_objects": 0})
    assert scheduler.choose_trial_to_run(mock.Mock(_tune_controller=controller)) is pending
    getattr(manager, failed)(which="a slot", exception=error)
    told = tunes.call_args.kwargs["exception"]
    assert (str(told), isinstance(told, RayActorError)) == (str(error), died)


def test_slots_hear_again_that_they_are_too_many() -> None:
    stop_signal = mock.Mock()
    scheduler = _StudyScheduler(mock.Mock(), 1, stop_signal, mock.Mock())
    for at, excess in [(100.0, 0), (101.0, 2), (101.5, 2), (103.0, 2), (103.1, 1), (105.0, 0), (109.0, 0)]:
        with mock.patch("search.scheduling.tune_adapter.time.monotonic", return_value=at):
            scheduler._tell(excess)
    told = [call.args for call in stop_signal.shrink.remote.call_args_list]
    assert told == [(0, 1), (2, 2), (2, 2), (1, 3), (0, 4)]


def test_want_of_memory_is_told_in_a_line(tmp_path: Path) -> None:
    opened, file = mock.Mock(), tmp_path / "error.pkl"
    file.write_bytes(cloudpickle.dumps(RayActorError(error_msg=f"{LOW}\nmore")))
    _StudyScheduler(opened, 1, mock.Mock(), mock.Mock()).on_trial_error(
        None, mock.Mock(trial_id="a", pickled_error_file=str(file))
    )
    opened.lose.assert_called_once_with("a", LOW, counts=True)


def test_an_interrupted_search_waits_for_its_trials_to_save(tmp_path: Path) -> None:
    interruption = Interruption()
    opened, study = trial_loop(tmp_path, slots=2, interruption=interruption)
    opened.begin("a")
    opened.begin("b")
    interruption._asked_at = 0.0
    assert opened.finished
    assert opened.begin("c") is None
    assert not opened.saved
    # One evaluates just then, and trains on.
    opened.report("a", evaluated(100, 5.0))
    for tune_id in "ba":
        assert not opened.saved
        opened.report(tune_id, not_evaluated(interrupted=True))
    assert opened.saved
    assert [t.state.name for t in study.study.trials] == ["RUNNING", "RUNNING"]


def test_a_search_goes_on_with_fewer_slots_and_with_all_again(tmp_path: Path) -> None:
    observer = mock.Mock()
    opened, _ = trial_loop(tmp_path, slots=2, observer=observer)
    first, second = opened.begin("a"), opened.begin("b")
    assert first is not None
    assert second is not None
    opened.report("a", evaluated(TOKENS, 5.0))
    assert opened.decide() == [Decision("a", 1, goes_on=True)]
    opened.report("a", evaluated(2 * TOKENS, 4.0))
    # The other trial has lost its place: this one would wait for it for ever.
    assert opened.decide() == []
    assert opened.use_slots(1, idle=1) == 2
    assert opened.use_slots(1) == 1
    opened.lose("b", "no room", counts=False)
    assert opened.use_slots(1) == 0
    assert opened.decide() == [Decision("a", 2, goes_on=True)]
    assert opened.begin("c") is None
    assert opened.use_slots(2) == 0
    again = opened.begin("c")
    assert again is not None
    assert again.number == second.number
    assert [call.args for call in observer.slots_changed.call_args_list] == [(1,), (2,)]
