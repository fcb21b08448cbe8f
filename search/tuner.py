"""The search on Ray Tune: warm slots train the trials that the studies ask for, in an order that is reproducible.

Tune places slots and hands them trials; Optuna's studies decide what to try and when to stop. Sizes follow one another
on the same slots, so that a size after the first finds its workers running, unless search.allotment gives it others.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.interruption import Interrupted, Interruption
from search.order import ReportOrder
from search.orphans import Orphans
from search.room import Need, Room
from search.studies.ledger import Candidate, Ledger
from trainables.mailbox import Keep, Reference
from trainables.slot import NoRoomError, Slot, SlotConfig
from trainables.storage import Place, place, remove


class Observer(Protocol):
    """Is told what happens, in the order in which it is acted upon."""

    def slots_changed(self, slots: int) -> None: ...

    def trial_started(self, study: Ledger, candidate: Candidate) -> None: ...

    def trial_report(self, study: Ledger, candidate: Candidate, metrics: Mapping[str, float]) -> None: ...

    def trial_ended(self, study: Ledger, candidate: Candidate, state: TrialState, reason: str | None) -> None: ...


@dataclass
class _Running:
    """A trial on a slot, under the name that Tune has for it.

    Attributes:
        waits: whether one waits to be, or the trial has saved its state because the search ends.
        smaller: whether it ran out of memory and goes on with smaller micro-batches.
    """

    study: Ledger
    candidate: Candidate
    index: int
    waits: bool = False
    smaller: bool = False
    tune_trial: Trial | None = None
    result: dict[str, Any] = field(default_factory=dict)


class Conductor:
    """Starts trials, hands their reports to the studies in order, and says which of them go on.

    Attributes:
        error: why the search cannot go on, such as data that could not be prepared; its trials are left as they are.
        slot_start_s, overhead_s: see trainables.slot.Slot.

    Args:
        studies: in their order; one starts when the one before it has ended.
        slots: trials that run at the same time.
        full_tokens: tokens of a trial of a model that is not stopped early; waits until the data is prepared.
        interruption: ends the search; its trials are left as they are.
        restarts: times that a trial may lose its slot before it fails.
    """

    def __init__(
        self,
        studies: Sequence[Ledger],
        slots: int,
        full_tokens: Callable[[str], int],
        observer: Observer,
        interruption: Interruption,
        restarts: int = 2,
    ) -> None:
        self._studies = list(studies)
        self._full_tokens = full_tokens
        self._observer = observer
        self.interruption = interruption
        self._restarts = restarts
        self._losses: dict[tuple[str, int], int] = {}
        self._order = ReportOrder(slots, max((study.clock for study in studies), default=0))
        self._running: dict[str, _Running] = {}
        self._indices: dict[tuple[str, int], int] = {}
        self._ready: set[str] = set()
        self.slot_start_s: list[float] = []
        self.overhead_s: list[float] = []
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore of its own, which is not used; the studies are the state."""
        return {}

    @property
    def _study(self) -> Ledger | None:
        """The study that the next trial comes from."""
        while self._studies and self._studies[0].exhausted:
            if self._order.running:
                return None
            self._studies.pop(0)
        return self._studies[0] if self._studies else None

    @property
    def finished(self) -> bool:
        """True when no further trial will begin; while one runs, it may have to begin again."""
        return self._ends or (not self._running and len(self._studies) <= 1 and all(s.exhausted for s in self._studies))

    @property
    def _ends(self) -> bool:
        return self.error is not None or self.interruption.asked

    @property
    def saved(self) -> bool:
        """True when all running trials have saved their state, or have evaluated, which saves it, and wait."""
        return all(running.waits for running in self._running.values())

    def use_slots(self, slots: int, idle: int = 0) -> int:
        """Sets how many trials run at the same time.

        Args:
            idle: slots that wait for a trial; they hold their workers.

        Returns:
            how many slots too many there are, which have to go.
        """
        if slots != self._order.slots:
            self._order.slots = slots
            self._observer.slots_changed(slots)
        return max(0, self._order.running + idle - slots)

    def begin(self, tune_id: str) -> Candidate | None:
        """The next trial, if a slot is free and a study has one."""
        if self._ends or not self._order.has_room or (study := self._study) is None:
            return None
        # A budget of hours may have been used up since.
        if (candidate := study.ask(self._order.now)) is None:
            return None
        # One that begins again after its slot was lost keeps its place among those whose turn comes at the same time.
        index = self._indices.setdefault((study.name, candidate.number), len(self._indices))
        self._running[tune_id] = _Running(study, candidate, index)
        self._order.start(index, candidate.clock, self.done(tune_id))
        self._observer.trial_started(study, candidate)
        return candidate

    def study(self, tune_id: str) -> Ledger:
        """The study of a running trial."""
        return self._running[tune_id].study

    def done(self, tune_id: str) -> int:
        """The evaluations of a trial that it need not repeat. One that goes on after an interruption repeats its last,
        which may not have been acted upon."""
        running = self._running[tune_id]
        return max(0, len(running.study.losses(running.candidate.number)) - 1)

    def report(self, trial: Trial, result: dict[str, Any]) -> None:
        """Takes in a result; it is acted upon in `decisions`."""
        running = self._running[trial.trial_id]
        running.waits = True
        if result["interrupted"]:
            return
        running.tune_trial, running.result = trial, result
        for name, record in (("slot_start_s", self.slot_start_s), ("overhead_s", self.overhead_s)):
            if name in result:
                record.append(result[name])
        self._order.report(running.index)

    def decisions(self) -> "list[tuple[Trial, bool]]":
        """The trials whose turn it is, each with whether it goes on."""
        decided = []
        # While a slot waits for a trial, its suggestion comes first: it must not depend on what is handled later.
        while not (self._order.has_room and self._study is not None and not self._ends):
            index = self._order.next()
            if index is None:
                break
            running = next(r for r in self._running.values() if r.index == index)
            assert running.tune_trial is not None
            goes_on = self._handle(running)
            decided.append((running.tune_trial, goes_on))
        return decided

    def _handle(self, running: _Running) -> bool:
        study, candidate, result = running.study, running.candidate, running.result
        running.waits = False
        if study.name not in self._ready:
            try:
                study.prepared(self._full_tokens(study.model))
            except Exception as error:
                self.error = error
                return False
            self._ready.add(study.name)
        if result["fatal"] is not None:
            # No other setting will do better: the search ends, and says what is to be mended.
            self.error = result["fatal"]
            return False
        if "accumulation" in result and not running.smaller:
            running.smaller = True
            study.annotate(candidate.number, "accumulation", result["accumulation"])
        if result["failure"] is not None:
            self._end(running, TrialState.FAIL, result["failure"], result["detail"])
            return False
        if not all(math.isfinite(result[name]) for name in study.objectives):
            self._end(running, TrialState.FAIL, "nan", f"{' or '.join(study.objectives)} is not finite")
            return False
        if int(result["tokens"]) > study.tokens(candidate.number):
            metrics = {name: value for name, value in result.items() if name in METRICS and math.isfinite(value)}
            # The observer first: what is recorded twice is found, what the study alone holds would never be recorded.
            self._observer.trial_report(study, candidate, metrics)
            reason = study.report(candidate.number, metrics)
        else:
            reason = study.decision(candidate.number)
        if len(study.losses(candidate.number)) >= candidate.settings.evaluations:
            if result["test"] is not None:
                study.conclude(candidate.number, json.loads(result["test"]))
            self._end(running, TrialState.COMPLETE, None)
            return False
        if reason is not None:
            self._end(running, TrialState.PRUNED, reason)
            return False
        return True

    def lost(self, tune_id: str, detail: str, counts: bool) -> None:
        """The slot of a trial broke down: the trial goes on elsewhere, as after an interruption, or fails.

        Args:
            counts: whether the trial may have less of such losses from now on.
        """
        if (running := self._running.get(tune_id)) is None:
            return
        study, number = running.study, running.candidate.number
        losses = self._losses[study.name, number] = self._losses.get((study.name, number), 0) + counts
        if losses > self._restarts:
            self._end(running, TrialState.FAIL, "slot lost", detail)
        else:
            study.put_back(number)
            self._leave(running)

    def _end(self, running: _Running, state: TrialState, reason: str | None, detail: str = "") -> None:
        study, candidate = running.study, running.candidate
        self._observer.trial_ended(study, candidate, state, f"{reason}: {detail}" if detail else reason)
        study.tell(candidate.number, state, reason)
        self._leave(running)

    def _leave(self, running: _Running) -> None:
        self._order.end(running.index)
        self._running = {key: value for key, value in self._running.items() if value is not running}


