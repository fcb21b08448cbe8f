"""What a slot and its workers say to one another: one request at a time, and its response."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import ray
from ray.exceptions import RayError

from trainables.slots.actors import ACTOR_DIED, count_kernel_kills, place_on_node

Reference = Any  # a ray.ObjectRef, or the handle of an actor
# Seconds that a worker has to say that it is alive; one that is busy may not.
_ALIVE_TIMEOUT = 5.0
# Seconds that a node has to say what its kernel did.
_NODE_TIMEOUT = 20.0
# Evaluations that a run may have undecided when it trains on. With more a search is no faster, and discards more
# (`python -m tests.benchmarks.utilisation --slots 32 --jitter 0.1`).
AHEAD = 1


class Failure(StrEnum):
    """Why a run cannot go on; the study keeps these codes."""

    NAN = "nan"
    OUT_OF_MEMORY = "out_of_memory"
    HANG = "hang"
    WORKER_LOST = "worker_lost"
    ERROR = "error"


@dataclass(frozen=True)
class ExportSpec:
    """A model that a run leaves behind.

    Attributes:
        folder: on storage that all nodes see, or its URL.
        point: "best" (the weights of the best evaluation) or "final".
    """

    folder: str
    point: str


@dataclass(frozen=True)
class RunSpec:
    """A run that a slot has been handed.

    Attributes:
        name: of the trial, as in "builtin/nano/3".
        prepared: reference to the model's `Prepared`, which may still be in the making.
        settings: `Settings.to_json`.
        checkpoint: folder of the run's exact state on storage that all nodes see, or its URL.
        test: whether the run reads the test split at its end.
        keep: the model that the run writes at its end; None: none.
    """

    name: str
    prepared: Reference
    settings: dict[str, Any]
    checkpoint: str
    test: bool = False
    keep: ExportSpec | None = None


@dataclass(frozen=True)
class TrainRequest:
    """Train `run` until it has `evaluations` of them; None: it is only to hear of its end. A request without a run ends
    the workers.

    The request states a goal, not a change: a worker group that was restarted reads it again and goes on.
    """

    number: int
    run: RunSpec | None
    evaluations: int | None = None


@dataclass(frozen=True)
class TrainResponse:
    """How the request `number` went.

    Attributes:
        metrics: of the evaluation that was requested; empty if there is none.
        failure: None, or why the run cannot go on.
        detail: the same in words.
        test: `Run.test`, of the last evaluation of a run that was to read the test split.
        fatal: why no run of this search can go on: what cannot be trained on, such as a model, or saved.
        last: whether this was the run's last evaluation.
        interrupted: whether the run has saved its state before the evaluation, because the search ends.
        discarded: tokens that the run had trained on when it was stopped before the evaluation; None: it was not.
        ended: whether Ray or the kernel has ended a worker, because its node was short of memory, which another may
            have taken.
        node: the name of the first worker's node.
        busy_s, setup_s: seconds that the workers took, and of these the ones before the first training step; setup_s is
            None if the request did not begin a run.
    """

    number: int
    metrics: dict[str, float]
    failure: Failure | None = None
    detail: str = ""
    test: dict[str, Any] | None = None
    fatal: Exception | None = None
    last: bool = False
    interrupted: bool = False
    discarded: int | None = None
    ended: bool = False
    node: str = ""
    busy_s: float = 0.0
    setup_s: float | None = None


@dataclass(frozen=True)
class GroupHealth:
    """How the request at hand is going.

    Attributes:
        placed: whether there is a worker group: it has started, and is not lost.
        groups_lost: worker groups that were lost in the run.
        silent_s: seconds without a forward pass; None while no worker trains: it starts, or waits for the data.
    """

    placed: bool
    groups_lost: int
    silent_s: float | None


@dataclass(frozen=True)
class Wishes:
    """What a worker is to do before its run has come to the evaluation.

    Attributes:
        interrupted: save the run and respond.
        discarded: number of the request that is to be left, as its run has been stopped.
    """

    interrupted: bool = False
    discarded: int = 0


@dataclass(frozen=True)
class WorkerHandle:
    """A rank of a worker group.

    Attributes:
        actor: its handle.
        node: id of its node.
    """

    actor: Reference
    node: str


async def count_kernel_kills_on(node: str) -> int:
    """`count_kernel_kills` of a node; 0 if it has gone, or has too little memory left to say."""
    if node == ray.get_runtime_context().get_node_id():
        return count_kernel_kills()
    task = ray.remote(num_cpus=0, max_retries=0)(count_kernel_kills)
    asked = task.options(scheduling_strategy=place_on_node(node)).remote()
    try:
        return int(await asyncio.wait_for(asked, _NODE_TIMEOUT))
    except (RayError, TimeoutError):
        return 0


@ray.remote(num_cpus=0)
class Mailbox:
    """The latest request and the latest response, for a slot and the ranks of its worker group; and what the driver has
    decided on the run.

    The slot owns it: when the slot is gone, so is the mailbox, and the workers end.
    """

    def __init__(self) -> None:
        self._request: TrainRequest | None = None
        self._response: TrainResponse | None = None
        self._starts_expected, self._groups_lost = 1, 0
        self._changed = asyncio.Condition()
        self._workers: dict[int, WorkerHandle] = {}
        # By rank, of its node, when the worker last asked for one.
        self._kernel_kills: dict[int, int] = {}
        self._placed = self._end_reported = False
        self._passes: int | None = None
        self._moved_at = 0.0
        self._wishes = Wishes()
        # Evaluations of the run that were decided on, and whether it was stopped then.
        self._decided, self._stopped = 0, False
        # The request that ranks have been handed: what one of them has, all must get.
        self._taken: int | None = None

    async def put_request(self, request: TrainRequest) -> None:
        async with self._changed:
            before, run = self._request.run if self._request is not None else None, request.run
            if before != run:
                self._groups_lost = 0
            new = run is not None and (before is None or before.name != run.name)
            if new and request.evaluations is not None:
                self._decided, self._stopped = request.evaluations - 1, False
            self._request, self._passes = request, None
            self._discard()
            self._changed.notify_all()

    async def decide(self, name: str, evaluations: int, goes_on: bool) -> None:
        """The driver's decision on the run `name`: it has so many evaluations that count, and goes on or is stopped.

        Decisions may come out of order, as Ray does not keep it in an actor that is asynchronous.
        """
        async with self._changed:
            if self._request is None or self._request.run is None or self._request.run.name != name:
                return
            self._decided, self._stopped = max(self._decided, evaluations), self._stopped or not goes_on
            self._discard()
            self._changed.notify_all()

    def _discard(self) -> None:
        """Responds to the request of a run that was stopped, or has the workers do so that are at it."""
        request, response = self._request, self._response
        if not self._stopped or request is None or request.run is None:
            return
        self._wishes = replace(self._wishes, discarded=request.number)
        if self._taken != request.number and (response is None or response.number != request.number):
            self._response = TrainResponse(request.number, {}, discarded=0)

    async def next_request(self, after: int, rank: int, kills: int) -> TrainRequest:
        """The latest request above the number `after`, once there is one that has not failed, and whose run may train.

        Args:
            rank: of the worker that asks.
            kills: `trainables.slots.actors.count_kernel_kills` there.
        """
        self._kernel_kills[rank] = kills
        async with self._changed:
            while True:
                request, response = self._request, self._response
                failed = response.number if response is not None and response.failure is not None else None
                if (
                    request is not None
                    and request.number > after
                    and request.number != failed
                    and (request.number == self._taken or self._is_due(request))
                ):
                    self._taken = request.number
                    return request
                await self._changed.wait()

    def _is_due(self, request: TrainRequest) -> bool:
        if request.run is None or request.evaluations is None:
            return request.run is None
        return not self._stopped and request.evaluations <= self._decided + 1 + AHEAD

    async def put_response(self, response: TrainResponse, group_ends: bool = False) -> None:
        """Args: group_ends: the worker group ends after this response, so that its next start is no loss."""
        # A rank whose peer dies fails as well; then there is no response, but a group that was lost.
        if group_ends and response.failure == Failure.ERROR and await self._one_died():
            return
        async with self._changed:
            # Several ranks may respond to one request: the first knows the cause, and their group starts again once.
            if group_ends and self._response is not None and self._response.number == response.number:
                return
            self._starts_expected += group_ends
            self._end_reported = self._end_reported or group_ends
            self._response = response
            self._changed.notify_all()

    async def _one_died(self) -> bool:
        for worker in self._workers.values():
            try:
                await asyncio.wait_for(worker.actor.__ray_ready__.remote(), _ALIVE_TIMEOUT)
            except ACTOR_DIED:
                return True
            except TimeoutError:
                continue
        return False

    async def wait_for_response(self, number: int, timeout: float) -> TrainResponse | None:
        """The response to the request `number`; None if there is none within `timeout` seconds."""
        async with self._changed:
            try:
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._response is not None and self._response.number == number),
                    timeout,
                )
            except TimeoutError:
                return None
            return self._response

    async def worker_started(self, rank: int, worker: WorkerHandle) -> None:
        """Says that a worker has started; a group that nobody expected means that the one before was lost."""
        if not self._placed:
            self._workers.clear()
            self._kernel_kills.clear()
            self._taken = None
            self._discard()
        self._workers[rank] = worker
        self._passes, self._placed, self._end_reported = None, True, False
        if rank == 0:
            if self._starts_expected:
                self._starts_expected -= 1
            else:
                self._groups_lost += 1

    async def workers(self) -> list[Reference]:
        return [worker.actor for worker in self._workers.values()]

    async def group_failed(self, memory: str | None, preempted: bool, died: list[int]) -> None:
        """What Ray knows of a worker group that was lost.

        Args:
            memory: None, or the words in which Ray says that it ended a worker for want of memory.
            preempted: whether the cluster took a node away, which is no failure of the trial.
            died: the ranks whose processes ended.
        """
        request, placed = self._request, self._placed
        # Until the next group trains, nothing hangs.
        self._passes, self._placed, self._taken = None, False, None
        self._discard()
        if self._end_reported:
            return
        if self._stopped:
            # It is no loss of the next run.
            self._starts_expected += 1
            return
        # Workers that died while they started are not those that are known.
        if placed and memory is None and not preempted and await self._ended_by_kernel(died):
            memory = "a worker died, and its node's kernel ended a process for want of memory"
        if memory is not None and request is self._request and request is not None and request.run is not None:
            response = TrainResponse(request.number, {}, Failure.OUT_OF_MEMORY, memory, ended=True)
            await self.put_response(response, group_ends=True)
        elif preempted:
            self._starts_expected += 1

    async def _ended_by_kernel(self, died: list[int]) -> bool:
        """Whether a node's kernel has ended a process for want of memory since the request; which one is not known."""
        ranks = [rank for rank in died if rank in self._workers and rank in self._kernel_kills]
        kills = await asyncio.gather(*(count_kernel_kills_on(self._workers[rank].node) for rank in ranks))
        return any(after > self._kernel_kills[rank] for rank, after in zip(ranks, kills, strict=True))

    async def pulse(self, passes: int | None, known: Wishes, timeout: float) -> Wishes:
        """A worker's sign of life. Returns what it is to do: at once if that is not what it knows, else after `timeout`
        seconds.

        Args:
            passes: forward passes so far; None while it does not train.
        """
        # One whose group is lost may wait for the others for ever.
        if self._placed and passes != self._passes:
            self._passes, self._moved_at = passes, time.monotonic()
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._wishes != known), timeout)
            return self._wishes

    async def interrupt(self) -> None:
        async with self._changed:
            self._wishes = replace(self._wishes, interrupted=True)
            self._changed.notify_all()

    async def health(self) -> GroupHealth:
        silent_s = time.monotonic() - self._moved_at if self._passes is not None else None
        return GroupHealth(self._placed, self._groups_lost, silent_s)
