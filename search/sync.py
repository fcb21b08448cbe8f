"""Delivers to MLflow what a search recorded while MLflow was away.

    python -m search.sync runs/math
    python -m search.sync runs/math --timeout 3600      waits up to an hour for MLflow to come back

To be started where the search was started, if its space names no tracking.uri, and with the same MLFLOW_TRACKING_URI;
with MLFLOW_TRACKING_URI as well if tracking.uri held a password, which the folder does not keep.

Exit codes: 0 nothing is left, 1 MLflow is still away or refused something, 2 something in the arguments is wrong,
130 interrupted.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from search.environment import mlflow_address
from search.output.events import Events
from search.output.folder import EVENTS, RESOLVED, check_search_folder, lock_output
from search.output.object_store import open_output
from search.space import Tracking
from search.tracking.delivery import Delivery, adopt_copy
from search.tracking.mlflow_runs import describe_pages
from trainables.config.command_line import exit_code, invocation
from trainables.config.yaml_values import YamlError, read
from trainables.errors import ConfigError, mask_secrets


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    interrupted = f"interrupted; go on with: {sync_command(mask_secrets(options.folder))}"
    return exit_code(lambda: _sync(options.folder, options.timeout), interrupted)


def sync_command(output: str) -> str:
    """The command that delivers what the search in `output` has left."""
    return f"{invocation('search.sync')} {shlex.quote(output)}"


def describe_undelivered(delivery: Delivery) -> str:
    """What MLflow has not taken, and why."""
    return f"MLflow has not taken {_count(delivery.undelivered)}: {delivery.last_error or 'it has not answered yet'}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.sync"),
        description="Delivers to MLflow what a search recorded while MLflow was away.",
    )
    parser.add_argument("folder", metavar="DIR", help="the output folder of the search, or its URL")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="how long to wait for MLflow to take the next event (default: %(default)g)",
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"given {text}; allowed: seconds, above 0")


def _sync(text: str, timeout: float) -> int:
    with open_output(text, adopt_copy) as output:
        check_search_folder(output.folder, RESOLVED, EVENTS)
        with lock_output(output.folder):
            return _deliver(output.folder, timeout)


def _deliver(folder: Path, timeout: float) -> int:
    tracking = _tracking(folder / RESOLVED)
    uri = tracking.uri
    if uri is not None and "***" in uri:
        # The folder holds no password.
        uri = mlflow_address()
        if uri is None:
            raise ConfigError(
                f"MLFLOW_TRACKING_URI: the folder keeps no password; set this to {tracking.uri} with its password"
            )
    # What is wrong with the file is told before anything is sent.
    Events(folder / EVENTS).hand_to(lambda _: None)
    delivery = Delivery(uri, tracking.experiment, folder / EVENTS)
    left = delivery.left
    while not delivery.flush(timeout, away=timeout) and delivery.undelivered < left:
        left = delivery.undelivered
    delivered = delivery.close(0)
    print(f"delivered {_count(delivery.left - delivery.undelivered)} to {mask_secrets(delivery.tracking_uri)}")
    if delivery.pages:
        print("\n".join(describe_pages(delivery.tracking_uri, delivery.pages)))
    if not delivered:
        print(describe_undelivered(delivery), file=sys.stderr)
    return 0 if delivered else 1


def _tracking(resolved: Path) -> Tracking:
    try:
        values, _ = read(resolved.read_text(encoding="utf-8"))
        return Tracking.model_validate(values["tracking"])
    except (YamlError, UnicodeDecodeError, KeyError, TypeError, ValidationError):
        raise ConfigError(f"{resolved} has no block tracking; put the file back as the search wrote it") from None


def _count(events: int) -> str:
    return f"{events} event{'' if events == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
