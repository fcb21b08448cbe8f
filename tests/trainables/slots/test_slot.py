"""A slot in Ray whose trials and workers come to grief: what it responds, and that it goes on."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray
import torch
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from tests import DEADLINE_S, tiny
from tests.clusters import ray_of_a_search
from tests.starved import StarvedGroup
from trainables.parallel import rank, size
from trainables.preparation.prepared import Prepared
from trainables.settings import ModelSettings
from trainables.slots.actors import ACTOR_DIED
from trainables.slots.mailbox import AHEAD, Failure, TrainResponse
from trainables.slots.shared import SlotConfig, StopSignal
from trainables.slots.slot import NoRoomError, Slot, SlotReport
from trainables.slots.worker import StorageError, serve
from trainables.slots.worker_group import _Trainer
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

pytestmark = pytest.mark.faults

MODEL, EPOCHS = "tiny", 3
HANG_S = 3.0
# The seed of a run says what becomes of it, if nothing else in its second epoch.
WELL, RAISES, SHORT_OF_MEMORY, NEVER_ENOUGH_MEMORY, TAKES_TOO_MUCH, HANGS, DIES_ONCE, DIES, NO_SPACE, WAITS = range(10)


def faulty(marks: Path, starved: StarvedGroup | None, config: dict[str, Any]) -> None:
    """`serve`, with runs that come to grief."""
    advance, save = Run.advance, Run.save

    def advancing(run: Run, stepped: Callable[[], object]) -> dict[str, float]:
        seed = run.settings.seed
        mark = marks / str(seed)
        if run.history:
            if seed == RAISES:
                raise ZeroDivisionError("by zero")
            # The rank that begins a batch may be the one that has enough.
            too_much = run.settings.accumulation == 1 and rank() == size() - 1
            if seed == NEVER_ENOUGH_MEMORY or (seed == SHORT_OF_MEMORY and too_much):
                raise torch.OutOfMemoryError("CUDA out of memory")
            if seed == TAKES_TOO_MUCH and too_much and starved is not None:
                starved.die()
            if seed == HANGS:
                time.sleep(3600)
            if seed == DIES or (seed == DIES_ONCE and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if seed == WAITS and run.history:
            return advance(run, lambda: _wait_for_interruption(stepped, mark))
        return advance(run, stepped)

    def saving(run: Run, folder: Path) -> None:
        if run.settings.seed == NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(run, folder)

    with mock.patch.object(Run, "advance", advancing), mock.patch.object(Run, "save", saving):
        serve(config)


def _wait_for_interruption(stepped: Callable[[], object], mark: Path) -> None:
    mark.touch()
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        stepped()
        time.sleep(0.05)
    raise TimeoutError("nobody interrupts")


@pytest.fixture(scope="module")
def data(cluster: None, prepared: Prepared) -> Any:
    return ray.put(prepared)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Both slots hold their CPUs.
    with ray_of_a_search(tmp_path_factory.mktemp("output"), cpus=4):
        yield


@pytest.fixture(scope="module")
def starved() -> Iterator[StarvedGroup | None]:
    try:
        group = StarvedGroup()
    except OSError:
        yield None
        return
    yield group
    group.close()


@pytest.fixture(scope="module")
def slot(data: Any, starved: StarvedGroup | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    with opened(data, 1, tmp_path_factory.mktemp("slot"), starved=starved) as slot:
        yield slot


@pytest.fixture(scope="module")
def pair(data: Any, starved: StarvedGroup | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    """A slot with two workers."""
    with opened(data, 2, tmp_path_factory.mktemp("pair"), starved=starved) as slot:
        yield slot


@contextmanager
def opened(data: Any, workers: int, folder: Path, cpus: int = 1, starved: StarvedGroup | None = None) -> Iterator[Slot]:
    stop_signal = StopSignal.remote()  # type: ignore[attr-defined]
    # Tune would call setup in an actor.
    slot: Slot = object.__new__(Slot)
    slot._logdir = str(folder / "tune")
    # There the controller runs, too; without an actor it needs one of its own.
    controller = mock.patch.object(
        _Trainer, "_initialize_and_run_controller", DataParallelTrainer._initialize_and_run_controller
    )
    with mock.patch("trainables.slots.worker_group._serve", partial(faulty, folder, starved)), controller:
        slot.setup(
            trial(folder, WELL),
            SlotConfig(workers, cpus, 0, "pack", {MODEL: data}, ModelSettings(), folder, stop_signal, 1, DEADLINE_S),
        )
        try:
            yield slot
        finally:
            slot.cleanup()


def trial(folder: Path, seed: int, **changes: Any) -> dict[str, Any]:
    settings = tiny.settings(seed=seed, epochs=EPOCHS).to_json()
    common = {"name": str(seed), "model": MODEL, "settings": settings, "test": False, "keep": None, "done": 0}
    return {**common, "checkpoint": str(folder / f"run-{seed}"), **changes}


def step(slot: Slot) -> SlotReport:
    result = slot.step()
    assert result.keys() == {"report"}
    report = result["report"]
    assert isinstance(report, SlotReport)
    return report


def end(slot: Slot) -> int | None:
    """The trial is stopped. Returns the tokens that it had been trained on, if it was training."""
    slot._mailbox.decide.remote(slot._run_spec.name, 0, False)
    result = slot.step()
    assert result["done"]
    discarded: int | None = result["report"].response.discarded
    return discarded


def train(slot: Slot, folder: Path, seed: int, done: int = 0, **changes: Any) -> list[SlotReport]:
    """The reports of a trial up to its end or failure; each is decided on at once."""
    slot.reset_config(trial(folder, seed, done=done, **changes))
    reports: list[SlotReport] = []
    while not (reports and (reports[-1].response.last or reports[-1].response.failure or reports[-1].response.fatal)):
        reports.append(step(slot))
        slot._mailbox.decide.remote(slot._run_spec.name, done + len(reports), True)
    assert end(slot) == 0
    return reports


def expected(warm: WarmModel, seed: int) -> list[float]:
    run = Run(warm, tiny.settings(seed=seed, epochs=EPOCHS))
    return [run.advance()["high_entropy_loss"] for _ in range(EPOCHS)]


def losses(reports: list[SlotReport]) -> Any:
    return pytest.approx([report.response.metrics["high_entropy_loss"] for report in reports], rel=1e-5)


def goes_on(slot: Slot, folder: Path, warm: WarmModel) -> bool:
    """Whether the next trial on the slot trains as ever."""
    reports = train(slot, folder, WELL, name=f"after {folder.name}")
    return bool(expected(warm, WELL) == losses(reports)) and not any(report.accumulation for report in reports)


def test_a_slot_without_a_place_gives_way_when_it_is_told_to(slot: Slot, data: Any, tmp_path: Path) -> None:
    with opened(data, 1, tmp_path, cpus=64) as unplaced:
        stop_signal = unplaced._slot.stop_signal
        ray.get(stop_signal.shrink.remote(1, 1))
        with pytest.raises(NoRoomError):
            unplaced.step()
        # It was the only one that was to go; the same is told again and again.
        ray.get(stop_signal.shrink.remote(1, 1))
        assert not ray.get(stop_signal.should_exit.remote())


def test_a_bell_that_was_lost_is_told_anew(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    stop_signal = slot._slot.stop_signal
    ray.get(stop_signal.shrink.remote(1, 1))
    ray.kill(stop_signal, no_restart=False)
    assert goes_on(slot, tmp_path, warm)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        # Ray may still be starting it.
        with suppress(*ACTOR_DIED):
            ray.get(stop_signal.shrink.remote(1, 1))
            break
        time.sleep(0.5)
    assert ray.get(stop_signal.should_exit.remote())


ENDED = TrainResponse(1, {}, Failure.OUT_OF_MEMORY, "running low on memory", ended=True)
SHORT = TrainResponse(1, {}, Failure.OUT_OF_MEMORY, "not enough on the GPU")
DONE = TrainResponse(1, {"loss": 1.0})


@pytest.mark.parametrize(
    ("batch_size", "responds", "last"),
    [
        (2, [SHORT, DONE], DONE),
        (2, [SHORT, SHORT], SHORT),
        # What cannot be halved any more fails, unless another may have taken the memory.
        (1, [SHORT], SHORT),
        (1, [ENDED, DONE], DONE),
        (1, [ENDED, ENDED, ENDED], ENDED),
        (2, [ENDED, ENDED, ENDED, DONE], DONE),
        (2, [ENDED, ENDED, ENDED, ENDED], ENDED),
        (2, [ENDED, SHORT], SHORT),
    ],
)
def test_a_worker_that_ray_ended_for_memory_is_a_loss(
    tmp_path: Path, batch_size: int, responds: list[TrainResponse], last: TrainResponse
) -> None:
    slot: Slot = object.__new__(Slot)
    slot._slot = mock.Mock(restarts=2, workers=1, prepared={MODEL: None})
    slot._started, slot._idle_since, slot._mailbox = True, 0.0, mock.Mock()
    settings = tiny.settings(batch_size=batch_size).to_json()
    slot.reset_config(trial(tmp_path, WELL, settings=settings))
    with mock.patch.object(Slot, "_request_evaluation", side_effect=responds) as requested:
        report = step(slot)
    assert requested.call_count == len(responds)
    assert report.response == last


def test_times_are_told(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    began = time.monotonic()
    first, *others = train(slot, tmp_path, WELL)
    assert (first.overhead_s is None) != (first.slot_start_s is None)
    assert [(report.overhead_s, report.slot_start_s) for report in others] == [(None, None)] * 2
    assert 0 < sum(report.seconds for report in (first, *others)) < time.monotonic() - began


def test_an_exception_fails_the_trial(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    *_, last = train(slot, tmp_path, RAISES)
    assert (last.response.failure, last.response.detail) == (Failure.ERROR, "ZeroDivisionError: by zero")
    assert goes_on(slot, tmp_path, warm)


def test_out_of_memory_is_tried_again_with_half_the_micro_batch(
    slot: Slot, pair: Slot, tmp_path: Path, warm: WarmModel
) -> None:
    for each, folder in ((slot, tmp_path / "slot"), (pair, tmp_path / "pair")):
        _halved(train(each, folder, SHORT_OF_MEMORY), warm, SHORT_OF_MEMORY)


def test_what_the_kernel_ended_for_memory_is_tried_again_with_half_the_micro_batch(
    slot: Slot, pair: Slot, starved: StarvedGroup | None, tmp_path: Path, warm: WarmModel
) -> None:
    if starved is None:
        pytest.skip("needs control groups of Linux, and its administrator's rights")
    for each, folder in ((slot, tmp_path / "slot"), (pair, tmp_path / "pair")):
        _halved(train(each, folder, TAKES_TOO_MUCH), warm, TAKES_TOO_MUCH)


def _halved(reports: list[SlotReport], warm: WarmModel, seed: int) -> None:
    assert [report.accumulation for report in reports] == [None, 2, 2]
    # The global batch is as it was, and so are the losses.
    assert expected(warm, seed) == losses(reports)


def test_out_of_memory_twice_fails_the_trial(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    *_, last = train(slot, tmp_path, NEVER_ENOUGH_MEMORY)
    assert (last.response.failure, last.accumulation) == (Failure.OUT_OF_MEMORY, 2)
    assert goes_on(slot, tmp_path, warm)


def test_a_hang_fails_the_trial(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    began = time.monotonic()
    with mock.patch.object(slot, "_slot", replace(slot._slot, hang_s=HANG_S)):
        *_, last = train(slot, tmp_path, HANGS)
    assert last.response.failure == Failure.HANG
    assert time.monotonic() - began > HANG_S
    assert goes_on(slot, tmp_path, warm)


def test_a_trial_goes_on_after_its_worker_died(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    assert expected(warm, DIES_ONCE) == losses(train(slot, tmp_path, DIES_ONCE))


def test_a_trial_whose_workers_die_again_and_again_fails(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    *_, last = train(slot, tmp_path, DIES)
    assert (last.response.failure, last.response.detail) == (Failure.WORKER_LOST, "2 worker groups lost")
    assert goes_on(slot, tmp_path, warm)


def test_a_full_disk_is_no_fault_of_the_trial(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    *_, last = train(slot, tmp_path, NO_SPACE)
    assert isinstance(last.response.fatal, StorageError)
    assert str(tmp_path) in str(last.response.fatal)


def test_a_trial_that_is_resumed_repeats_only_its_last_evaluation(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    slot.reset_config(trial(tmp_path, WELL))
    first = [step(slot), step(slot)]
    assert [report.mailbox is not None for report in first] == [True, False]
    end(slot)
    train(slot, tmp_path, RAISES)
    again, last = train(slot, tmp_path, WELL, done=1)
    assert again.response.metrics["high_entropy_loss"] == first[1].response.metrics["high_entropy_loss"]
    assert expected(warm, WELL) == losses([*first, last])


def test_a_trial_whose_checkpoint_is_ahead_reads_the_test_split_at_its_end(slot: Slot, tmp_path: Path) -> None:
    *_, whole = train(slot, tmp_path, WELL, name="whole", test=True)
    before, last = train(slot, tmp_path, WELL, done=1, name="again", test=True)
    assert before.response.test is None
    assert last.response.test == whole.response.test


def test_a_trial_that_waits_for_a_decision_is_interrupted(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    stop_signal = StopSignal.remote()  # type: ignore[attr-defined]
    ray.get(stop_signal.stop.remote())
    slot.reset_config(trial(tmp_path, WELL, name="waits"))
    for _ in range(1 + AHEAD):
        step(slot)
    with mock.patch.object(slot, "_slot", replace(slot._slot, stop_signal=stop_signal)):
        assert step(slot).response.interrupted
    end(slot)
    assert goes_on(slot, tmp_path, warm)


def test_a_trial_that_is_stopped_while_it_trains_leaves_its_slot(
    slot: Slot, pair: Slot, tmp_path: Path, warm: WarmModel
) -> None:
    for each, folder in ((slot, tmp_path / "slot"), (pair, tmp_path / "pair")):
        each.reset_config(trial(folder, WAITS))
        first = step(each)
        stopping = threading.Thread(
            target=_in_training, args=(each, each._mailbox.decide, str(WAITS), 1, False), daemon=True
        )
        stopping.start()
        result = each.step()
        stopping.join()
        assert result["done"]
        assert result["report"].response.discarded > first.response.metrics["tokens"]
        # What is discarded is not saved.
        run = Run(warm, tiny.settings(seed=WAITS, epochs=EPOCHS))
        run.restore(folder / f"run-{WAITS}")
        assert run.progress == 1 / EPOCHS
        assert goes_on(each, folder, warm)


def test_two_workers_go_on_after_one_died_and_one_raised(pair: Slot, tmp_path: Path, warm: WarmModel) -> None:
    assert expected(warm, DIES_ONCE) == losses(train(pair, tmp_path, DIES_ONCE))
    *_, last = train(pair, tmp_path, RAISES)
    assert (last.response.failure, last.response.detail) == (Failure.ERROR, "ZeroDivisionError: by zero")
    assert goes_on(pair, tmp_path, warm)
    _interrupted(pair, tmp_path, warm)


def test_an_interrupted_trial_saves_its_state_between_evaluations(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    _interrupted(slot, tmp_path, warm)


def _in_training(slot: Slot, method: Any, *arguments: Any) -> None:
    """Calls an actor's method when the mailbox knows that the trial which waits for it is training."""
    mark, deadline = Path(slot._logdir).parent / str(WAITS), time.monotonic() + DEADLINE_S
    while not mark.exists() or ray.get(slot._mailbox.health.remote()).silent_s is None:
        assert time.monotonic() < deadline, "nothing trains"
        time.sleep(0.1)
    mark.unlink()
    ray.get(method.remote(*arguments))


def _interrupted(slot: Slot, tmp_path: Path, warm: WarmModel) -> None:
    slot.reset_config(trial(tmp_path, WAITS, name="interrupted"))
    step(slot)
    interrupting = threading.Thread(target=_in_training, args=(slot, slot._slot.stop_signal.stop), daemon=True)
    interrupting.start()
    assert step(slot).response.interrupted
    interrupting.join()
    run = Run(warm, tiny.settings(seed=WAITS, epochs=EPOCHS))
    run.restore(tmp_path / f"run-{WAITS}")
    assert len(run.history) == 1
    assert run.progress > 1 / EPOCHS
    while not run.finished:
        run.advance()
    assert expected(warm, WAITS) == pytest.approx([metrics["high_entropy_loss"] for metrics in run.history], rel=1e-5)
