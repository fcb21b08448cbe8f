"""Prepares each model's data in a Ray actor of its own, while the slots start."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from search.environment import ray_address
from search.space import Space, check_tokens
from search.studies.arm_spaces import needs_mask_token
from trainables.config.to_settings import preparation_of
from trainables.data.documents import Splits
from trainables.errors import one_line
from trainables.preparation.prepared import Preparation, Prepared
from trainables.settings import EntroDrop
from trainables.slots.actors import describe_death, place_on_this_node
from trainables.slots.node_copies import FileServer
from trainables.storage.cache import default_root

# Seconds that an answer is waited for, and between two lines on the same subject.
_NEWS_TIMEOUT, _NEWS_INTERVAL = 1.0, 10.0
# Times that its process is started again, as when the memory ran short for a while.
_RESTARTS = 2


# News has a thread of its own, so that it is told while the data is being prepared; so has what waits for the data.
# What a process that died has finished is in the cache: another one goes on from there.
@ray.remote(num_cpus=0, concurrency_groups={"news": 1, "shown": 1}, max_restarts=_RESTARTS, max_task_retries=_RESTARTS)
class _Preparer:
    """Only this process loads what it prepares the data with."""

    # The documents are not given here: what starts again must not hang on Ray's object store.
    def __init__(self, space: Space, source: Any) -> None:
        import torch

        from search.scheduling.entropy_scoring import THREADS

        torch.set_num_threads(THREADS)
        self._space, self._source = space, source
        self._news = ""

    def prepare(self, model: str, what: Preparation) -> Prepared:
        from search.scheduling.entropy_scoring import score_on_all_devices

        gpus = self._space.resources.gpus_per_worker > 0
        scorer = partial(score_on_all_devices, gpus=gpus, source=self._source, cache=what.cache)
        prepared = _prepare(model, list(self._space.models), what, self._tell, scorer)
        _check_budget(self._space, prepared)
        return prepared

    # In a list: for a reference alone Ray would wait, and with it for all that is asked later, such as news.
    @ray.method(concurrency_group="shown")  # type: ignore[untyped-decorator]
    def show(self, prepared: list[Any], entrodrop: EntroDrop | None) -> dict[str, Any]:
        from trainables.preparation.shown_documents import show_documents

        return show_documents(ray.get(prepared[0]), entrodrop)

    def _tell(self, news: str) -> None:
        self._news = news

    @ray.method(concurrency_group="news")  # type: ignore[untyped-decorator]
    def news(self) -> str:
        return self._news


class DataPreparation:
    """The preparation of all models of a space, one after the other.

    Args:
        models: of the space, in the order in which they are searched.

    Attributes:
        prepared: for each model, the reference to its Prepared.
        source: the handle of what gives it to nodes that do not see where it lies; None: the search has no other node.
    """

    def __init__(self, space: Space, splits: Splits, models: Sequence[str]) -> None:
        preparation = replace(preparation_of(space, splits, default_root()), needs_mask_token=needs_mask_token(space))
        # What it writes is where the driver looks for it.
        here = {"scheduling_strategy": place_on_this_node()}
        self.source: Any = None
        if ray_address():
            self.source = FileServer.options(**here).remote()  # type: ignore[attr-defined]
        self._actor = _Preparer.options(**here).remote(space, self.source)  # type: ignore[attr-defined]
        what = ray.put(preparation)
        self.prepared: dict[str, Any] = {}
        self._documents: dict[str, Any] = {}
        for model in models:
            self.prepared[model] = self._actor.prepare.remote(model, what)
            # Made while the slots start, so that no trial waits for it.
            self._documents[model] = self._actor.show.remote([self.prepared[model]], None)

    def news(self) -> str:
        """What is being prepared right now, for a person; nothing if its process does not answer, or has died."""
        try:
            news: str = ray.get(self._actor.news.remote(), timeout=_NEWS_TIMEOUT)
        # A process that has just been started takes seconds to import torch.
        except RayError:
            return ""
        return news

    def ready(self, timeout: float) -> bool:
        """Whether all models' data is prepared, or what is wrong with it known, within `timeout` seconds."""
        ready, _ = ray.wait(list(self.prepared.values()), num_returns=len(self.prepared), timeout=timeout)
        return len(ready) == len(self.prepared)

    def result(self, model: str) -> Prepared:
        """Waits for a model's data.

        Raises:
            DataError: documents that cannot be trained on, or with the budget.
            OSError: it cannot be kept, as when the disk is full, or a process that made it died.
        """
        prepared: Prepared = self._get(self.prepared[model], model)
        return prepared

    def documents(self, model: str) -> list[list[Any]]:
        """The same without a schedule, which is there as soon as the data is."""
        shown: dict[str, Any] = self._get(self._documents[model], model)
        tokens: list[list[Any]] = shown["tokens"]
        return tokens

    def show(self, model: str, entrodrop: EntroDrop | None) -> dict[str, Any]:
        """Documents of the model's data, as `trainables.preparation.shown_documents` has them; raises what `result`
        does."""
        documents: dict[str, Any] = self._get(self._actor.show.remote([self.prepared[model]], entrodrop), model)
        return documents

    def _get(self, reference: Any, model: str) -> Any:
        try:
            return ray.get(reference)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(cause, RayError):
                # What the preparation raised, without the other process's trace in its words.
                raise cause from None
            reason = one_line(describe_death(cause))
            raise ChildProcessError(f"the process that prepares the data of {model} died: {reason}") from None


class PreparationWatch:
    """Tells how the preparation is going, from a thread of its own; use it as a context manager.

    Args:
        note: gets the lines.

    Attributes:
        prepare_s: seconds until all data was prepared; None before.
    """

    def __init__(self, preparation: DataPreparation, note: Callable[[str], object]) -> None:
        self.prepare_s: float | None = None
        self._preparation, self._note = preparation, note
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
        noted, noted_at = "", -_NEWS_INTERVAL
        references = list(self._preparation.prepared.values())
        while not self._stop.is_set():
            if self._preparation.ready(timeout=1.0):
                self.prepare_s = time.perf_counter() - self._began
                # Whoever waits for the data is told what is wrong with it.
                with suppress(RayError):
                    ray.get(references)
                    self._note(f"data is prepared ({self.prepare_s:.0f} s)")
                return
            news, now = self._preparation.news(), time.perf_counter()
            subject = news.partition(":")[0]
            if news and news != noted and (subject != noted.partition(":")[0] or now - noted_at >= _NEWS_INTERVAL):
                self._note(news)
                noted, noted_at = news, now


def _prepare(*arguments: Any) -> Prepared:
    from trainables.preparation.prepare import prepare

    return prepare(*arguments)


def _check_budget(space: Space, prepared: Prepared) -> None:
    """Raises DataError if an epoch has fewer optimizer steps than evaluations, or the budget is less than one trial."""
    from trainables.preparation.checks import check_evaluations

    check_evaluations(space.evaluation.per_epoch, prepared.train_rows, space.training.batch_size, prepared.model)
    if space.budget.tokens is not None:
        check_tokens(space.budget.tokens, prepared.train_tokens * space.budget.epochs, prepared.model)
