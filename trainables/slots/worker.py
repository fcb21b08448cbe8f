"""What a Ray Train worker does: waits for a run, trains it to the next evaluation, responds, waits again."""

import errno
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist

from trainables import parallel
from trainables.errors import DataError
from trainables.preparation.prepared import Prepared
from trainables.settings import ModelSettings, Settings
from trainables.slots.actors import count_kernel_kills
from trainables.slots.mailbox import Failure, Reference, RunSpec, TrainRequest, TrainResponse, Wishes, WorkerHandle
from trainables.slots.node_copies import local_copy
from trainables.storage.files import Place, StorageError, place, store_errors
from trainables.training.checkpoint import CheckpointError
from trainables.training.memory_estimate import bytes_for_torch
from trainables.training.run import NonFiniteLossError, Run
from trainables.training.warm_model import WarmModel

# Seconds between two signs of life.
_PULSE = 1.0
# How long a collective waits for the other ranks; those that wait for one that died are ended before.
_PATIENCE = timedelta(minutes=30)
# What the ranks agree to do after a step.
_SAVE, _DISCARD = 1, 2
# What a RuntimeError says of memory that torch does not get on the CPU, and that CUDA or cuBLAS itself does not get.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# What the file system says when no checkpoint can be written, whichever the run.
_NO_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class _Interrupted(Exception):
    """The search ends; the run is between two optimizer steps."""


class _Discarded(Exception):
    """The run has been stopped; it is between two optimizer steps."""


def serve(config: dict[str, Any]) -> None:
    """The train loop of a slot's worker group; every rank runs it until a request without a run.

    Args:
        config: "mailbox" (the slot's), "threads" (CPU threads of each worker), "share" (of a GPU, of each worker), and
            "how", "source" and "cache" as in trainables.slots.shared.SlotConfig.
    """
    device = ray.train.torch.get_device()
    _join_group(device)
    _serve_requests(config, device)
    parallel.leave_group()


