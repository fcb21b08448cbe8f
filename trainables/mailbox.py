"""What a slot and its workers say to one another: one order at a time, and its answer."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from trainables.documents import DataError

Reference = Any  # a ray.ObjectRef


@dataclass(frozen=True)
class Assignment:
    """A run that a slot has been handed.

    Attributes:
        name: of the trial, as in "builtin/nano/3".
        prepared: reference to the model's `Prepared`, which may still be in the making.
        settings: `Settings.to_json`.
        checkpoint: folder of the run's exact state, on storage that all nodes see.
        test: whether the run reads the test split at its end.
    """

    name: str
    prepared: Reference
    settings: dict[str, Any]
    checkpoint: Path
    test: bool = False


@dataclass(frozen=True)
class Order:
    """Train `assignment` until it has `evaluations` of them. An order without an assignment ends the workers.

    The order states a goal, not a change: a worker group that was restarted reads it again and goes on.
    """

    number: int
    assignment: Assignment | None
    evaluations: int = 0


@dataclass(frozen=True)
class Answer:
    """How the order `number` went.

    Attributes:
        metrics: of the evaluation that was ordered; empty if the run failed.
        failure: None, or why the run cannot go on.
        test: `Run.test`, of the last evaluation of a run that was to read the test split.
        data_error: what no run of this search can be trained on, such as a model.
        received_at, first_step_at: when a new assignment reached the workers, and when they began to train it, in
            seconds since the epoch; None in the answers that follow.
    """

    number: int
    metrics: dict[str, float]
    failure: str | None = None
    detail: str = ""
    test: dict[str, Any] | None = None
    data_error: DataError | None = None
    received_at: float | None = None
    first_step_at: float | None = None


@ray.remote(num_cpus=0)
class Mailbox:
    """The latest order and the latest answer, for a slot and the ranks of its worker group.

    The slot owns it: when the slot is gone, so is the mailbox, and the workers end.
    """

    def __init__(self) -> None:
        self._order: Order | None = None
        self._answer: Answer | None = None
        self._starts_expected, self._groups_lost = 1, 0
        self._changed = asyncio.Condition()

    async def put_order(self, order: Order) -> None:
        async with self._changed:
            if self._order is None or self._order.assignment != order.assignment:
                self._groups_lost = 0
            self._order = order
            self._changed.notify_all()

    async def next_order(self, after: int) -> Order:
        """The latest order above the number `after`, once there is one that has not failed."""
        async with self._changed:
            while True:
                order, answer = self._order, self._answer
                failed = answer.number if answer is not None and answer.failure is not None else None
                if order is not None and order.number > after and order.number != failed:
                    return order
                await self._changed.wait()

    async def put_answer(self, answer: Answer, group_ends: bool = False) -> None:
        """Args: group_ends: the worker group ends itself after this answer, so that its next start is no loss."""
        async with self._changed:
            # Several ranks may say so of one order; their group starts again once.
            if group_ends and (self._answer is None or self._answer.number != answer.number):
                self._starts_expected += 1
            self._answer = answer
            self._changed.notify_all()

    async def answer(self, number: int, timeout: float) -> Answer | None:
        """The answer to the order `number`; None if there is none within `timeout` seconds."""
        async with self._changed:
            try:
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._answer is not None and self._answer.number == number),
                    timeout,
                )
            except TimeoutError:
                return None
            return self._answer

    async def group_started(self) -> None:
        """Says that a worker group has started; one that nobody expected means that the one before was lost."""
        async with self._changed:
            if self._starts_expected:
                self._starts_expected -= 1
            else:
                self._groups_lost += 1

    async def groups_lost(self) -> int:
        """Worker groups lost in the assignment at hand."""
        return self._groups_lost
