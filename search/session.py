"""One search from beginning to end: Ray, the preparation, the trials, the results."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from search.machine import local_cpus
from search.preparing import Preparing
from search.progress import Progress
from search.record import Record
from search.report import median, summarize, verdict, write_results, write_whole
from search.space import Space
from search.study import SizeStudy
from search.tracking import Tracker, mask_secrets
from trainables.config.build import model_settings_of
from trainables.config.file import ConfigError, ConfigFile
from trainables.documents import DataError, Splits
from trainables.prepare import Prepared
from trainables.slot import SlotConfig

# Seconds that the end of a search waits for MLflow to take the last records.
_FLUSH_TIMEOUT = 60.0
_NEWS_INTERVAL = 10.0


def run_session(
    space_file: ConfigFile[Space],
    splits: Splits,
    output: Path,
    check_resources: Callable[[dict[str, float]], None],
    resume_command: str,
) -> int:
    """Runs a search, or goes on with the one in `output`. Returns the exit code.

    Raises:
        ConfigError: what only the cluster or the tokenizer could tell.
    """
    began = time.perf_counter()
    space = space_file.config
    console = Console()
    import ray

    from search.tuner import Conductor, ray_environment, run_trials

    os.environ.update({k: v for k, v in ray_environment(space.resources.slots).items() if k not in os.environ})
    _start_ray()
    try:
        check_resources(ray.cluster_resources())
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_whole(output / "space.yaml", space_file.text)
        except OSError as error:
            reason = error.strerror
            raise ConfigError(f"--output: given {output}; allowed: a folder that can be written ({reason})") from None
        resolved = yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False)
        write_whole(output / "resolved.yaml", resolved)
        studies = [SizeStudy(output / "study.journal", model, space) for model in space.models]
        tracker = Tracker(space.tracking.uri, space.tracking.experiment)
        with Progress(console, {study.model: study.planned for study in studies}) as progress:
            record = Record(progress, tracker, output / "events.jsonl")
            record.search_started(space, {"space.yaml": space_file.text, "resolved.yaml": resolved}, studies[0])
            preparing = Preparing(space, splits)
            watch = _Watch(preparing, progress, space.models)

            def train_tokens(model: str) -> int:
                prepared = preparing.result(model)
                _check_evaluations(space_file, prepared)
                if prepared.cut:
                    progress.note(f"{model}: {_cut(prepared)}")
                return prepared.train_tokens

            conductor = Conductor(studies, space.resources.slots, train_tokens, record)
            slot = SlotConfig(
                workers=space.resources.workers,
                cpus=space.resources.cpus_per_worker,
                gpus=space.resources.gpus_per_worker,
                prepared=preparing.prepared,
                how=model_settings_of(space),
                storage=(output / "ray").absolute(),
            )
            if space.resources.gpus_per_worker:
                # The slots will hold the GPUs, which the entropies are computed on.
                preparing.wait()
            run_trials(conductor, slot, space.resources.slots, (output / "checkpoints").absolute())
            watch.stop()
        if conductor.error is not None:
            raise conductor.error
        interrupted = not all(study.ended for study in studies)
        timing = {
            "wall_s": time.perf_counter() - began,
            "prepare_s": watch.prepare_s,
            "slot_start_s": median(conductor.slot_start_s),
            "trial_overhead_s": median(conductor.overhead_s),
        }
        summary = summarize(studies, timing, record.run_id)
        if not interrupted:
            for model in space.models:
                prepared = preparing.result(model)
                summary["models"][model] |= {
                    "base": prepared.base_losses,
                    "data_hash": prepared.data_hash,
                    "evaluation_hash": prepared.evaluation_hash,
                }
        files = write_results(output, space, studies, summary)
        record.search_ended("KILLED" if interrupted else "FINISHED", summary, files)
        delivered = tracker.close(_FLUSH_TIMEOUT)
        record.close()
    except DataError as error:
        raise space_file.error(error.field, error.given, error.allowed, error.nearest) from None
    finally:
        ray.shutdown()
    if not delivered:
        print(f"MLflow did not take {tracker.undelivered} records: {tracker.last_error}", file=sys.stderr)
    for study in studies:
        console.print(f"{study.model}: {verdict(study)}", highlight=False, soft_wrap=True)
    if interrupted:
        print(f"interrupted; go on with: {resume_command}", file=sys.stderr)
        return 130
    console.print(f"\nresults: {output}/ ({', '.join(file.name for file in files)})", highlight=False, soft_wrap=True)
    console.print(f"all trials: {_ui_command(tracker.tracking_uri)}", highlight=False, soft_wrap=True)
    return 1 if any(study.best() is None for study in studies) else 0


def _check_evaluations(space_file: ConfigFile[Space], prepared: Prepared) -> None:
    """Raises ConfigError if an epoch has fewer optimizer steps than evaluations."""
    space = space_file.config
    steps = math.ceil(prepared.train_rows / space.training.batch_size)
    if space.evaluation.per_epoch > steps:
        allowed = f"at most {steps}, the optimizer steps in an epoch of {prepared.model}"
        raise space_file.error("evaluation.per_epoch", space.evaluation.per_epoch, allowed)


def _cut(prepared: Prepared) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in prepared.cut.items())
    return f"cut at training.sequence_length: {counts} documents"


def cluster_resources() -> dict[str, float]:
    """What the cluster that RAY_ADDRESS names has.

    Raises:
        ConfigError: it cannot be joined.
    """
    import ray

    _start_ray()
    try:
        resources: dict[str, float] = ray.cluster_resources()
    finally:
        ray.shutdown()
    return resources


def _start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine, reachable from it alone."""
    import ray

    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"RAY_ADDRESS: given {address!r}; allowed: the address of a running Ray cluster ({reason})"
            ) from None
        return
    ray.init(
        address="local",
        num_cpus=local_cpus(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )


class _Watch:
    """Tells how the preparation is going, from a thread of its own.

    Attributes:
        prepare_s: seconds until all data was prepared; None before.
    """

    def __init__(self, preparing: Preparing, progress: Progress, models: list[Any]) -> None:
        self.prepare_s: float | None = None
        self._preparing, self._progress, self._models = preparing, progress, list(models)
        self._stop = threading.Event()
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import ray

        told, told_at = "", -_NEWS_INTERVAL
        references = [self._preparing.prepared[model] for model in self._models]
        while not self._stop.is_set():
            ready, _ = ray.wait(references, num_returns=len(references), timeout=1.0)
            if len(ready) == len(references):
                self.prepare_s = time.perf_counter() - self._began
                self._progress.note(f"data is prepared ({self.prepare_s:.0f} s)")
                return
            news, now = self._preparing.news(), time.perf_counter()
            subject = news.partition(":")[0]
            if news and news != told and (subject != told.partition(":")[0] or now - told_at >= _NEWS_INTERVAL):
                self._progress.note(news)
                told, told_at = news, now


def _ui_command(uri: str) -> str:
    return mask_secrets(uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}")
