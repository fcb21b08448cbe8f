"""One search from beginning to end: Ray, the preparation, the trials, the results."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from search.cluster.node_checks import check_nodes, list_needed_folders
from search.cluster.ray_runtime import join_or_start_ray
from search.environment import ray_address
from search.hardware import ClusterResources
from search.interruption import EXIT_CODE, Interruption
from search.output.events import Evaluations, Events
from search.output.folder import EVENTS, JOURNAL, REPORT, RESOLVED, SPACE, Output
from search.progress.console import ProgressConsole
from search.recorder import Recorder
from search.results.archive import LoadedSearch
from search.results.costs import describe_costs
from search.results.files import choose_space, describe_result, tabulate_comparison, write_results
from search.results.model_result import ModelResult, open_results
from search.results.next_steps import next_steps
from search.results.registry import register_models
from search.results.summary import median, summarize
from search.scheduling.allocation import Allocation, group_by_allocation, with_allocation
from search.scheduling.preparation import DataPreparation, PreparationWatch
from search.space import EXACT, GENERAL, Space, masked_text, to_store
from search.studies.storage import (
    DATABASE_ERRORS,
    DatabaseError,
    JournalError,
    StudyStorage,
    connect_database,
    describe_error,
    open_journal,
)
from search.sync import describe_undelivered, sync_command
from search.tracking.delivery import Delivery
from search.tracking.mlflow_runs import describe_pages
from trainables.config.command_line import CommandLine
from trainables.config.loader import ConfigFile
from trainables.config.to_settings import model_settings_of, settings_of
from trainables.config.validation_messages import shown
from trainables.config.yaml_values import to_yaml
from trainables.data.documents import Splits, describe_splits, number_groups
from trainables.errors import ConfigError, DataError
from trainables.models.resolve import model_size
from trainables.slots.actors import place_on_this_node
from trainables.slots.shared import SlotConfig, StopSignal
from trainables.storage.cache import default_root
from trainables.storage.files import write_atomic

# Seconds that the end of a search waits for MLflow, once before and once after the results are written; and the end of
# one that was interrupted.
_FLUSH_TIMEOUT, _HURRIED_FLUSH_TIMEOUT = 30.0, 2.0


def run_session(
    space_file: ConfigFile[Space],
    splits: Splits,
    where: Output,
    allot: Callable[[ClusterResources | None], dict[str, Allocation]],
    command: CommandLine,
) -> int:
    """Runs a search, or goes on with the one in `where`. Returns the exit code.

    Args:
        where: locked for this search.
        allot: what each model gets of a cluster that is joined, or of this machine; raises ConfigError if one does not
            fit.

    Raises:
        ConfigError: what only the cluster or the tokenizer could tell.
    """
    space = space_file.config
    output = where.folder
    console = Console(markup=False, highlight=False)
    with Interruption(space.faults.save_seconds) as interruption:
        database = _connect_database(space_file, output)
        note = ProgressConsole(console, {}).note
        if address := ray_address():
            note(f"joining the Ray cluster at {address}")
        try:
            with join_or_start_ray(output) as interruption.temporary, ExitStack() as stack:
                # Ray has a handler of its own for SIGTERM.
                interruption.listen()
                cluster = None
                if address:
                    gpus = space.resources.gpus_per_worker > 0
                    nodes = check_nodes(
                        list_needed_folders(where), interruption.ask, note, lambda: interruption.asked, gpus
                    )
                    cluster = stack.enter_context(nodes)
                allotments = allot(cluster)
                if interruption.asked:
                    raise KeyboardInterrupt
                outcome = _search(space_file, splits, where, database, allotments, console, interruption, command)
        except DataError as error:
            raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None
        except JournalError as error:
            raise ConfigError(f"--resume: the search in {where} is damaged ({error}); name one that is whole") from None
        except DATABASE_ERRORS as error:
            return _give_up(f"study.storage: {describe_error(error)}", output, command)
        except OSError as error:
            # Such as a disk that is full: what is written is whole, and the search can go on.
            return _give_up(error, output, command)
    _print_outcome(outcome, console, space)
    if outcome.interrupted and interruption.reason is not None:
        return _give_up(interruption.reason, output, command)
    if outcome.interrupted:
        print(interruption.last_words, file=sys.stderr)
        return EXIT_CODE
    console.print(f"\nresults: {where}/ ({', '.join(f.name for f in outcome.files)})", soft_wrap=True)
    for line in describe_pages(outcome.tracking_uri, outcome.pages):
        console.print(line, soft_wrap=True)
    return 1 if any(result.searched.best() is None for result in outcome.results) else 0


def _give_up(reason: object, output: Path, command: CommandLine) -> int:
    advice = f"go on with: {command.resumed()}" if (output / RESOLVED).exists() else "start it again"
    print(f"the search cannot go on: {reason}; then {advice}", file=sys.stderr)
    return 1


def _connect_database(space_file: ConfigFile[Space], output: Path) -> StudyStorage | None:
    """The database of the studies, if the space names one.

    Raises:
        ConfigError: a database that cannot be opened, or that holds another search of this name.
    """
    space = space_file.config
    url = space.study.storage
    if url is None:
        return None
    try:
        database = connect_database(url, space.name)
        taken = bool(database.names) and not (output / RESOLVED).exists()
    except (DatabaseError, *DATABASE_ERRORS) as error:
        raise space_file.error(
            "study.storage", f"{shown(url)} cannot be opened ({describe_error(error)}); name a database that can"
        ) from None
    if taken:
        problem = (
            f"study.storage holds a search {shown(space.name)}; choose another name, or --resume with its --output"
        )
        raise space_file.error("name", problem)
    return database


@dataclass(frozen=True)
class _Outcome:
    """What came of a search, so far if it was interrupted."""

    results: list[ModelResult]
    summary: dict[str, Any]
    files: list[Path]
    unregistered: list[str]
    interrupted: bool
    tracking_uri: str
    pages: dict[str, str]


def _search(
    space_file: ConfigFile[Space],
    splits: Splits,
    where: Output,
    database: StudyStorage | None,
    allotments: Mapping[str, Allocation],
    console: Console,
    interruption: Interruption,
    command: CommandLine,
) -> _Outcome:
    began = time.perf_counter()
    space, output = space_file.config, where.folder
    _write_space(space_file, output)
    interruption.last_words = f"interrupted; go on with: {command.resumed()}"
    parameters = {model: model_size(model) for model in space.models}
    models = _small_to_large(parameters)
    storage = database or open_journal(output / JOURNAL)
    results = open_results(storage, {model: with_allocation(space, allotments[model]) for model in models})
    studies = [study for result in results for study in result.studies]
    for result in results:
        if result.confirmed is not None:
            result.confirmed.know_groups(number_groups(splits.test), number_groups(splits.general))
    planned = {study.name: study.planned for study in studies}
    delivery = Delivery(space.tracking.uri, space.tracking.experiment, output / EVENTS)
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressConsole(console, planned))
        interruption.tell = delivery.note = progress.note
        if (output / EVENTS).is_file():
            Events(output / EVENTS).hand_to(progress.state.follow)
            progress.state.begin(planned)
        record = stack.enter_context(_recording(progress, delivery, output / EVENTS))
        record.search_started(space, planned, command.resumed())
        if not space.resources.gpus_per_worker and ray.cluster_resources().get("GPU"):
            progress.note("there are GPUs, and the search trains on CPUs: resources.gpus_per_worker is 0")
        for line in describe_splits(splits):
            progress.note(line)
        preparation = DataPreparation(space, splits, models)
        full_tokens = cache(partial(_full_tokens, space, preparation, record, progress))

        def note(line: str) -> None:
            progress.note(line)
            record.phase_began(line)

        with PreparationWatch(preparation, note) as watch:
            slot_config = partial(_slot_config, space, preparation)
            if space.resources.gpus_per_worker:
                # The slots will hold the GPUs, which the entropies are computed on.
                while not preparation.ready(timeout=1.0) and not interruption.asked:
                    pass
            trained = _train(results, space, allotments, slot_config, full_tokens, where, record, interruption)
        if trained.error is not None:
            raise trained.error
    interrupted = not all(study.ended for study in studies)
    timing = {
        "wall_s": progress.state.earlier_s + time.perf_counter() - began,
        "prepare_s": watch.prepare_s,
        "slot_start_s": median(trained.slot_start_s),
        "trial_overhead_s": median(trained.overhead_s),
    }
    flush_timeout = _HURRIED_FLUSH_TIMEOUT if interruption.asked else _FLUSH_TIMEOUT
    # The summary names runs, and is itself kept in MLflow: what came before is delivered first.
    delivery.flush(flush_timeout)
    summary = summarize(results, space, parameters, timing, lambda study, number: delivery.run_id(f"{study}/{number}"))
    if not interrupted:
        for result in results:
            summary["models"][result.model] |= _describe_end(result, preparation, space, command, where)
    files, unregistered = _conclude(where, space, results, summary, record, interrupted)
    if not delivery.close(flush_timeout):
        print(f"{describe_undelivered(delivery)}; deliver them later: {sync_command(str(where))}", file=sys.stderr)
    return _Outcome(results, summary, files, unregistered, interrupted, delivery.tracking_uri, delivery.pages)


@contextmanager
def _recording(progress: ProgressConsole, delivery: Delivery, events: Path) -> Iterator[Recorder]:
    """The record of a search, which an error ends as well."""
    record = Recorder(progress, delivery, events)
    try:
        yield record
    except Exception as error:
        # A disk that is full cannot take this either.
        with suppress(OSError):
            record.search_failed(str(error))
        delivery.close(_HURRIED_FLUSH_TIMEOUT)
        raise


def _write_space(space_file: ConfigFile[Space], output: Path) -> None:
    stored = to_yaml(to_store(space_file.config))
    # This one first: with it the folder is one that --resume goes on with.
    write_atomic(output / RESOLVED, stored)
    write_atomic(output / SPACE, masked_text(space_file.text, stored))


def _full_tokens(
    space: Space, preparation: DataPreparation, record: Recorder, progress: ProgressConsole, model: str
) -> int:
    """Tokens of a trial of the model that is not stopped early; waits for its data, and announces it."""
    prepared = preparation.result(model)
    record.prepared(model, prepared.data_hash, preparation.documents(model))
    if prepared.cut:
        counts = ", ".join(f"{count} {split}" for split, count in prepared.cut.items())
        progress.note(f"{model}: cut at training.sequence_length: {counts} documents")
    for notice in prepared.notices:
        progress.note(notice)
    return prepared.train_tokens * space.budget.epochs


def _slot_config(space: Space, preparation: DataPreparation, workers: int) -> SlotConfig:
    return SlotConfig(
        workers=workers,
        cpus=space.resources.cpus_per_worker,
        gpus=space.resources.gpus_per_worker,
        placement=space.resources.placement,
        prepared=preparation.prepared,
        how=replace(model_settings_of(space), test_answers=space.measure == EXACT),
        cache=default_root(),
        stop_signal=StopSignal.options(scheduling_strategy=place_on_this_node()).remote(),  # type: ignore[attr-defined]
        source=preparation.source,
        restarts=space.faults.restarts,
        hang_s=60 * space.faults.hang_minutes,
    )


def _describe_end(
    result: ModelResult, preparation: DataPreparation, space: Space, command: CommandLine, where: Output
) -> dict[str, Any]:
    """What the summary of a search that has ended says of a model beside its results: its data, and what to do next."""
    prepared, chosen = preparation.result(result.model), choose_space(result, space)
    return {
        "base": prepared.base_losses,
        "data_hash": prepared.data_hash,
        "evaluation_hash": prepared.evaluation_hash,
        "documents": preparation.show(result.model, settings_of(chosen).entrodrop if chosen is not None else None),
        "next": [asdict(step) for step in next_steps(result, space, command, str(where))],
    }


def _conclude(
    where: Output,
    space: Space,
    results: list[ModelResult],
    summary: dict[str, Any],
    record: Recorder,
    interrupted: bool,
) -> tuple[list[Path], list[str]]:
    """Writes the results and registers the models. Returns the files, and lines on models that are not registered."""
    # What draws takes seconds to load.
    from search.results.page.page import write_page

    output = where.folder
    files = write_results(output, space, results, summary)
    unregistered: list[str] = []
    if not interrupted:
        # It takes seconds; of a search that is to end, `search.report` makes it.
        evaluations = Evaluations(Events(output / EVENTS))
        write_page(output / REPORT, [LoadedSearch(output, str(where), space, results, evaluations, True, summary)])
        files.append(output / REPORT)
        if space.tracking.register_as is not None:
            unregistered = register_models(where, space, results, record)
    words = "\n".join(
        f"- **{result.model}**: {describe_result(result, space)}{_format_steps(summary, result.model, '`')}"
        for result in results
    )
    failed = all(result.searched.best() is None for result in results)
    record.search_ended("KILLED" if interrupted else "FAILED" if failed else "FINISHED", summary, words, files)
    return files, unregistered


@dataclass
class _Trained:
    """What the trials of a search took, as `TrialLoop` has it of those on the same slots."""

    slot_start_s: list[float] = field(default_factory=list)
    overhead_s: list[float] = field(default_factory=list)
    error: Exception | None = None


def _train(
    results: Sequence[ModelResult],
    space: Space,
    allotments: Mapping[str, Allocation],
    slot_config: Callable[..., SlotConfig],
    full_tokens: Callable[[str], int],
    where: Output,
    record: Recorder,
    interruption: Interruption,
) -> _Trained:
    """Runs the trials of all sizes; slots are started anew for a size that gets others than the one before it.

    Args:
        slot_config: makes the slots' configuration, of their workers.
    """
    from search.scheduling.trial_loop import TrialLoop
    from search.scheduling.tune_adapter import remove_checkpoints, run_trials

    trained = _Trained()
    by_model = {result.model: result for result in results}
    storage, patience_s = (where.folder / "ray").absolute(), 60 * space.faults.shrink_minutes
    for allotted, models in group_by_allocation(list(by_model), allotments):
        record.allotted(models, allotted, space.resources.automatic)
        studies = [study for model in models for study in by_model[model].studies]
        trial_loop = TrialLoop(studies, allotted.slots, full_tokens, record, interruption, space.faults.restarts)
        slot = slot_config(workers=allotted.workers)
        run_trials(trial_loop, slot, allotted.slots, storage, where.checkpoints, where.models, patience_s, where.remove)
        remove_checkpoints(studies, where.checkpoints, where.remove)
        trained.slot_start_s += trial_loop.slot_start_s
        trained.overhead_s += trial_loop.overhead_s
        trained.error = trial_loop.error
        if trained.error is not None or interruption.asked:
            break
    return trained


def _print_outcome(outcome: _Outcome, console: Console, space: Space) -> None:
    results = outcome.results
    if space.arms is not None and any(result.confirmed is not None for result in results):
        for measure in (space.measure, *((GENERAL,) if space.general is not None else ())):
            console.print(tabulate_comparison(results, space, measure))
    summary = outcome.summary
    lines = [
        f"{result.model}: {describe_result(result, space)}{_format_steps(summary, result.model)}" for result in results
    ]
    lines += [f"{result.model}: {describe_costs(summary['models'][result.model])}" for result in results]
    for line in (*lines, *outcome.unregistered):
        console.print(line, soft_wrap=True)


def _format_steps(summary: Mapping[str, Any], model: str, quote: str = "") -> str:
    """What to do next, as lines that follow the verdict on a model."""
    steps = summary["models"][model].get("next", [])
    return "".join(f"\n  - to {step['why']}:\n    {quote}{step['command']}{quote}" for step in steps)


def _small_to_large(parameters: Mapping[str, int | None]) -> list[str]:
    """The models by their parameters; in the order of the space, if those of one cannot be told."""
    known = [count for count in parameters.values() if count is not None]
    if len(known) < len(parameters):
        return list(parameters)
    return sorted(parameters, key=lambda model: parameters[model] or 0)
