"""Searches EntroDrop schedules: which one, for your data and model sizes.

    python -m search.run spaces/math.yaml
    python -m search.run spaces/math.yaml --dry-run                  what it would do
    python -m search.run SPACE --dry-run --gpus 8xH100               what it would do with these GPUs
    python -m search.run spaces/math.yaml --set budget.trials=4      with another value
    python -m search.run spaces/math.yaml --resume                   goes on after an interruption
    python -m search.run spaces/math.yaml --output s3://bucket/runs/math    keeps its files on an object store

Exit codes: 0 done, 1 the search failed, 2 something in the space or the arguments is wrong, 130 interrupted.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from search.environment import ray_address, set_ray_environment, tracking_uri
from search.hardware import ClusterResources, parse_gpus
from search.interruption import EARLY
from search.output.folder import Output, check_outlives_job, default_output, lock_output
from search.output.object_store import open_output
from search.preflight import (
    check_contestants,
    check_fit,
    check_groups,
    check_hub_models,
    check_output,
    grow_cluster,
)
from search.progress import stamped
from search.space import Space, find_space, load
from search.tracking.delivery import adopt_copy
from trainables.config.command_line import CommandLine, configured, invocation, show_any_character
from trainables.config.loader import ConfigFile
from trainables.errors import ConfigError, one_line
from trainables.storage.files import StorageError, is_url

if TYPE_CHECKING:
    # torch takes seconds to import: what is wrong with a space is told before that.
    from search.scheduling.allocation import Allocation
    from trainables.data.documents import Splits


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    show_any_character()
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
        space_file = load(find_space(options.file), options.set)
        if options.dry_run:
            tracking_uri(space_file.config.tracking.uri)
        else:
            output = _open_output(space_file, options, stack)
            check_output(space_file, output.folder, options.resume)
        planned_for = _describe_cluster(space_file, options)
        if not options.dry_run:
            check_hub_models(space_file)
        splits = _splits(space_file, options.dry_run)
        check_contestants(space_file)
        if splits is not None:
            check_groups(space_file, splits)
        # A cluster is asked when the search joins it; this machine is known before anything is started.
        here = None
        if planned_for is None and not ray_address():
            here = ClusterResources.here(with_gpus=space_file.config.resources.gpus_per_worker > 0)
            check_fit(space_file, here)
        if options.dry_run:
            from rich.console import Console

            from search.plan import plan
            from trainables.errors import DataError

            console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
            coloured = console.is_terminal and not console.no_color
            try:
                lines = plan(space_file.config, splits, planned_for or here or _probe_cluster(space_file), coloured)
            except DataError as error:
                raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None
            for line in lines:
                console.print(line)
            return 0
        assert splits is not None
        allotments = None if here is None else _allot(space_file, here)
        set_ray_environment()
        # The console takes seconds to load.
        print("starting" if sys.stdout.isatty() else stamped("starting"), flush=True)
        from search.session import run_session

        def allot(there: ClusterResources | None) -> "dict[str, Allocation]":
            if allotments is not None:
                return allotments
            assert there is not None
            return _allot(space_file, grow_cluster(space_file, there))

        with lock_output(output.folder):
            # Another search may have begun there meanwhile.
            check_output(space_file, output.folder, options.resume)
            if options.watch is not None:
                from search.watch import serve_beside

                print(f"page: {stack.enter_context(serve_beside(output.folder, options.watch))}", flush=True)
            return run_session(space_file, splits, output, allot, CommandLine.of(options, "search.run"))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(EARLY, file=sys.stderr)
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.run"),
        description="Finds which EntroDrop schedule to fine-tune with, for each model of a search space.",
    )
    configured(parser, "SPACE", "the search space: a YAML file, or the name of an example, such as math", "runs")
    parser.add_argument("--dry-run", action="store_true", help="check the space and print the plan")
    parser.add_argument(
        "--watch", metavar="PORT", type=int, nargs="?", const=0, help="serve a page that follows the search"
    )
    parser.add_argument("--gpus", metavar="NxNAME", help="with --dry-run: plan for these GPUs, such as 8xH100")
    return parser.parse_args(arguments)


def _open_output(space_file: ConfigFile[Space], options: argparse.Namespace, stack: ExitStack) -> Output:
    """The output of the search; raises ConfigError if it cannot be used, or would be lost."""
    space = space_file.config
    text = options.output or str(default_output(space.name))
    check_outlives_job(None if is_url(text) else Path(text), space.tracking.uri, space.study.storage)
    return stack.enter_context(open_output(text, adopt_copy if options.resume else None))


def _describe_cluster(space_file: ConfigFile[Space], options: argparse.Namespace) -> ClusterResources | None:
    """The cluster that --gpus describes, or resources.autoscaler for a plan where no cluster is joined.

    Raises:
        ConfigError: it describes none, nothing is planned for it, or the space does not fit on it.
    """
    if options.gpus is None:
        grows = space_file.config.resources.autoscaler
        if grows is None or ray_address():
            return None
        if options.dry_run:
            return grow_cluster(space_file, ClusterResources({}))
        problem = "no cluster is joined, as RAY_ADDRESS is not set; set it, or write null here"
        raise space_file.error("resources.autoscaler", problem)
    if not options.dry_run:
        raise ConfigError("--gpus: this is for a plan; add --dry-run")
    try:
        cluster = ClusterResources.of_gpus(*parse_gpus(options.gpus))
    except ValueError as error:
        raise ConfigError(f"--gpus: given {one_line(options.gpus)}; allowed: {error}") from None
    if not space_file.config.resources.gpus_per_worker:
        raise space_file.error("resources.gpus_per_worker", 0, "above 0, with --gpus")
    check_fit(space_file, cluster)
    return cluster


def _splits(space_file: ConfigFile[Space], dry_run: bool) -> "Splits | None":
    """The documents; of a plan those that are not on the hub, or None: it downloads only what it needs for a count."""
    from trainables.config.data import is_on_hub, stated_count
    from trainables.config.to_settings import splits_of
    from trainables.errors import DataError

    space = space_file.config
    sizes = (space.data.train, space.data.validation, space.data.test)
    if dry_run and is_on_hub(space.data) and None not in map(stated_count, sizes):
        return None
    if dry_run and space.general is not None and is_on_hub(space.general):
        space = space.model_copy(update={"general": None})
    try:
        return splits_of(space)
    except DataError as error:
        raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None


def _allot(space_file: ConfigFile[Space], cluster: ClusterResources) -> "dict[str, Allocation]":
    """The workers and slots that each model gets; raises ConfigError if one does not fit."""
    from search.scheduling.allocation import allocate
    from trainables.errors import DataError

    space = space_file.config
    try:
        return {model: allocate(space, model, cluster) for model in space.models}
    except DataError as error:
        raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None


def _probe_cluster(space_file: ConfigFile[Space]) -> ClusterResources:
    """The cluster that RAY_ADDRESS names, for a plan; ConfigError if it cannot be joined, or the slots do not fit on
    it."""
    from search.cluster.node_checks import probe_cluster
    from search.cluster.ray_runtime import join_or_start_ray

    with join_or_start_ray(Path()):
        there = probe_cluster(space_file.config.resources.gpus_per_worker > 0, partial(print, file=sys.stderr))
        return grow_cluster(space_file, there)


if __name__ == "__main__":
    code = main()
    # As it ends Python looks through all objects once more: of torch, Ray and MLflow, for seconds.
    gc.freeze()
    sys.exit(code)
