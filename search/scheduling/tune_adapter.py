"""The search on Ray Tune: warm slots train the trials that the trial loop starts, in an order that is reproducible.

Tune places slots and hands them trials; Optuna's studies decide what to try and when to stop. Sizes follow one another
on the same slots, so that a size after the first finds its workers running, unless it gets others (allocation.py).
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.environment import set_pending_slots
from search.interruption import Interrupted
from search.scheduling.capacity import SlotCapacity, SlotResources
from search.scheduling.placement_groups import OrphanedGroups
from search.scheduling.trial_loop import TrialLoop
from search.studies.study import TrialStudy
from trainables.slots.actors import ACTOR_DIED, describe_death, died_by_preemption
from trainables.slots.mailbox import ExportSpec, Reference
from trainables.slots.shared import SlotConfig
from trainables.slots.slot import NoRoomError, Slot, SlotReport
from trainables.storage.files import Place, place, remove, store_errors

# How often the stop signal, which may have been started anew, is told the same.
_TELL_AGAIN_S = 1.0
_ENDED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


class _StudySearcher(Searcher):  # type: ignore[misc]
    """Tune's view of the studies: where its next trial comes from."""

    def __init__(self, trial_loop: TrialLoop, checkpoints: Place, models: Place) -> None:
        super().__init__()
        self._trial_loop, self._checkpoints, self._models = trial_loop, checkpoints, models

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        candidate = self._trial_loop.begin(trial_id)
        if candidate is None:
            finished: str = Searcher.FINISHED
            return finished if self._trial_loop.finished else None
        study = self._trial_loop.study(trial_id)
        return {
            "name": f"{study.slug}/{candidate.number}",
            "model": study.model,
            "settings": candidate.settings.to_json(),
            "checkpoint": str(self._checkpoints / study.slug / str(candidate.number)),
            "test": candidate.test,
            "keep": ExportSpec(str(self._models / study.slug / str(candidate.number)), candidate.keeps)
            if candidate.keeps
            else None,
            "done": self._trial_loop.count_done(trial_id),
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler has told the study already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies are the only state of a search."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tells the slots what the studies decide.

    Tune wants a decision as soon as a result comes in; here it is made when the result's turn comes. So each trial goes
    on in Tune, and its slot hears of the decision from its mailbox: how far it may run ahead, and when it ends.
    `_actor_cache` and `_actor_manager` are not public, and there is no public way to keep idle slots, or to survive
    what Ray says of a dead one: pyproject.toml holds Ray to the versions they were tested with.
    """

    def __init__(
        self,
        trial_loop: TrialLoop,
        slots: int,
        stop_signal: Reference,
        room: SlotCapacity,
        remove: Callable[[Place], None] = remove,
    ) -> None:
        super().__init__()
        self._trial_loop, self._slots, self._stop_signal, self._room = trial_loop, slots, stop_signal, room
        self._remove = remove
        self._keeps_slots = False
        self._excess: int | None = None
        self._crowds, self._told_at = 0, 0.0
        self._orphans = OrphanedGroups()
        self._pending: list[Trial] = []
        # Of each trial, what tells its slot a decision.
        self._deciding: dict[str, Callable[[int, bool], object]] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._pending.append(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        report: SlotReport = result["report"]
        if report.mailbox is not None:
            self._deciding[trial.trial_id] = partial(report.mailbox.decide.remote, trial.config["name"])
        self._trial_loop.report(trial.trial_id, report)
        action: str = TrialScheduler.CONTINUE
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        del self._deciding[trial.trial_id]
        self._trial_loop.take_back(trial.trial_id, result["report"])
        self._remove(place(trial.config["checkpoint"]))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Tune's own recovery forgets a trial whose slot dies while it is handed over (Ray 2.60).
        error = _error_of(trial)
        counts = not (died_by_preemption(error) or isinstance(error, NoRoomError))
        self._deciding.pop(trial.trial_id, None)
        self._trial_loop.lose(trial.trial_id, _in_a_line(error), counts=counts)
        self._orphans.expect()
        # How many are to go is told anew: one may just have gone.
        self._excess = None

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        # Called once in each turn of Tune's loop, after it has asked for new trials.
        controller = tune_controller._tune_controller
        self._orphans.look()
        if self._trial_loop.interruption.asked:
            self._stop_signal.stop.remote()
            if self._trial_loop.saved or self._trial_loop.interruption.overdue:
                raise Interrupted
            return None
        idle = controller._actor_cache.num_cached_objects
        self._tell(self._trial_loop.use_slots(self._room.slots(), idle))
        for decision in self._trial_loop.decide():
            self._deciding[decision.tune_id](decision.evaluations, decision.goes_on)
        # As FIFOScheduler, which looks through all trials that there have been; here none is ever paused.
        self._pending = [trial for trial in self._pending if trial.status == Trial.PENDING]
        chosen = self._pending[0] if self._pending else None
        if chosen is not None and not self._keeps_slots:
            _take_errors_as_death(controller._actor_manager)
            # Tune keeps an idle actor only while a trial waits for it; a slot is kept for the next size as well.
            controller._actor_cache.increase_max(chosen.placement_group_factory, self._slots)
            self._keeps_slots = True
        return chosen

    def _tell(self, excess: int) -> None:
        """Tells the slots how many of them are to end."""
        if excess != self._excess:
            self._excess, self._crowds = excess, self._crowds + 1
        elif not excess or time.monotonic() - self._told_at < _TELL_AGAIN_S:
            return
        self._told_at = time.monotonic()
        self._stop_signal.shrink.remote(excess, self._crowds)


def _error_of(trial: Trial) -> Exception | None:
    """What befell a trial's slot.

    Tune has written it to this machine's disk; `Trial.get_pickled_error` looks for it in the storage, where it comes
    later.
    """
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    error: Exception = cloudpickle.loads(Path(path).read_bytes())
    return error


def _in_a_line(error: Exception | None) -> str:
    """The cause: the last line of what Ray says, or how the actor died."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ACTOR_DIED):
        return describe_death(cause)
    lines = str(cause or "").strip().splitlines() or ["the slot's process died"]
    return lines[-1].strip()


def _take_errors_as_death(actor_manager: Any) -> None:
    """Tune knows the death of a slot as RayActorError alone. Anything else that Ray says of one, as when its memory
    monitor has ended it, ends the whole search; here it ends the slot, and the trial goes on in another."""

    def as_death(failed: Callable[..., None]) -> Callable[..., None]:
        def told(*, exception: Exception, **which: Any) -> None:
            if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
                exception = RayActorError(error_msg=str(exception))
            failed(exception=exception, **which)

        return told

    for name in ("_actor_start_failed", "_actor_task_failed"):
        setattr(actor_manager, name, as_death(getattr(actor_manager, name)))


def run_trials(
    trial_loop: TrialLoop,
    slot: SlotConfig,
    slots: int,
    storage: Path,
    checkpoints: Place,
    models: Place,
    patience_s: float = 60.0,
    remove: Callable[[Place], None] = remove,
) -> None:
    """Runs the trials of all studies; returns when they have ended, or after an interruption.

    Args:
        storage: folder for Tune's own files, on this node.
        checkpoints: a folder, or a URL, that has those of the trials.
        models: the same of the models that trials leave behind, each under its study's slug and its number.
        patience_s: see search.scheduling.capacity.SlotCapacity.
        remove: removes the checkpoint of a trial that has ended.
    """
    # A slot's own process computes nothing: its workers hold the CPUs and GPUs, in a placement group of their own. Tune
    # wants a resource for each trial, and memory is one that it really takes.
    placement = tune.PlacementGroupFactory([{"CPU": 0.0, "memory": 300 * 2**20}])
    room = SlotCapacity(slots, SlotResources(slot.workers, slot.cpus, slot.gpus, slot.placement), patience_s)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Slot, slot=slot), placement),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            reuse_actors=True,
            search_alg=_StudySearcher(trial_loop, checkpoints, models),
            scheduler=_StudyScheduler(trial_loop, slots, slot.stop_signal, room, remove),
            trial_name_creator=lambda trial: trial.config["name"].replace("/", "-"),
            trial_dirname_creator=lambda trial: trial.config["name"].replace("/", "-"),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(storage), verbose=0),
    )
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    set_pending_slots(slots)
    # After an interruption the slots end with Ray.
    with suppress(Interrupted):
        tuner.fit()
    room.close()
    shutil.rmtree(storage, ignore_errors=True)


def remove_checkpoints(studies: Sequence[TrialStudy], checkpoints: Place, remove: Callable[[Place], None]) -> None:
    """Removes the checkpoints of trials that have ended, and the folders that are empty then.

    A trial's checkpoint is removed when it ends; but not if the search is killed at that moment, or its slot is lost.

    Args:
        checkpoints: a folder, or a URL, that has those of all trials.
        remove: removes one of them.

    Raises:
        StorageError: the store of a URL does not answer.
    """
    with store_errors(checkpoints):
        for study in studies:
            ended = {trial.number for trial in study.trials(*_ENDED)}
            for folder in (checkpoints / study.slug).glob("*"):
                if folder.name.isdecimal() and int(folder.name) in ended:
                    remove(folder)
    if isinstance(checkpoints, Path):
        for folder in (*checkpoints.glob("*"), checkpoints):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
