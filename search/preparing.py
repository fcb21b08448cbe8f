"""Prepares each model's data in a Ray actor of its own, while the slots start."""

from functools import partial
from typing import Any

import ray
import torch

from search.scoring import THREADS, score_spread
from search.space import Space
from trainables.cache import default_root
from trainables.config.build import preparation_of
from trainables.documents import Splits
from trainables.prepare import Preparation, Prepared, prepare


# News has a thread of its own, so that it is told while the data is being prepared.
@ray.remote(num_cpus=0, concurrency_groups={"news": 1})
class _Preparer:
    def __init__(self, what: Preparation, models: list[str], gpus: bool) -> None:
        torch.set_num_threads(THREADS)
        self._what, self._models = what, models
        self._scorer = partial(score_spread, gpus=gpus)
        self._news = ""

    def prepare(self, model: str) -> Prepared:
        return prepare(model, self._models, self._what, self._tell, self._scorer)

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
            preparation_of(space, splits, default_root()), list(space.models), space.resources.gpus_per_worker > 0
        )
        self.prepared: dict[str, Any] = {model: self._actor.prepare.remote(model) for model in space.models}

    def news(self) -> str:
        """What is being prepared right now, for a person."""
        news: str = ray.get(self._actor.news.remote())
        return news

    def wait(self) -> None:
        """Waits for all models' data, or for what is wrong with it."""
        ray.wait(list(self.prepared.values()), num_returns=len(self.prepared))

    def result(self, model: str) -> Prepared:
        """Waits for a model's data.

        Raises:
            DataError: documents that cannot be trained on.
        """
        prepared: Prepared = ray.get(self.prepared[model])
        return prepared
