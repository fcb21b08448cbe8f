"""Problems that this project generates itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from random import Random
from typing import Any

from trainables.data.documents import Document, Splits, SplitSizes, content_hash, unseen
from trainables.data.problems import letter_counting, word_problems
from trainables.errors import DataError


def _word_problems(seed: int) -> Iterator[Document]:
    for one in word_problems.generate(seed):
        yield Document(one.solution, f"word_problems/{one.structure}", f"{one.question}\n", one.answer)


def _letter_counting(seed: int) -> Iterator[Document]:
    for one in letter_counting.generate(seed):
        prompt = f"{one.question}\n"
        yield Document(one.solution, content_hash(prompt), prompt, one.answer)


_TASKS = {"word_problems": _word_problems, "letter_counting": _letter_counting}
# More than anybody fine-tunes on as "little data"; generating them takes half a minute.
_MOST = 20_000


@dataclass(frozen=True)
class Builtin:
    """Problems of a task: word_problems (grade-school arithmetic with worked solutions) or letter_counting."""

    task: str
    sizes: SplitSizes

    def splits(self, seed: int, apart: Splits | None = None) -> Splits:
        """Splits share no structure of a word problem, and a structure has one document as long as there are others."""
        if self.task not in _TASKS:
            close = get_close_matches(self.task, _TASKS, n=1)
            raise DataError("data.task", self.task, " or ".join(_TASKS), close[0] if close else None)
        wanted = self.sizes.counts()
        total = sum(wanted.values())
        if total > _MOST:
            raise DataError("data.train", f"{total} documents in all", f"at most {_MOST} together")
        by_group: dict[str, list[Document]] = {}
        for document in unseen(islice(_TASKS[self.task](seed), 200 + 2 * total), apart):
            by_group.setdefault(document.group, []).append(document)
        groups = list(by_group.values())
        Random(seed).shuffle(groups)
        parts: dict[str, Any] = {}
        for name, count in wanted.items():
            # A fair share of the groups, so that each split draws on as many as it can.
            own = groups[: -(-len(groups) * count // max(total, 1))]
            del groups[: len(own)]
            total -= count
            turns = [
                d for turn in range(max(map(len, own), default=0)) for group in own for d in group[turn : turn + 1]
            ]
            if len(turns) < count:
                raise DataError(f"data.{name}", str(count), f"at most {len(turns)} distinct problems")
            parts[name] = tuple(turns[:count])
        return Splits(**parts)
