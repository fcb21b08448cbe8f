"""Searches EntroDrop schedules: which one, for your data and model sizes.

    python -m search.run spaces/math.yaml
    python -m search.run spaces/math.yaml --dry-run                  what it would do
    python -m search.run spaces/math.yaml --set budget.trials=4      with another value
    python -m search.run spaces/math.yaml --resume                   goes on after an interruption
    python -m search.run spaces/math.yaml --output s3://bucket/runs/math    keeps its files on an object store

Exit codes: 0 done, 1 the search failed, 2 something in the space or the arguments is wrong, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.arms import BASELINE
from search.folder import RESOLVED
from search.lock import NAME as LOCK
from search.machine import local_resources
from search.mirror import opened
from search.space import Space, load, to_store
from trainables.config.command_line import configured, resume_command
from trainables.config.errors import one_line, shown
from trainables.config.file import ConfigError, ConfigFile
from trainables.config.yaml_lines import YamlError, read
from trainables.storage import StorageError

if TYPE_CHECKING:
    # torch takes seconds to import: what is wrong with a space is told before that.
    from trainables.documents import Splits

# What a search that goes on may have more of than it began with, and the blocks that may change: what it runs on.
_MAY_GROW = ("budget.trials", "budget.tokens", "budget.hours", "budget.device_hours")
_MAY_CHANGE = ("resources", "faults", "tracking")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        with ExitStack() as stack:
            return _main(options, stack)
    except StorageError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted while the output was copied", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace, stack: ExitStack) -> int:
    try:
        space_file = load(options.file, options.set)
        if not options.dry_run:
            output = stack.enter_context(opened(options.output or f"runs/{space_file.config.name}", options.resume))
            _check_output(space_file, output.folder, options.resume)
        splits = _splits(space_file)
        _check_contestants(space_file)
        # A cluster is asked when the search joins it; this machine is known before anything is started.
        if not os.environ.get("RAY_ADDRESS"):
            _check_resources(space_file, local_resources(with_gpus=space_file.config.resources.gpus_per_worker > 0))
        if options.dry_run:
            from search.plan import plan
            from trainables.documents import DataError

            try:
                lines = plan(space_file.config, splits, _resources(space_file))
            except DataError as error:
                raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None
            print("\n".join(lines))
            return 0
        from search.cluster import set_environment

        set_environment(space_file.config.resources.slots)
        from search.session import run_session

        return run_session(
            space_file,
            splits,
            output,
            lambda there: _check_resources(space_file, there),
            resume_command(options, "search.run"),
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first trial", file=sys.stderr)
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.run",
        description="Finds which EntroDrop schedule to fine-tune with, for each model of a search space.",
    )
    configured(parser, "SPACE", "the search space, a YAML file", "runs")
    parser.add_argument("--dry-run", action="store_true", help="check the space and print the plan")
    return parser.parse_args(arguments)


def _check_output(space_file: ConfigFile[Space], output: Path, resume: bool) -> None:
    """An output folder is new, or it holds this search and the person wants to go on with it."""
    if not resume:
        try:
            holds_something = output.exists() and (
                not output.is_dir() or any(path.name != LOCK for path in output.iterdir())
            )
        except OSError as error:
            raise ConfigError(
                f"--output: given {one_line(str(output))}; allowed: a folder ({error.strerror})"
            ) from None
        if holds_something:
            raise ConfigError(
                f"--output: given {output}, which already holds something; allowed: a new folder, "
                "or --resume to go on with the search in it"
            )
        return
    before, now = _began_with(output), to_store(space_file.config)
    for changed, was, given in _changes(before, now):
        if changed.partition(".")[0] in _MAY_CHANGE:
            continue
        if changed not in _MAY_GROW:
            allowed = f"{shown(was)}, as it was; with --resume, only {', '.join(_MAY_GROW)} may grow"
            raise space_file.error(changed, shown(given), f"{allowed}, and {', '.join(_MAY_CHANGE)} may change")
        if was is not None and not isinstance(was, int | float):
            path = output / RESOLVED
            raise ConfigError(f"--resume: {path}: {changed}: given {one_line(shown(was))}; allowed: a number or null")
        # null is no limit.
        if given is not None and (was is None or given < was):
            allowed = "null, as it was" if was is None else f"at least {was}"
            raise space_file.error(changed, given, f"with --resume, {allowed}")


def _began_with(output: Path) -> dict[str, Any]:
    """The space that the search in `output` began with, as resolved.yaml has it: without secrets.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = output / RESOLVED
    try:
        there = path.is_file()
        text = path.read_text(encoding="utf-8") if there else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        given = one_line(str(path))
        raise ConfigError(f"--resume: given {given}; allowed: a file that can be read ({reason})") from None
    if not there:
        raise ConfigError(f"--resume: given {output}, which holds no search; allowed: the folder of a search")
    try:
        before, _ = read(text)
    except YamlError as error:
        given = one_line(error.given)
        raise ConfigError(
            f"--resume: {path}:{error.line}: given {given}; allowed: the file as the search wrote it"
        ) from None
    if not isinstance(before, dict) or not isinstance(before.get("budget"), dict):
        raise ConfigError(f"--resume: given {path}, which holds no space; allowed: the file as the search wrote it")
    return before


def _changes(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted paths of the values that differ, each with what it was and what it is."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [c for key in keys for c in _changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)]
    return [] if before == now else [(path, before, now)]


def _splits(space_file: ConfigFile[Space]) -> "Splits":
    from trainables.config.build import splits_of
    from trainables.documents import DataError

    try:
        return splits_of(space_file.config)
    except DataError as error:
        raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None


def _check_contestants(space_file: ConfigFile[Space]) -> None:
    """Raises ConfigError if more settings are asked to be confirmed than any arm has trials."""
    from search.studies.arms import arms_of

    space = space_file.config
    if space.confirmation is None or "best" not in space.confirmation.model_fields_set:
        return
    most = max(1, *(arm.trials for arm in arms_of(space) if arm.name != BASELINE))
    if space.confirmation.best > most:
        allowed = f"at most {most}, the trials of an arm: where nothing is searched there is one"
        raise space_file.error("confirmation.best", space.confirmation.best, allowed)


def _resources(space_file: ConfigFile[Space]) -> dict[str, float]:
    """What there is on the cluster that the search would run on."""
    if os.environ.get("RAY_ADDRESS"):
        from search.cluster import resources

        there = resources()
        _check_resources(space_file, there)
        return there
    return local_resources(with_gpus=space_file.config.resources.gpus_per_worker > 0)


def _check_resources(space_file: ConfigFile[Space], cluster: dict[str, float]) -> None:
    """Raises ConfigError if the slots do not fit on the cluster."""
    resources = space_file.config.resources
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        there = cluster.get(kind, 0.0)
        if each > there:
            raise space_file.error(
                f"resources.{kind.lower()}s_per_worker", each, f"at most {there:g}, the {kind}s there are"
            )
        if resources.workers * each > there:
            raise space_file.error(
                "resources.workers",
                resources.workers,
                f"at most {there // each:g}: each takes {each} of the {there:g} {kind}s there are",
            )
        if resources.slots * resources.workers * each > there:
            raise space_file.error(
                "resources.slots",
                resources.slots,
                f"at most {there // (resources.workers * each):g}: each takes {resources.workers * each} "
                f"of the {there:g} {kind}s there are",
            )


if __name__ == "__main__":
    sys.exit(main())
