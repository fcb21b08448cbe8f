"""What all slots of a search share: their configuration, and the signal that ends them."""

from dataclasses import dataclass
from pathlib import Path

import ray

from trainables.settings import ModelSettings
from trainables.slots.mailbox import Reference


@dataclass(frozen=True)
class SlotConfig:
    """What all slots of a search share.

    Attributes:
        workers: Ray Train workers of a slot, the ranks of its process group.
        cpus, gpus: of each worker; a worker uses `cpus` threads. With less than 1 of a GPU, workers of several slots
            share one, and its memory.
        placement: "pack" or "spread", how the workers lie over nodes, as far as these have room.
        prepared: for each model, the reference to its `Prepared`.
        how: how the workers build a model.
        cache: folder for copies of what was prepared, on nodes that do not see where it lies.
        stop_signal: the search's `StopSignal`.
        restarts: worker groups that a trial may lose before it fails.
        hang_s: seconds without a forward pass after which a trial fails.
        source: handle of a `trainables.slots.node_copies.FileServer` on the node where it was prepared; None: there is
            no other node.
    """

    workers: int
    cpus: int
    gpus: float
    placement: str
    prepared: dict[str, Reference]
    how: ModelSettings
    cache: Path
    stop_signal: Reference
    restarts: int = 2
    hang_s: float = 1800.0
    source: Reference | None = None


# All slots of a search ask it. If its process is lost, Ray starts it again, and the search tells it anew.
@ray.remote(num_cpus=0, max_restarts=-1)
class StopSignal:
    """Set when the search is interrupted; and says which slots are to exit when the cluster has no room for all."""

    def __init__(self) -> None:
        self._stopped = False
        self._excess, self._last_number = 0, 0

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped

    def shrink(self, excess: int, number: int) -> None:
        """So many slots are to exit, of those that have no workers.

        Args:
            number: of what is told, from 1; the same is told again and again.
        """
        if number != self._last_number:
            self._excess, self._last_number = excess, number

    def should_exit(self) -> bool:
        """Whether the slot that asks, which has no workers, is to exit."""
        self._excess -= (exits := self._excess > 0)
        return exits
