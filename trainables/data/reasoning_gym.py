"""Problems that the package reasoning-gym generates."""

import io
import random
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from trainables.data.documents import Document, Splits, SplitSizes, content_hash, split, unseen
from trainables.errors import DataError

# More than anybody fine-tunes on as "little data"; generating them takes ten seconds.
_MOST_GENERATED = 20_000
# Grade-school arithmetic: the one task whose problems come with a worked solution, and from templates.
_GSM_SYMBOLIC = "gsm_symbolic"
# A constant tail of every question of it; it speaks to an answer checker, not to a reader.
_TAIL = " Give the result as your final answer. Do not include units."


@dataclass(frozen=True)
class ReasoningGym:
    """Problems of a task, such as gsm_symbolic (grade-school arithmetic with worked solutions)."""

    task: str
    sizes: SplitSizes

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        """Of gsm_symbolic, splits share no template; the templates of a split take turns."""
        try:
            from reasoning_gym.factory import DATASETS
        except ImportError:
            problem = "the package reasoning-gym is not installed; install it (it needs a C compiler): pip install "
            raise DataError("data.source", f"{problem}reasoning-gym") from None

        if self.task not in DATASETS:
            close = get_close_matches(self.task, DATASETS, n=1)
            raise DataError("data.task", self.task, "a task of reasoning-gym", close[0] if close else None)
        total = sum(self.sizes.counts().values())
        if total > _MOST_GENERATED:
            raise DataError("data.train", f"{total} documents in all", f"at most {_MOST_GENERATED} together")
        if self.task == _GSM_SYMBOLIC:
            return self._by_template(seed, total, apart)
        wanted = []
        for document in unseen(self._generate(seed, total), apart):
            wanted.append(document)
            if len(wanted) == total:
                break
        return split(wanted, self.sizes, seed, f"of {self.task}")

    def _generate(self, seed: int, total: int) -> Iterator[Document]:
        import reasoning_gym

        try:
            dataset = reasoning_gym.create_dataset(self.task, size=1000 + 4 * total, seed=seed)
        except AssertionError as error:
            raise DataError("data.task", self.task, f"a task that needs no configuration ({error})") from None
        for index in range(len(dataset)):
            item = _item(dataset, index)
            if item["answer"] is None:
                raise DataError("data.task", self.task, "a task whose problems have one answer")
            prompt = f"{item['question']}\n"
            yield Document(item["answer"], content_hash(prompt), prompt, item["answer"])

    def _by_template(self, seed: int, total: int, apart: Splits | None) -> Splits:
        import reasoning_gym

        dataset = reasoning_gym.create_dataset(self.task, size=1000 + 4 * total, seed=seed)
        by_template: dict[int, list[Document]] = {}
        for index, template in enumerate(dataset.task_indices):
            item = _item(dataset, index)
            question = item["question"].removesuffix(_TAIL)
            document = Document(
                item["metadata"]["answer_cot"], f"{self.task}/{template}", f"{question}\n", item["answer"]
            )
            by_template.setdefault(template, []).append(document)
        documents = [distinct for _, own in sorted(by_template.items()) if (distinct := list(unseen(own, apart)))]
        random.Random(seed).shuffle(documents)
        wanted = self.sizes.counts()
        shares = _shares(len(documents), wanted)
        parts: dict[str, Any] = {}
        for name, count in wanted.items():
            templates = [documents.pop() for _ in range(shares[name])]
            most = max(map(len, templates), default=0)
            turns = [d for turn in range(most) for t in templates for d in t[turn : turn + 1]]
            if len(turns) < count:
                raise DataError(f"data.{name}", str(count), f"at most {len(turns)} distinct problems")
            parts[name] = tuple(turns[:count])
        return Splits(**parts)


def _item(dataset: Any, index: int) -> dict[str, Any]:
    """A problem, without what some tasks print while they make one."""
    with redirect_stdout(io.StringIO()):
        item: dict[str, Any] = dataset[index]
    return item


def _shares(total: int, wanted: dict[str, int]) -> dict[str, int]:
    """Shares out `total` templates in proportion to the documents wanted; a split that wants any has one."""
    shares = {name: max(1, total * count // sum(wanted.values())) if count else 0 for name, count in wanted.items()}
    while sum(shares.values()) > total:
        shares[max(shares, key=lambda name: shares[name])] -= 1
    return shares
