"""The environment variables that a search reads, and those that it sets for Ray and MLflow where nobody has.

What `trainables` reads and sets: storage/cache.py that of the cache, finetune.py those of torchrun,
slots/worker_group.py those of Ray Train's workers.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from trainables.errors import ConfigError, one_line

# How the URI of a database file begins.
SQLITE = "sqlite:///"
# What MLflow keeps runs in; it has given up folders.
_MLFLOW_STORES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
MLFLOW_URI = "sqlite:///PATH, or the address of an MLflow server"
_MLFLOW = {
    # MLflow's own retries would hold up the queue for minutes without saying so, and make a run twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # With a server, MLflow prints the address of each run that ends, into the live table.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def ray_address() -> str | None:
    """The cluster that the search joins; None: it starts a Ray of its own."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def mlflow_address() -> str | None:
    """Where MLflow records, for a space that does not say."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def set_mlflow_address(uri: str) -> None:
    os.environ.setdefault("MLFLOW_TRACKING_URI", uri)


def is_mlflow_uri(uri: str) -> bool:
    scheme, _, rest = uri.partition(":")
    store = scheme.partition("+")[0]
    # A database needs a third slash before its path, a server a name.
    return store in _MLFLOW_STORES and (
        rest.startswith("///") if store == "sqlite" else not store.startswith("http") or bool(urlsplit(uri).hostname)
    )


def tracking_uri(uri: str | None, writes: bool = True) -> str:
    """`uri`, or else MLFLOW_TRACKING_URI, or MLflow's default; a relative SQLite file is under the current folder.

    Args:
        writes: whether runs are to be written there.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI is something that MLflow keeps no runs in; a SQLite file that cannot be
            written, for which MLflow would try for minutes.
    """
    given = uri or mlflow_address() or f"{SQLITE}mlflow.db"
    setting = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    if not uri and not is_mlflow_uri(given):
        raise ConfigError(f"{setting}: given {one_line(given)}; allowed: {MLFLOW_URI}")
    if not given.startswith(SQLITE):
        return given
    path = Path(given.removeprefix(SQLITE)).absolute()
    # What follows a question mark are options of the driver, so SQLAlchemy.
    if "?" in str(path):
        problem = f"{one_line(str(path))} has a question mark, which no SQLite address can have"
        raise ConfigError(f"{setting}: {problem}; name a file in another folder")
    # What os.path may not look at is not there: Path raises.
    there = next(place for place in (path, *path.parents) if os.path.exists(place))
    wrong = "cannot be written" if writes and not os.access(there, os.W_OK) else None
    if os.path.isdir(path):
        wrong = "is a folder"
    elif there != path and not os.path.isdir(there):
        wrong = f"lies below {there.name}, which is no folder"
    if wrong:
        raise ConfigError(f"{setting}: the SQLite file {one_line(str(path))} {wrong}; name another one")
    return f"{SQLITE}{path}"


def set_mlflow_environment() -> None:
    """To be called before MLflow is imported."""
    _set(_MLFLOW)


def set_ray_environment() -> None:
    """To be called before Ray is imported."""
    _set(ray_environment())


def is_ray_token_given() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ


def make_ray_token() -> None:
    """A token for the servers of this search's Ray alone."""
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def set_pending_slots(slots: int) -> None:
    """All slots start at the same time; by default a searcher's trials would wait for one another."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)


def ray_environment() -> dict[str, str]:
    alone = {
        # Not a cluster, in spite of the name: its servers listen on loopback only, as they do on a Mac.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # By default 15: any other process that computes would starve the workers.
        "RAY_worker_niceness": "0",
    }
    return {
        **({} if ray_address() else alone),
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


def _set(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
