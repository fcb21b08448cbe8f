"""Delivers to MLflow what a search recorded while MLflow was away.

    python -m search.sync runs/math
    python -m search.sync runs/math --timeout 3600      waits up to an hour for MLflow to come back

To be started where the search was started, if its space names no tracking.uri, and with the same MLFLOW_TRACKING_URI;
with MLFLOW_TRACKING_URI as well if tracking.uri held a password, which the folder does not keep.

Exit codes: 0 nothing is left, 1 MLflow is still away or refused something, 2 something in the arguments is wrong,
130 interrupted.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from search.output.folder import OUTBOX, RESOLVED, check_search_folder, lock_output
from search.output.object_store import open_output
from search.space import Tracking
from search.tracking import Tracker
from trainables.config.command_line import exit_code
from trainables.config.yaml_values import YamlError, read
from trainables.errors import ConfigError, mask_secrets


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    interrupted = f"interrupted; go on with: {sync_command(mask_secrets(options.folder))}"
    return exit_code(lambda: _sync(options.folder, options.timeout), interrupted)


def sync_command(output: str) -> str:
    """The command that delivers what the search in `output` has left."""
    return shlex.join(["python", "-m", "search.sync", output])


def undelivered(tracker: Tracker) -> str:
    """What MLflow has not taken, and why."""
    return f"MLflow has not taken {_records(tracker.undelivered)}: {tracker.last_error or 'it has not answered yet'}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.sync",
        description="Delivers to MLflow what a search recorded while MLflow was away.",
    )
    parser.add_argument("folder", metavar="DIR", help="the output folder of the search, or its URL")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="how long to wait for MLflow to take the next record (default: %(default)g)",
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"given {text}; allowed: seconds, above 0")


def _sync(text: str, timeout: float) -> int:
    with open_output(text, resume=True) as output:
        check_search_folder(output.folder, RESOLVED, OUTBOX)
        with lock_output(output.folder):
            return _deliver(output.folder, timeout)


def _deliver(folder: Path, timeout: float) -> int:
    resolved, outbox = folder / RESOLVED, folder / OUTBOX
    tracking = _tracking(resolved)
    uri = tracking.uri
    if uri is not None and "***" in uri:
        # The folder holds no password.
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise ConfigError(
                f"MLFLOW_TRACKING_URI: the folder keeps no password; set this to {tracking.uri} with its password"
            )
    tracker = Tracker(uri, tracking.experiment, outbox)
    left = tracker.left
    while not tracker.flush(timeout, away=timeout) and tracker.undelivered < left:
        left = tracker.undelivered
    delivered = tracker.close(0)
    print(f"delivered {_records(tracker.left - tracker.undelivered)} to {mask_secrets(tracker.tracking_uri)}")
    if not delivered:
        print(undelivered(tracker), file=sys.stderr)
    return 0 if delivered else 1


def _tracking(resolved: Path) -> Tracking:
    try:
        values, _ = read(resolved.read_text(encoding="utf-8"))
        return Tracking.model_validate(values["tracking"])
    except (YamlError, UnicodeDecodeError, KeyError, TypeError, ValidationError):
        raise ConfigError(f"{resolved} has no block tracking; put the file back as the search wrote it") from None


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