METRICS = (
    "loss",
    "high_entropy_loss",
    "low_entropy_loss",
    "high_entropy_accuracy",
    "general_loss",
    "exact_match",
    "train_loss",
    "mask_rate",
    "curriculum_strength",
    "learning_rate",
    "tokens",
    "epoch",
    "tokens_per_s",
    "seconds",
)


class _StudySearcher(Searcher):  # type: ignore[misc]
    """Tune's view of the studies: where its next trial comes from."""

    def __init__(self, conductor: Conductor, checkpoints: Place, models: Path) -> None:
        super().__init__()
        self._conductor, self._checkpoints, self._models = conductor, checkpoints, models

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        candidate = self._conductor.begin(trial_id)
        if candidate is None:
            finished: str = Searcher.FINISHED
            return finished if self._conductor.finished else None
        study = self._conductor.study(trial_id)
        return {
            "name": f"{study.slug}/{candidate.number}",
            "model": study.model,
            "settings": candidate.settings.to_json(),
            "checkpoint": str(self._checkpoints / study.slug / str(candidate.number)),
            "test": candidate.test,
            "keep": Keep(self._models / study.slug / str(candidate.number), candidate.keeps)
            if candidate.keeps
            else None,
            "done": self._conductor.done(trial_id),
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler has told the study already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies are the only state of a search."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """Carries out in Tune what the studies decide.

    Tune wants a decision as soon as a result comes in; here it is made when the result's turn comes. Until then the
    trial is left alone (NOOP), and what is decided then goes to the controller's own methods. `_schedule_trial_train`
    and `_actor_cache` are not public: pyproject.toml holds Ray to the versions they were tested with.
    """

    def __init__(
        self,
        conductor: Conductor,
        slots: int,
        bell: Reference,
        room: Room,
        remove: Callable[[Place], None] = remove,
    ) -> None:
        super().__init__()
        self._conductor, self._slots, self._bell, self._room = conductor, slots, bell, room
        self._remove = remove
        self._keeps_slots = False
        self._too_many: int | None = None
        self._orphans = Orphans()
        self._pending: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._pending.append(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self._conductor.report(trial, result)
        action: str = TrialScheduler.NOOP
        return action

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Tune's own recovery forgets a trial whose slot dies while it is handed over (Ray 2.60).
        error = _error_of(trial)
        preempted = isinstance(error, RayActorError) and error.preempted
        counts = not (preempted or isinstance(error, NoRoomError))
        self._conductor.lost(trial.trial_id, _in_a_line(error), counts=counts)
        self._orphans.expect()
        # How many are to go is told anew: one may just have gone.
        self._too_many = None

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        # Called once in each turn of Tune's loop, after it has asked for new trials.
        controller = tune_controller._tune_controller
        self._orphans.look()
        if self._conductor.interruption.asked:
            self._bell.ring.remote()
            if self._conductor.saved or self._conductor.interruption.overdue:
                raise Interrupted
            return None
        idle = controller._actor_cache.num_cached_objects
        if (too_many := self._conductor.use_slots(self._room.slots(), idle)) != self._too_many:
            self._too_many = too_many
            self._bell.crowd.remote(too_many)
        for trial, goes_on in self._conductor.decisions():
            if goes_on:
                controller._schedule_trial_train(trial)
            else:
                controller.stop_trial(trial)
                if self._conductor.error is None:
                    self._remove(place(trial.config["checkpoint"]))
        # As FIFOScheduler, which looks through all trials that there have been; here none is ever paused.
        self._pending = [trial for trial in self._pending if trial.status == Trial.PENDING]
        chosen = self._pending[0] if self._pending else None
        if chosen is not None and not self._keeps_slots:
            # Tune keeps an idle actor only while a trial waits for it; a slot is kept for the next size as well.
            controller._actor_cache.increase_max(chosen.placement_group_factory, self._slots)
            self._keeps_slots = True
        return chosen


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
    """The cause: the last line of what Ray says; of an actor's death its first sentence."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause or "").strip().splitlines() or ["the slot's process died"]
    return (lines[-1].partition(". ")[0] if isinstance(error, RayActorError) else lines[-1]).strip()


def run_trials(
    conductor: Conductor,
    slot: SlotConfig,
    slots: int,
    checkpoints: Place,
    models: Path,
    patience_s: float = 60.0,
    remove: Callable[[Place], None] = remove,
) -> None:
    """Runs the trials of all studies; returns when they have ended, or after an interruption.

    Args:
        checkpoints: a folder, or a URL, that has those of the trials.
        models: folder of the models that trials leave behind, each under its study's slug and its number.
        patience_s: see search.room.Room.
        remove: removes the checkpoint of a trial that has ended.
    """
    # A slot's own process computes nothing: its workers hold the CPUs and GPUs, in a placement group of their own. Tune
    # wants a resource for each trial, and memory is one that it really takes.
    placement = tune.PlacementGroupFactory([{"CPU": 0.0, "memory": 300 * 2**20}])
    room = Room(slots, Need(slot.workers, slot.cpus, slot.gpus), patience_s)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Slot, slot=slot), placement),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            reuse_actors=True,
            search_alg=_StudySearcher(conductor, checkpoints, models),
            scheduler=_StudyScheduler(conductor, slots, slot.bell, room, remove),
            trial_name_creator=lambda trial: trial.config["name"].replace("/", "-"),
            trial_dirname_creator=lambda trial: trial.config["name"].replace("/", "-"),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(slot.storage), verbose=0),
    )
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # All slots start at the same time; by default a searcher's trials would wait for one another.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    # After an interruption the slots end with Ray.
    with suppress(Interrupted):
        tuner.fit()
    shutil.rmtree(slot.storage, ignore_errors=True)
    if not isinstance(checkpoints, Path):
        return
    for folder in (*checkpoints.glob("*"), checkpoints):
        # What an interrupted search needs stays: only empty folders go.
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
