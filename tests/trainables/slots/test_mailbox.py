"""What a slot's mailbox makes of worker groups that are lost: whose fault it was, which request it is a response to."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from trainables.slots.mailbox import Failure, Mailbox, RunSpec, TrainRequest, TrainResponse, Wishes, WorkerHandle


def in_a_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """A browser that other tests have open holds the main thread's event loop."""
    with ThreadPoolExecutor() as threads:
        threads.submit(asyncio.run, coroutine).result()


class _Group:
    """A mailbox of two workers, whose kernel has so far ended no process.

    Attributes:
        kills: what the kernel of their nodes counts, by the node.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kills = {"a": 0, "b": 0}
        self.mailbox = Mailbox.__ray_metadata__.modified_class()  # type: ignore[attr-defined]
        monkeypatch.setattr("trainables.slots.mailbox.count_kernel_kills_on", self._kills_on)

    async def _kills_on(self, node: str) -> int:
        await asyncio.sleep(0)
        return self.kills[node]

    async def request(self, number: int) -> None:
        await self.mailbox.put_request(TrainRequest(number, RunSpec("a", None, {}, ""), number))

    async def start(self, after: int) -> None:
        for rank, node in enumerate("ab"):
            await self.mailbox.worker_started(rank, WorkerHandle(mock.Mock(), node))
            await self.mailbox.next_request(after, rank, self.kills[node])

    async def response(self, number: int) -> Any:
        return await self.mailbox.wait_for_response(number, 0.01)

    async def failure(self, number: int) -> str | None:
        response = await self.response(number)
        return response and response.failure

    async def lost(self) -> int:
        return int((await self.mailbox.health()).groups_lost)


async def begun(monkeypatch: pytest.MonkeyPatch) -> _Group:
    """One that has its first request."""
    group = _Group(monkeypatch)
    await group.request(1)
    await group.start(0)
    return group


def test_a_worker_that_dies_when_its_nodes_kernel_has_ended_one_was_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        # Another process of the node of the one that lives.
        group.kills["a"] += 1
        await group.mailbox.group_failed(None, False, [1])
        assert await group.failure(1) is None
        await group.start(0)
        assert await group.lost() == 1
        group.kills["b"] += 1
        await group.mailbox.group_failed(None, False, [1])
        assert await group.failure(1) == Failure.OUT_OF_MEMORY
        # A group that died while it started says nothing new.
        await group.request(2)
        await group.mailbox.group_failed(None, False, [1])
        assert await group.failure(2) is None
        await group.start(1)
        assert await group.lost() == 1

    in_a_thread(run())


def test_the_end_of_a_group_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        group.kills["b"] += 1
        # As after a hang, when the slot kills the workers; or when one of them has told of it already.
        await group.mailbox.put_response(TrainResponse(1, {}, Failure.HANG), group_ends=True)
        await group.request(2)
        await group.mailbox.group_failed(None, False, [0, 1])
        assert await group.failure(2) is None
        await group.start(1)
        assert await group.lost() == 0
        await group.mailbox.group_failed(None, False, [0])
        await group.start(1)
        assert await group.lost() == 1

    in_a_thread(run())


def test_what_befell_a_group_is_no_answer_to_a_later_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        group.kills["b"] += 1
        told = asyncio.create_task(group.mailbox.group_failed(None, False, [1]))
        await asyncio.sleep(0)
        await group.request(2)
        await told
        assert await group.failure(2) is None
        # A worker that waits for the dead one is no sign of life.
        await group.mailbox.pulse(7, Wishes(), 0.01)
        assert (await group.mailbox.health()).silent_s is None

    in_a_thread(run())


async def _is_held(request: asyncio.Task[TrainRequest]) -> bool:
    await asyncio.wait({request}, timeout=0.01)
    return not request.done()


def test_a_run_trains_one_evaluation_ahead_of_what_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        await group.request(2)
        assert (await group.mailbox.next_request(1, 0, 0)).number == 2
        await group.request(3)
        held = asyncio.create_task(group.mailbox.next_request(2, 0, 0))
        assert await _is_held(held)
        await group.mailbox.decide("a", 1, True)
        assert (await held).number == 3
        # A run that has come to its end waits, however much of it is decided on.
        run = RunSpec("a", None, {}, "")
        await group.mailbox.put_request(TrainRequest(4, run))
        await group.mailbox.decide("a", 3, True)
        assert await _is_held(asyncio.create_task(group.mailbox.next_request(3, 0, 0)))
        await group.mailbox.decide("a", 3, False)
        assert (await group.response(4)).discarded == 0
        # Decisions may come out of order.
        await group.mailbox.decide("a", 2, True)
        await group.request(5)
        assert (await group.response(5)).discarded == 0
        # Another one begins with nothing decided.
        await group.mailbox.put_request(TrainRequest(6, RunSpec("b", None, {}, ""), 1))
        await group.mailbox.decide("a", 3, False)
        assert (await group.mailbox.next_request(5, 0, 0)).number == 6
        assert (await group.mailbox.pulse(1, Wishes(), 0.01)).discarded < 6

    in_a_thread(run())


def test_a_request_that_is_stopped_reaches_all_workers_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        await group.request(2)
        await group.mailbox.next_request(1, 0, 0)
        news = asyncio.create_task(group.mailbox.pulse(3, Wishes(), 60))
        await group.mailbox.decide("a", 1, False)
        # At once: another worker would wait for this one.
        assert await news == Wishes(discarded=2)
        assert (await group.mailbox.next_request(1, 1, 0)).number == 2
        assert await group.response(2) is None
        await group.mailbox.put_response(TrainResponse(2, {}, discarded=150))
        assert (await group.response(2)).discarded == 150
        # The slot may have asked for more before it heard of the stop.
        await group.request(3)
        assert (await group.response(3)).discarded == 0

    in_a_thread(run())


def test_a_group_that_is_lost_when_its_run_was_stopped_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        group = await begun(monkeypatch)
        await group.mailbox.decide("a", 0, False)
        assert await group.response(1) is None
        group.kills["b"] += 1
        await group.mailbox.group_failed(None, False, [1])
        response = await group.response(1)
        assert (response.discarded, response.failure) == (0, None)
        await group.mailbox.put_request(TrainRequest(2, RunSpec("b", None, {}, ""), 1))
        await group.start(0)
        assert await group.lost() == 0

    in_a_thread(run())
