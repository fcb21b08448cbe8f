"""What a search keeps must outlive the Ray job that it was submitted as."""

import os
from pathlib import Path

from search.tracking.runs import SQLITE
from search.tracking.tracker import tracking_uri
from trainables.errors import ConfigError
from trainables.storage.cache import default_root

# Ray unpacks what `ray job submit --working-dir` sent into a folder inside of one with this name, and removes it after
# the job (ray/_private/runtime_env/working_dir.py).
_UNPACKED = "working_dir_files"


def default_output(name: str) -> Path:
    """Where a search of this name is kept if nothing else is said: in runs/; of a job, in the cache, as is then what
    MLflow records."""
    if not _fleeting(Path()):
        return Path("runs") / name
    root = default_root()
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"{SQLITE}{root}/mlflow.db")
    return root / "runs" / name


def check_kept(output: Path | None, uri: str | None, studies: str | None = None) -> None:
    """Looks where a search is about to write.

    Args:
        output: its folder; None for a URL.
        uri, studies: `tracking.uri` and `study.storage` of its space.

    Raises:
        ConfigError: into a job's working folder; a line for each thing.
    """
    wrong = []
    if output is not None and _fleeting(output):
        wrong.append(
            f"--output: given {output}, in the working folder of a Ray job, which ends with it; "
            "allowed: an absolute path, on storage that all nodes share, or a URL"
        )
    store = tracking_uri(uri)
    if store.startswith(SQLITE) and _fleeting(Path(store.removeprefix(SQLITE))):
        setting = "MLFLOW_TRACKING_URI" if uri is None else "tracking.uri"
        wrong.append(
            f"{setting}: given {store}, in the working folder of a Ray job, which ends with it; "
            "allowed: a server's address, or sqlite:/// with an absolute path"
        )
    if studies is not None and studies.startswith(SQLITE) and _fleeting(Path(studies.removeprefix(SQLITE))):
        wrong.append(
            f"study.storage: given {studies}, in the working folder of a Ray job, which ends with it; "
            "allowed: a server's address, or sqlite:/// with an absolute path"
        )
    if wrong:
        raise ConfigError("\n".join(wrong))


def _fleeting(path: Path) -> bool:
    return _UNPACKED in path.absolute().parts
