"""The Ray that a search runs on: a cluster that RAY_ADDRESS names, or one of its own on this machine."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

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
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    folder = None if address else _temporary(output)
    try:
        # Ray's workers import from this process's current folder first, where a file search.py would hide the package.
        with chdir(_ROOT):
            if address:
                _join(address)
            else:
                ray.init(
                    address="local",
                    num_cpus=count_local_cpus(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    _temp_dir=str(folder),
                )
        yield folder
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def set_environment() -> None:
    """Sets what Ray reads from the environment, where nobody has; to be called before Ray is imported."""
    for name, value in ray_environment().items():
        os.environ.setdefault(name, value)


def ray_environment() -> dict[str, str]:
    """Environment variables that Ray reads, some of them when it is imported."""
    alone = {
        # Not a cluster, in spite of the name: its servers listen on loopback only, as they do on a Mac.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # By default 15: any other process that computes would starve the workers.
        "RAY_worker_niceness": "0",
    }
    return {
        **({} if os.environ.get("RAY_ADDRESS") else alone),
        # The study, MLflow and the report hold what Tune's own loggers would write for each trial.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # The old output engine is silent at verbosity 0; the new one prints a banner.
        "RAY_AIR_NEW_OUTPUT": "0",
        # What Ray itself says of a node that is lost goes to the same lines as the search's.
        "RAY_COLOR_PREFIX": "0",
        # Ray warns of more starting processes than cores; a slot has six, most of them idle ever after.
        "RAY_worker_maximum_startup_concurrency": "8",
        # search/interruption.py listens.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        # Tune would start a trial again by itself whose node the cluster took away; the Tune adapter does.
        "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    }


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
