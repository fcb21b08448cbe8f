"""The Ray that a search runs on: a cluster that RAY_ADDRESS names, or one of its own on this machine."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from search.environment import ray_address
from search.hardware import count_local_cpus
from trainables.errors import ConfigError, one_line

# The folder that the packages lie in.
_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def join_or_start_ray(output: Path) -> Iterator[Path | None]:
    """Joins the cluster, or starts Ray, reachable from this machine alone, and gives the folder that it keeps its files
    in; leaves nothing of it behind.

    Args:
        output: of the search, which has one Ray at a time.

    Raises:
        ConfigError: the cluster cannot be joined.
        TimeoutError: this machine is too busy to start Ray.
    """
    import ray

    address = ray_address()
    folder = None if address else _temporary(output)
    try:
        # Ray's workers import from this process's current folder first, where a file search.py would hide the package.
        with chdir(_ROOT):
            if address:
                _join(address)
            else:
                _start(folder)
        yield folder
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path | None) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=count_local_cpus(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=str(folder),
        )
    except Exception as error:
        # Ray gives its own processes half a minute, which no setting changes.
        if "timed out during startup" not in str(error):
            raise
        raise TimeoutError("Ray did not start within 30 seconds: this machine is too busy; end other work") from None


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(log_to_driver=False, logging_level="error")
    # RuntimeError: another version of Ray or Python; RayError: no token, or another one.
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        reason = one_line(" ".join(str(error).split()), 300)
        raise ConfigError(
            f"RAY_ADDRESS: no Ray cluster can be joined at {address!r} ({reason}); name one that runs, or unset it"
        ) from None


def ray_folder(output: Path) -> Path:
    """Where Ray keeps its own files during a search of `output`."""
    name = hashlib.blake2b(str(output.absolute()).encode(), digest_size=6).hexdigest()
    # Short: Ray's sockets are in it, and the path of a socket has at most 107 bytes.
    return Path(tempfile.gettempdir()) / f"ray-{name}"


def _temporary(output: Path) -> Path:
    """A new folder for Ray's own files, in the place of one that a killed search of `output` left."""
    folder = ray_folder(output)
    if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="ray-"))
    return folder
