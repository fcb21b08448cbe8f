"""One search at a time in an output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import ConfigError

NAME = ".lock"
_PATIENCE_S = 1.0


@contextmanager
def output_lock(output: Path, shown: str | None = None) -> Iterator[None]:
    """Holds the folder `output`, which is made if it does not exist; the lock ends with the process that holds it.

    Args:
        shown: what the person named, if that is not `output`.

    Raises:
        ConfigError: another search runs in it, or it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / NAME)
        # Not at once: `is_locked` of another process holds it for a moment.
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout:
        raise ConfigError(
            f"--output: given {shown or output}, where another search is running; allowed: another folder"
        ) from None
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"--output: given {output}; allowed: a folder that can be written ({reason})") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(output: Path) -> bool:
    """Whether a search runs in `output`, as far as this machine can tell."""
    if not (output / NAME).exists():
        return False
    try:
        with FileLock(output / NAME, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # A folder that may be read and not written: its search is another person's.
        return True
