"""Prepares each model's data in a Ray actor of its own, while the slots start."""

from pathlib import Path
from typing import Any

import ray
import torch

from search.space import FilesData, Space
from trainables.cache import default_root
from trainables.documents import Splits, SplitSizes
from trainables.prepare import Preparation, Prepared, prepare
from trainables.sources import JsonLines, ReasoningGym, Source

# A fixed number of threads gives the same entropies, to the last digit, whatever the machine; one, because the slots
# run beside it.
_THREADS = 1


def source_of(space: Space) -> Source:
    """The data source that a space describes."""
    data = space.data
    sizes = SplitSizes(data.train, data.validation, data.test)
    if isinstance(data, FilesData):
        return JsonLines(Path(data.path), data.template, sizes)
    return ReasoningGym(data.task, sizes)


def preparation_of(space: Space, splits: Splits) -> Preparation:
    evaluation = space.evaluation
    return Preparation(
        splits,
        space.training.sequence_length,
        evaluation.high_entropy,
        evaluation.low_entropy,
        default_root(),
    )


# News has a thread of its own, so that it is told while the data is being prepared.
@ray.remote(num_cpus=0, concurrency_groups={"news": 1})
class _Preparer:
    def __init__(self, what: Preparation, models: list[str]) -> None:
        torch.set_num_threads(_THREADS)
        self._what, self._models = what, models
        self._news = ""

    def prepare(self, model: str) -> Prepared:
        return prepare(model, self._models, self._what, self._tell)

    def _tell(self, news: str) -> None:
        self._news = news

    @ray.method(concurrency_group="news")  # type: ignore[untyped-decorator]
    def news(self) -> str:
        return self._news


class Preparing:
    """The preparation of all models of a space, one after the other in the order of the space.

    The evaluation set is fixed by the entropies of the first model: all built-in models share a tokenizer.

    Attributes:
        prepared: for each model, the reference to its Prepared.
    """

    def __init__(self, space: Space, splits: Splits) -> None:
        self._actor = _Preparer.remote(  # type: ignore[attr-defined]
            preparation_of(space, splits), list(space.models)
        )
        self.prepared: dict[str, Any] = {model: self._actor.prepare.remote(model) for model in space.models}

    def news(self) -> str:
        """What is being prepared right now, for a person."""
        news: str = ray.get(self._actor.news.remote())
        return news

    def result(self, model: str) -> Prepared:
        """Waits for a model's data.

        Raises:
            DataError: documents that cannot be trained on.
        """
        prepared: Prepared = ray.get(self.prepared[model])
        return prepared