def _join_group(device: torch.device) -> None:
    """Makes the process group of a slot's workers; every rank calls this."""
    ranks = ray.train.get_context()
    rank, size = ranks.get_world_rank(), ranks.get_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    address = store = None
    if rank == 0:
        host = ray.util.get_node_ip_address()
        # At port 0 it takes one that is free.
        store = dist.TCPStore(host, 0, size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        address = host, store.port
    host, port = ray.train.collective.broadcast_from_rank_zero(address)
    store = store or dist.TCPStore(host, port, size, is_master=False)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _serve_requests(config: dict[str, Any], device: torch.device) -> None:
    torch.set_num_threads(config["threads"])
    mailbox = config["mailbox"]
    _keep_to(config["share"], device)
    context, ranks = ray.get_runtime_context(), ray.train.get_context()
    worker = WorkerHandle(context.current_actor, context.get_node_id())
    ray.get(mailbox.worker_started.remote(parallel.rank(), worker))
    use = _NodeUse(device)
    pulse = _Pulse(mailbox, use)
    warm: dict[str, WarmModel] = {}
    run: Run | None = None
    agreement = parallel.Agreement()
    name, done = "", -1

    def stepped() -> None:
        wishes = pulse.wishes
        wish = agreement(_DISCARD if wishes.discarded >= request.number else _SAVE if wishes.interrupted else 0)
        if wish:
            raise _Discarded if wish == _DISCARD else _Interrupted

    while True:
        request: TrainRequest = ray.get(mailbox.next_request.remote(done, parallel.rank(), count_kernel_kills()))
        if request.run is None:
            return
        began, setup_s = time.monotonic(), None
        try:
            with pulse.training():
                if run is None or name != request.run.name:
                    run, name = None, request.run.name
                    with pulse.waiting():
                        prepared: Prepared = ray.get(request.run.prepared)
                        if prepared.model not in warm:
                            # One model at a time: sizes follow one another, and a slot's memory is planned for one.
                            warm.clear()
                            with _storage(config["cache"]):
                                node, looks = ranks.get_node_rank(), ranks.get_local_rank() == 0
                                prepared = local_copy(prepared, config["source"], config["cache"], node, looks)
                    run = _start(request.run, prepared, config["how"], warm, device, pulse)
                    agreement = parallel.Agreement()
                    setup_s = time.monotonic() - began
                response = _advance(request, run, stepped)
            if response.metrics:
                response = replace(response, metrics=response.metrics | use.measure(), node=platform.node())
        except NonFiniteLossError as error:
            # Losses are reduced over the ranks, so every rank comes here and the group stays usable.
            response = TrainResponse(request.number, {}, Failure.NAN, str(error))
        except (DataError, StorageError) as error:
            response = TrainResponse(request.number, {}, Failure.ERROR, str(error), fatal=error)
        except Exception as error:
            response = TrainResponse(request.number, {}, _classify(error), f"{type(error).__name__}: {error}")
        # The ranks that wait in a collective which this one has left can only be freed by a new group.
        group_ends = response.failure not in (None, Failure.NAN) and parallel.size() > 1
        if parallel.rank() == 0 or group_ends:
            response = replace(response, busy_s=time.monotonic() - began, setup_s=setup_s)
            ray.get(mailbox.put_response.remote(response, group_ends))
        if group_ends:
            raise RuntimeError(response.detail)
        if response.failure is not None:
            run, name = None, ""
            torch.cuda.empty_cache()
        done = request.number


def _keep_to(share: float, device: torch.device) -> None:
    """Memory that a worker takes beyond its share of a GPU would be missing in the trial of another slot."""
    if 0 < share < 1 and device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(bytes_for_torch(share, whole) / whole, device)


class _NodeUse:
    """The use of this node, and of this worker's GPU, under the names of MLflow's own system metrics."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gpu_percents: list[int] = []
        # The first call measures nothing.
        psutil.cpu_percent()

    def look(self) -> None:
        """To be called each second: NVML tells of the last one."""
        if (percent := _gpu_percent(self._device)) is not None:
            self._gpu_percents.append(percent)

    def measure(self) -> dict[str, float]:
        """The use since the last call."""
        memory = psutil.virtual_memory()
        use = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
        }
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            use["system/gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
            use["system/gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
        if not self._gpu_percents:
            self.look()
        percents, self._gpu_percents = self._gpu_percents, []
        if percents:
            use["system/gpu_0_utilization_percentage"] = sum(percents) / len(percents)
        return use


def _gpu_percent(device: torch.device) -> int | None:
    """The share of the last second in which a kernel ran on the GPU; None where nobody tells it: without nvidia-ml-py,
    or of a part of a GPU (MIG)."""
    if device.type != "cuda":
        return None
    try:
        from pynvml import NVMLError
    except ModuleNotFoundError:
        return None
    try:
        return torch.cuda.utilization(device)
    except (NVMLError, RuntimeError):
        return None


class _Pulse:
    """Tells the mailbox, from a thread of its own, that this worker gets on; hears of it what is to become of the run.

    Attributes:
        wishes: what this is.
    """

    def __init__(self, mailbox: Reference, use: _NodeUse) -> None:
        self.wishes = Wishes()
        self._mailbox, self._use = mailbox, use
        self._passes = 0
        self._trains = threading.Event()
        if parallel.rank() == 0:
            threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            passes = self._passes if self._trains.is_set() else None
            if passes is not None:
                self._use.look()
            self.wishes = ray.get(self._mailbox.pulse.remote(passes, self.wishes, _PULSE))

    def count(self, *_: object) -> None:
        """A forward pass begins."""
        self._passes += 1

    @contextmanager
    def training(self) -> Iterator[None]:
        self._passes += 1
        self._trains.set()
        try:
            yield
        finally:
            self._trains.clear()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._trains.clear()
        yield
        self._trains.set()


def _classify(error: Exception) -> Failure:
    """Why a run failed."""
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY)
    return Failure.OUT_OF_MEMORY if memory else Failure.ERROR


def _start(
    run_spec: RunSpec,
    prepared: Prepared,
    how: ModelSettings,
    warm: dict[str, WarmModel],
    device: torch.device,
    pulse: _Pulse,
) -> Run:
    settings = Settings.from_json(run_spec.settings)
    if settings.lora is not None:
        how = replace(how, lora=settings.lora)
    if prepared.model in warm and warm[prepared.model].how != how:
        # Other adapters than the last run's. What was prepared may have been copied to this node.
        prepared = warm.pop(prepared.model).prepared
    if prepared.model not in warm:
        model = warm[prepared.model] = WarmModel(prepared, device, how)
        # Generation passes through the model alone.
        for module in (model.forward, model.model):
            module.register_forward_pre_hook(pulse.count)
    run = Run(warm[prepared.model], settings, keep_best=run_spec.test)
    folder = place(run_spec.checkpoint)
    with store_errors(folder):
        there = folder.exists()
    if there:
        try:
            run.restore(folder)
        except CheckpointError as error:
            # Every rank reads the same file, so every rank starts over.
            print(f"{run_spec.name} starts over: {error}")
            run = Run(warm[prepared.model], settings, keep_best=run_spec.test)
    return run


def _advance(request: TrainRequest, run: Run, stepped: Callable[[], None]) -> TrainResponse:
    assert request.run is not None
    assert request.evaluations is not None
    folder = place(request.run.checkpoint)
    try:
        while len(run.history) < request.evaluations:
            run.advance(stepped)
            _save(run, folder)
    except _Interrupted:
        _save(run, folder)
        return TrainResponse(request.number, {}, interrupted=True)
    except _Discarded:
        return TrainResponse(request.number, {}, discarded=run.tokens)
    last = request.evaluations == run.settings.evaluations
    # A checkpoint may be ahead of the study; the test split is read once.
    test = _tested(run, request.run) if request.run.test and last else None
    return TrainResponse(request.number, run.history[request.evaluations - 1], test=test, last=last)


def _tested(run: Run, run_spec: RunSpec) -> dict[str, Any]:
    def keep(point: str) -> None:
        if (kept := run_spec.keep) is not None and point == kept.point:
            folder = place(kept.folder)
            with _storage(folder):
                run.save_model(folder)

    return run.test(keep)


def _save(run: Run, folder: Place) -> None:
    with _storage(folder):
        run.save(folder)


@contextmanager
def _storage(folder: Place) -> Iterator[None]:
    """Raises StorageError if nothing can be written."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _NO_STORAGE:
            raise StorageError(error.errno, error.strerror, str(folder)) from error
        raise
