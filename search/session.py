"""One search from beginning to end: Ray, the preparation, the trials, the results."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError
from rich.console import Console

from search.cluster.node_checks import check_nodes, list_needed_folders
from search.cluster.ray_runtime import join_or_start_ray
from search.hardware import ClusterResources
from search.interruption import EXIT_CODE, Interruption
from search.output.events import Evaluations, Events
from search.output.folder import EVENTS, JOURNAL, REPORT, RESOLVED, SPACE, Output
from search.progress.console import ProgressConsole
from search.recorder import Recorder
from search.results.archive import LoadedSearch
from search.results.costs import describe_costs
from search.results.files import describe_result, tabulate_comparison, write_results
from search.results.model_result import ModelResult, open_results
from search.results.page.page import write_page
from search.results.registry import register_models
from search.results.summary import median, summarize
from search.scheduling.allocation import Allocation, group_by_allocation, with_allocation
from search.scheduling.preparation import DataPreparation
from search.space import Space, masked_text, to_store
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
from trainables.config.loader import ConfigFile
from trainables.config.to_settings import model_settings_of
from trainables.config.validation_messages import shown
from trainables.config.yaml_values import to_yaml
from trainables.data.documents import Splits, number_groups
from trainables.errors import ConfigError, DataError, mask_secrets
from trainables.models.resolve import model_size
from trainables.preparation.prepare import Prepared
from trainables.slots.actors import place_on_this_node
from trainables.slots.shared import SlotConfig, StopSignal
from trainables.storage.cache import default_root
from trainables.storage.files import write_atomic

# Seconds that the end of a search waits for MLflow, once before and once after the results are written; and the end of
# one that was interrupted.
_FLUSH_TIMEOUT, _HURRIED_FLUSH_TIMEOUT = 30.0, 2.0
_NEWS_INTERVAL = 10.0


def run_session(
    space_file: ConfigFile[Space],
    splits: Splits,
    where: Output,
    allot: Callable[[ClusterResources | None], dict[str, Allocation]],
    resume_command: str,
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
    console = Console()
    with Interruption() as interruption:
        database = _connect_database(space_file, output)
        try:
            with join_or_start_ray(output) as interruption.temporary, ExitStack() as stack:
                # Ray has a handler of its own for SIGTERM.
                interruption.listen()
                cluster = None
                if os.environ.get("RAY_ADDRESS"):
                    gpus = space.resources.gpus_per_worker > 0
                    note = ProgressConsole(console, {}).note
                    nodes = check_nodes(
                        list_needed_folders(where), interruption.ask, note, lambda: interruption.asked, gpus
                    )
                    cluster = stack.enter_context(nodes)
                allotments = allot(cluster)
                if interruption.asked:
                    raise KeyboardInterrupt
                found = _search(space_file, splits, where, database, allotments, console, interruption, resume_command)
        except DataError as error:
            raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None
        except JournalError as error:
            raise ConfigError(f"--resume: the search in {where} is damaged ({error}); name one that is whole") from None
        except DATABASE_ERRORS as error:
            what = f"study.storage: {describe_error(error)}"
            print(f"the search cannot go on: {what}; then go on with: {resume_command}", file=sys.stderr)
            return 1
        except OSError as error:
            # Such as a disk that is full: what is written is whole, and the search can go on.
            print(f"the search cannot go on: {error}; then go on with: {resume_command}", file=sys.stderr)
            return 1
    _tell(found, console, space)
    if found.interrupted and interruption.reason is not None:
        print(f"the search cannot go on: {interruption.reason}; then go on with: {resume_command}", file=sys.stderr)
        return 1
    if found.interrupted:
        print(interruption.last_words, file=sys.stderr)
        return EXIT_CODE
    console.print(f"\nresults: {where}/ ({', '.join(f.name for f in found.files)})", highlight=False, soft_wrap=True)
    console.print(f"all trials: {_ui_command(found.tracking_uri)}", highlight=False, soft_wrap=True)
    return 1 if any(size.searched.best() is None for size in found.sizes) else 0


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
        taken = database.holds_the_search and not (output / RESOLVED).exists()
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
class _Found:
    """What came of a search, so far if it was interrupted."""

    sizes: list[ModelResult]
    summary: dict[str, Any]
    files: list[Path]
    unregistered: list[str]
    interrupted: bool
    tracking_uri: str


def _search(
    space_file: ConfigFile[Space],
    splits: Splits,
    where: Output,
    database: StudyStorage | None,
    allotments: Mapping[str, Allocation],
    console: Console,
    interruption: Interruption,
    resume_command: str,
) -> _Found:
    began = time.perf_counter()
    space, output = space_file.config, where.folder
    stored = to_yaml(to_store(space))
    text = masked_text(space_file.text, stored)
    # This one first: with it the folder is one that --resume goes on with.
    write_atomic(output / RESOLVED, stored)
    interruption.last_words = f"interrupted; go on with: {resume_command}"
    write_atomic(output / SPACE, text)
    parameters = {model: model_size(model) for model in space.models}
    models = _small_to_large(parameters)
    studies_storage = database or open_journal(output / JOURNAL)
    sizes = open_results(studies_storage, {model: with_allocation(space, allotments[model]) for model in models})
    studies = [study for size in sizes for study in size.studies]
    for size in sizes:
        if size.confirmed is not None:
            size.confirmed.know_groups(number_groups(splits.test), number_groups(splits.general))
    delivery = Delivery(space.tracking.uri, space.tracking.experiment, output / EVENTS)
    planned = {study.name: study.planned for study in studies}
    with ProgressConsole(console, planned) as progress, ExitStack() as stack:
        interruption.tell = progress.note
        if (output / EVENTS).is_file():
            Events(output / EVENTS).hand_to(progress.state.follow)
            progress.state.begun(planned)
        record = Recorder(progress, delivery, output / EVENTS)
        record.search_started(space, planned, resume_command)
        if not space.resources.gpus_per_worker and ray.cluster_resources().get("GPU"):
            progress.note("there are GPUs, and the search trains on CPUs: resources.gpus_per_worker is 0")
        preparing = DataPreparation(space, splits, models)
        watch = stack.enter_context(_Watch(preparing, progress, models))
        told: set[str] = set()

        def full_tokens(model: str) -> int:
            prepared = preparing.result(model)
            if model not in told:
                told.add(model)
                record.prepared(model, prepared.data_hash)
                if prepared.cut:
                    progress.note(f"{model}: {_cut(prepared)}")
            return prepared.train_tokens * space.budget.epochs

        slot = partial(
            SlotConfig,
            cpus=space.resources.cpus_per_worker,
            gpus=space.resources.gpus_per_worker,
            placement=space.resources.placement,
            prepared=preparing.prepared,
            how=model_settings_of(space),
            cache=default_root(),
            stop_signal=StopSignal.options(scheduling_strategy=place_on_this_node()).remote(),  # type: ignore[attr-defined]
            source=preparing.source,
            restarts=space.faults.restarts,
            hang_s=60 * space.faults.hang_minutes,
        )
        if space.resources.gpus_per_worker:
            # The slots will hold the GPUs, which the entropies are computed on.
            while not preparing.ready(timeout=1.0) and not interruption.asked:
                pass
        trained = _train(sizes, space, allotments, slot, full_tokens, where, record, interruption)
    if trained.error is not None:
        raise trained.error
    interrupted = not all(study.ended for study in studies)
    timing = {
        "wall_s": time.perf_counter() - began,
        "prepare_s": watch.prepare_s,
        "slot_start_s": median(trained.slot_start_s),
        "trial_overhead_s": median(trained.overhead_s),
    }
    flush_timeout = _HURRIED_FLUSH_TIMEOUT if interruption.asked else _FLUSH_TIMEOUT
    # The summary names runs, and is itself kept in MLflow: what came before is delivered first.
    delivery.flush(flush_timeout)
    summary = summarize(sizes, space, parameters, timing, lambda study, number: delivery.run_id(f"{study}/{number}"))
    if not interrupted:
        for model in models:
            prepared = preparing.result(model)
            summary["models"][model] |= {
                "base": prepared.base_losses,
                "data_hash": prepared.data_hash,
                "evaluation_hash": prepared.evaluation_hash,
            }
    files = write_results(output, space, sizes, summary)
    if not interrupted:
        # It takes seconds; of a search that is to end, `search.report` makes it.
        evaluations = Evaluations(Events(output / EVENTS))
        write_page(output / REPORT, [LoadedSearch(output, space, sizes, summary, evaluations, finished=True)])
        files.append(output / REPORT)
    missing = []
    if space.tracking.register_as is not None and not interrupted:
        missing = register_models(where, space, sizes, record)
    words = "\n".join(f"- **{size.model}**: {describe_result(size, space)}" for size in sizes)
    record.search_ended("KILLED" if interrupted else "FINISHED", summary, words, files)
    delivered = delivery.close(flush_timeout)
    if not delivered:
        print(f"{describe_undelivered(delivery)}; deliver them later: {sync_command(str(where))}", file=sys.stderr)
    return _Found(sizes, summary, files, missing, interrupted, delivery.tracking_uri)


@dataclass
class _Trained:
    """What the trials of a search took, as `TrialLoop` has it of those on the same slots."""

    slot_start_s: list[float] = field(default_factory=list)
    overhead_s: list[float] = field(default_factory=list)
    error: Exception | None = None


def _train(
    sizes: Sequence[ModelResult],
    space: Space,
    allotments: Mapping[str, Allocation],
    slot: Callable[..., SlotConfig],
    full_tokens: Callable[[str], int],
    where: Output,
    record: Recorder,
    interruption: Interruption,
) -> _Trained:
    """Runs the trials of all sizes; slots are started anew for a size that gets others than the one before it.

    Args:
        slot: makes the slots' configuration, of their workers.
    """
    from search.scheduling.trial_loop import TrialLoop
    from search.scheduling.tune_adapter import remove_checkpoints, run_trials

    trained = _Trained()
    by_model = {size.model: size for size in sizes}
    storage, patience_s = (where.folder / "ray").absolute(), 60 * space.faults.shrink_minutes
    for allotted, models in group_by_allocation(list(by_model), allotments):
        if space.resources.automatic:
            record.allotted(models, allotted)
        studies = [study for model in models for study in by_model[model].studies]
        trial_loop = TrialLoop(studies, allotted.slots, full_tokens, record, interruption, space.faults.restarts)
        own = slot(workers=allotted.workers)
        run_trials(trial_loop, own, allotted.slots, storage, where.checkpoints, where.models, patience_s, where.remove)
        remove_checkpoints(studies, where.checkpoints, where.remove)
        trained.slot_start_s += trial_loop.slot_start_s
        trained.overhead_s += trial_loop.overhead_s
        trained.error = trial_loop.error
        if trained.error is not None or interruption.asked:
            break
    return trained


def _tell(found: _Found, console: Console, space: Space) -> None:
    """The last words."""
    if space.arms is not None and any(size.confirmed is not None for size in found.sizes):
        console.print(tabulate_comparison(found.sizes, space))
    for size in found.sizes:
        console.print(f"{size.model}: {describe_result(size, space)}", highlight=False, soft_wrap=True)
    for size in found.sizes:
        cost = describe_costs(found.summary["models"][size.model])
        console.print(f"{size.model}: {cost}", highlight=False, soft_wrap=True)
    for line in found.unregistered:
        console.print(line, highlight=False, soft_wrap=True)


def _small_to_large(parameters: Mapping[str, int | None]) -> list[str]:
    """The models by their parameters; in the order of the space, if those of one cannot be told."""
    known = [count for count in parameters.values() if count is not None]
    if len(known) < len(parameters):
        return list(parameters)
    return sorted(parameters, key=lambda model: parameters[model] or 0)


def _cut(prepared: Prepared) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in prepared.cut.items())
    return f"cut at training.sequence_length: {counts} documents"


class _Watch:
    """Tells how the preparation is going, from a thread of its own; use it as a context manager.

    Attributes:
        prepare_s: seconds until all data was prepared; None before.
    """

    def __init__(self, preparing: DataPreparation, progress: ProgressConsole, models: list[Any]) -> None:
        self.prepare_s: float | None = None
        self._preparing, self._progress, self._models = preparing, progress, list(models)
        self._stop = threading.Event()
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        told, told_at = "", -_NEWS_INTERVAL
        references = [self._preparing.prepared[model] for model in self._models]
        while not self._stop.is_set():
            ready, _ = ray.wait(references, num_returns=len(references), timeout=1.0)
            if len(ready) == len(references):
                self.prepare_s = time.perf_counter() - self._began
                # What is wrong with it is told to the one that waits for it.
                with suppress(RayError):
                    ray.get(ready)
                    self._progress.note(f"data is prepared ({self.prepare_s:.0f} s)")
                return
            news, now = self._preparing.news(), time.perf_counter()
            subject = news.partition(":")[0]
            if news and news != told and (subject != told.partition(":")[0] or now - told_at >= _NEWS_INTERVAL):
                self._progress.note(news)
                told, told_at = news, now


def _ui_command(uri: str) -> str:
    return mask_secrets(uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}")
