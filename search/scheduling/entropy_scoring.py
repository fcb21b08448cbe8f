"""Entropies computed on all devices of a cluster at once."""

from collections.abc import Callable
from pathlib import Path

import ray
import torch
from ray.util import ActorPool
from torch import Tensor

from trainables.data.packing import Packed
from trainables.forward import ROWS
from trainables.models.resolve import model_files, parameters_of
from trainables.preparation.scoring import CPU, FolderModel, score_folder
from trainables.slots.mailbox import Reference
from trainables.slots.node_copies import local_folder

# One process scores this in about a minute on a core; starting others takes some ten seconds.
_WORTH_SPREADING = 1e12
_RESTARTS = 3
# A fixed number of threads gives the same entropies, to the last digit, whatever the machine.
THREADS = 1


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
class _Device:
    """One GPU or one core, with the model on it."""

    def __init__(
        self,
        folder: Path,
        files: dict[str, str],
        packed: Packed,
        one_document_a_row: bool,
        gpu: bool,
        source: Reference | None,
        cache: Path,
        made_on: str,
    ) -> None:
        torch.set_num_threads(THREADS)
        self._packed = packed
        # The process that starts all these has just looked at the files on its own node.
        on_same_node = ray.get_runtime_context().get_node_id() == made_on
        here = folder if on_same_node else local_folder(folder, files, source, cache)
        # Ray hides no GPU from an actor that has none.
        self._model = FolderModel(here, one_document_a_row, torch.device("cuda") if gpu else CPU)

    def score(self, rows: slice) -> tuple[Tensor, Tensor]:
        return self._model.score(self._packed[rows])


def score_on_all_devices(
    folder: Path,
    packed: Packed,
    one_document_a_row: bool,
    progress: Callable[[float], None],
    gpus: bool,
    source: Reference | None,
    cache: Path,
) -> tuple[Tensor, Tensor]:
    """`score_folder` over all devices of the cluster, with the same result whatever their number.

    Args:
        gpus: whether to compute on GPUs; they must be free.
        source, cache: see trainables.slots.node_copies.local_copy.

    Raises:
        ModelError: the model cannot score such rows.
    """
    rows = len(packed.token_RT)
    operations = 2.0 * parameters_of(folder) * packed.tokens
    # A cluster may begin without any; its autoscaler brings one for the first.
    there = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
    devices = min(there, -(-rows // ROWS))
    if not gpus and (operations < _WORTH_SPREADING or devices < 2):
        return score_folder(folder, packed, one_document_a_row, progress)
    # Workers of the slots hold the CPUs, and wait for these entropies: an actor takes what they leave idle.
    # One whose node dies starts again on another.
    options = {"num_gpus": 1 if gpus else 0, "max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
    shared, files = ray.put(packed), model_files(folder)
    device = _Device.options(**options)  # type: ignore[attr-defined]
    made_on = ray.get_runtime_context().get_node_id()
    given = (folder, files, shared, one_document_a_row, gpus, source, cache, made_on)
    actors = [device.remote(*given) for _ in range(devices)]
    # A whole batch at a time: what it holds does not depend on the actors, and no actor ends long before another.
    batches = [slice(start, start + ROWS) for start in range(0, rows, ROWS)]
    parts = []
    try:
        for part in ActorPool(actors).map(lambda actor, batch: actor.score.remote(batch), batches):
            parts.append(part)
            progress(len(parts) / len(batches))
    finally:
        for actor in actors:
            ray.kill(actor)
    entropies, losses = zip(*parts, strict=True)
    return torch.cat(entropies), torch.cat(losses)
