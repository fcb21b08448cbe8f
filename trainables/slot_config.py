"""What all slots of a search share."""

from dataclasses import dataclass
from pathlib import Path

from trainables.mailbox import Reference
from trainables.settings import ModelSettings


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
        bell: the search's `trainables.mailbox.Bell`.
        restarts: worker groups that a trial may lose before it fails.
        hang_s: seconds without a forward pass after which a trial fails.
        source: handle of a `trainables.copies.Source` on the node where it was prepared; None: there is no other node.
    """

    workers: int
    cpus: int
    gpus: float
    placement: str
    prepared: dict[str, Reference]
    how: ModelSettings
    cache: Path
    bell: Reference
    restarts: int = 2
    hang_s: float = 1800.0
    source: Reference | None = None
