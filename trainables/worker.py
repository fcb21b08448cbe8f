"""What a Ray Train worker does: waits for a run, trains it to the next evaluation, answers, waits again."""

import time
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from trainables import parallel
from trainables.checkpoint import CheckpointError
from trainables.documents import DataError
from trainables.mailbox import Answer, Assignment, Order
from trainables.prepare import Prepared
from trainables.settings import ModelSettings, Settings
from trainables.train import NonFiniteLossError, Run
from trainables.warm import WarmModel


def serve(config: dict[str, Any]) -> None:
    """The train loop of a slot's worker group; every rank runs it until an order without an assignment.

    Args:
        config: "mailbox" (the slot's), "threads" (CPU threads of each worker) and "how" (ModelSettings).
    """
    torch.set_num_threads(config["threads"])
    mailbox = config["mailbox"]
    device = ray.train.torch.get_device()
    if parallel.rank() == 0:
        ray.get(mailbox.group_started.remote())
    warm: dict[str, WarmModel] = {}
    run: Run | None = None
    name, done = "", -1
    while True:
        order: Order = ray.get(mailbox.next_order.remote(done))
        if order.assignment is None:
            return
        received_at = first_step_at = None
        try:
            if run is None or name != order.assignment.name:
                received_at = time.time()
                run, name = None, order.assignment.name
                run = _start(order.assignment, config["how"], warm, device)
                first_step_at = time.time()
            answer = _advance(order, run)
        except NonFiniteLossError as error:
            # Losses are reduced over the ranks, so every rank comes here and the group stays usable.
            answer = Answer(order.number, {}, "nan", str(error))
        except DataError as error:
            answer = Answer(order.number, {}, "error", str(error), data_error=error)
        except Exception as error:
            answer = Answer(order.number, {}, _reason(error), f"{type(error).__name__}: {error}")
        # The ranks that wait in a collective which this one has left can only be freed by a new group.
        group_ends = answer.failure not in (None, "nan") and parallel.size() > 1
        if parallel.rank() == 0 or group_ends:
            answer = replace(answer, received_at=received_at, first_step_at=first_step_at)
            ray.get(mailbox.put_answer.remote(answer, group_ends))
        if group_ends:
            raise RuntimeError(answer.detail)
        if answer.failure is not None:
            run, name = None, ""
            torch.cuda.empty_cache()
        done = order.number


def _reason(error: Exception) -> str:
    """Why a run failed, in the words that the study keeps."""
    # On the CPU torch raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return "out of memory" if memory else "error"


def _start(assignment: Assignment, how: ModelSettings, warm: dict[str, WarmModel], device: torch.device) -> Run:
    prepared: Prepared = ray.get(assignment.prepared)
    if prepared.model not in warm:
        # One model at a time: sizes follow one another, and a slot's memory is planned for one.
        warm.clear()
        warm[prepared.model] = WarmModel(prepared, device, how)
    settings = Settings.from_json(assignment.settings)
    run = Run(warm[prepared.model], settings, keep_best=assignment.test)
    if assignment.checkpoint.exists():
        try:
            run.restore(assignment.checkpoint)
        except CheckpointError as error:
            # Every rank reads the same file, so every rank starts over.
            print(f"{assignment.name} starts over: {error}")
            run = Run(warm[prepared.model], settings, keep_best=assignment.test)
    return run


def _advance(order: Order, run: Run) -> Answer:
    assert order.assignment is not None
    while len(run.history) < order.evaluations:
        run.advance()
        run.save(order.assignment.checkpoint)
    test = run.test() if order.assignment.test and run.finished else None
    return Answer(order.number, run.history[order.evaluations - 1], test=test)
