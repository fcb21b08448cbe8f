"""The output folder of a search: its files, its lock, and where it may be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from search.environment import SQLITE, set_mlflow_address, tracking_uri
from trainables.errors import ConfigError, mask_secrets, one_line
from trainables.storage.cache import default_root
from trainables.storage.files import Place, remove

SPACE, RESOLVED = "space.yaml", "resolved.yaml"
EVENTS, CURSOR, JOURNAL = "events.jsonl", "mlflow.cursor", "study.journal"
SUMMARY, REPORT, MODELS, CHECKPOINTS = "summary.json", "report.html", "models", "checkpoints"
LOCK = ".lock"
# Seconds that a search waits for the lock.
_PATIENCE_S = 1.0
# Ray unpacks what `ray job submit --working-dir` sent into a folder inside of one with this name, and removes it after
# the job (ray/_private/runtime_env/working_dir.py).
_UNPACKED = "working_dir_files"


@dataclass(frozen=True)
class Output:
    """Where a search keeps what it makes.

    Attributes:
        folder: that the driver works in.
        place: that the person named: the folder, or a URL that the folder is copied to.
        remove: removes the checkpoint of a trial that has ended.
    """

    folder: Path
    place: Place
    remove: Callable[[Place], None] = remove

    @property
    def checkpoints(self) -> Place:
        """Of the trials, for all nodes."""
        return self._of_all(CHECKPOINTS)

    @property
    def models(self) -> Place:
        """That trials leave behind, for all nodes."""
        return self._of_all(MODELS)

    def _of_all(self, name: str) -> Place:
        place = self.place / name
        return place.absolute() if isinstance(place, Path) else place

    def __str__(self) -> str:
        return mask_secrets(str(self.place))


def check_search_folder(folder: Path, *names: str) -> None:
    """Raises ConfigError if a file that a search keeps is not in `folder`."""
    try:
        holds = all((folder / name).is_file() for name in names)
    except OSError as error:
        given = one_line(str(folder))
        raise ConfigError(
            f"DIR: {given} cannot be read ({error.strerror}); name the output folder of a search"
        ) from None
    if not holds:
        raise ConfigError(f"DIR: {folder} holds no search; name the output folder of one")


@contextmanager
def lock_output(output: Path, shown: str | None = None) -> Iterator[None]:
    """Holds the folder `output`, which is made if it does not exist; the lock ends with the process that holds it.

    Args:
        shown: what the person named, if that is not `output`.

    Raises:
        ConfigError: another search runs in it, or it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / LOCK)
        # Not at once: `is_locked` of another process holds it for a moment.
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout:
        raise ConfigError(f"--output: another search is running in {shown or output}; name another folder") from None
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"--output: {output} cannot be written ({reason}); name another folder") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(output: Path) -> bool:
    """Whether a search runs in `output`, as far as this machine can tell."""
    if not (output / LOCK).exists():
        return False
    try:
        with FileLock(output / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # A folder that may be read and not written: its search is another person's.
        return True


def default_output(name: str) -> Path:
    """Where a search of this name is kept if nothing else is said: in runs/; of a job, in the cache, as is then what
    MLflow records."""
    if not _is_fleeting(Path()):
        return Path("runs") / name
    root = default_root()
    set_mlflow_address(f"{SQLITE}{root}/mlflow.db")
    return root / "runs" / name


def check_outlives_job(output: Path | None, uri: str | None, studies: str | None = None) -> None:
    """Looks where a search is about to write.

    Args:
        output: its folder; None for a URL.
        uri, studies: `tracking.uri` and `study.storage` of its space.

    Raises:
        ConfigError: into a job's working folder; a line for each thing.
    """
    wrong = []
    if output is not None and _is_fleeting(output):
        wrong.append(
            f"--output: {output} is in the working folder of a Ray job, which ends with it; "
            "name an absolute path, on storage that all nodes share, or a URL"
        )
    store = tracking_uri(uri)
    if store.startswith(SQLITE) and _is_fleeting(Path(store.removeprefix(SQLITE))):
        setting = "MLFLOW_TRACKING_URI" if uri is None else "tracking.uri"
        wrong.append(
            f"{setting}: {store} is in the working folder of a Ray job, which ends with it; "
            "name a server's address, or sqlite:/// with an absolute path"
        )
    if studies is not None and studies.startswith(SQLITE) and _is_fleeting(Path(studies.removeprefix(SQLITE))):
        wrong.append(
            f"study.storage: {studies} is in the working folder of a Ray job, which ends with it; "
            "name a server's address, or sqlite:/// with an absolute path"
        )
    if wrong:
        raise ConfigError("\n".join(wrong))


def _is_fleeting(path: Path) -> bool:
    return _UNPACKED in path.absolute().parts
