"""A control group of Linux whose processes the kernel ends when they take more than some megabytes."""

import os
from contextlib import suppress
from pathlib import Path

# Of the first and of the second version of control groups.
_FIRST = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.swappiness"
_SECOND = Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"
_BYTES = 64 * 2**20


class StarvedGroup:
    """An empty one.

    Raises:
        OSError: this system has none, or it takes its administrator's rights.
    """

    def __init__(self) -> None:
        parent, limit, swap = _FIRST if _FIRST[0].is_dir() else _SECOND
        self._folder = parent / f"starved-{os.getpid()}"
        self._folder.mkdir()
        with suppress(OSError):
            (self._folder / swap).write_text("0")
        try:
            (self._folder / limit).write_text(str(_BYTES))
        except OSError:
            self._folder.rmdir()
            raise

    def die(self) -> None:
        """Ends the process that calls it: it enters the group and takes too much."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        taken = b"x" * (2 * _BYTES)
        raise AssertionError(f"the kernel gave {len(taken)} bytes")

    def close(self) -> None:
        self._folder.rmdir()
