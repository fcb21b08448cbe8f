"""Sources: where documents come from."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainables.documents import DataError, Document, Splits, SplitSizes


class Source(Protocol):
    """A place that documents come from."""

    @property
    def sizes(self) -> SplitSizes: ...

    def splits(self, seed: int) -> Splits:
        """The documents of each split, the same for the same seed.

        Raises:
            DataError: too few documents, or unreadable ones.
        """


# More than anybody fine-tunes on as "little data"; generating them takes ten seconds.
_MOST_GENERATED = 20_000


@dataclass(frozen=True)
class ReasoningGym:
    """Problems with worked solutions that the package reasoning-gym generates from templates."""

    task: str
    sizes: SplitSizes

    # A constant tail of every question; it speaks to an answer checker, not to a reader.
    _TAIL = " Give the result as your final answer. Do not include units."

    def splits(self, seed: int) -> Splits:
        """Splits share no template; the templates of a split take turns."""
        import reasoning_gym

        wanted = [self.sizes.train, self.sizes.validation, self.sizes.test]
        if sum(wanted) > _MOST_GENERATED:
            given = f"splits of {' + '.join(map(str, wanted))} documents"
            raise DataError("data.train", given, f"at most {_MOST_GENERATED} together")
        dataset = reasoning_gym.create_dataset(self.task, size=1000 + 4 * sum(wanted), seed=seed)
        by_template: dict[int, dict[str, None]] = {}
        for index, template in enumerate(dataset.task_indices):
            item = dataset[index]
            question = item["question"].removesuffix(self._TAIL)
            text = f"{question}\n{item['metadata']['answer_cot']}"
            by_template.setdefault(template, {})[text] = None
        documents = [
            [Document(text, f"{self.task}/{template}") for text in texts]
            for template, texts in sorted(by_template.items())
        ]
        random.Random(seed).shuffle(documents)
        shares = _shares(len(documents), wanted)
        parts = []
        for name, count in zip(("train", "validation", "test"), wanted, strict=True):
            templates = [documents.pop() for _ in range(shares[name])]
            turns = [d for turn in range(max(map(len, templates))) for t in templates for d in t[turn : turn + 1]]
            if len(turns) < count:
                raise DataError(f"data.{name}", str(count), f"at most {len(turns)} distinct problems")
            parts.append(tuple(turns[:count]))
        return Splits(*parts)


def _shares(total: int, wanted: list[int]) -> dict[str, int]:
    """Splits `total` templates in proportion to the documents wanted, at least one each."""
    shares = [max(1, total * count // sum(wanted)) for count in wanted]
    while sum(shares) > total:
        shares[shares.index(max(shares))] -= 1
    return dict(zip(("train", "validation", "test"), shares, strict=True))


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object a line, and a template such as "{question}\\n{answer}" that makes it text."""

    path: Path
    template: str
    sizes: SplitSizes

    def splits(self, seed: int) -> Splits:
        """Splits by rank of content hash: the file's order does not matter, and no text stands in two splits."""
        texts = dict.fromkeys(self._texts())
        wanted = [self.sizes.train, self.sizes.validation, self.sizes.test]
        if len(texts) < sum(wanted):
            raise DataError(
                "data.train",
                f"splits of {' + '.join(map(str, wanted))} documents",
                f"at most {len(texts)} together, the distinct documents in {self.path.name}",
            )
        ordered = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
        documents = [Document(text, hashlib.sha256(text.encode()).hexdigest()) for text in ordered]
        train, rest = documents[: wanted[0]], documents[wanted[0] :]
        return Splits(tuple(train), tuple(rest[: wanted[1]]), tuple(rest[wanted[1] : wanted[1] + wanted[2]]))

    def _texts(self) -> list[str]:
        try:
            # Not splitlines: a line separator such as U+2028 may stand in a JSON string as it is.
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise DataError("data.path", self.path.name, f"a readable UTF-8 file ({reason})") from None
        texts = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record: Any = json.loads(line)
                texts.append(self.template.format_map(record))
            except KeyError as error:
                columns = ", ".join(record)
                raise DataError(
                    "data.template", f"the column {error}", f"the columns of {self.path.name}: {columns}"
                ) from None
            except (json.JSONDecodeError, TypeError, ValueError, AttributeError, IndexError) as error:
                allowed = f"a JSON object on each line ({error})"
                raise DataError("data.path", f"line {number} of {self.path.name}", allowed) from None
        if not any(text.strip() for text in texts):
            raise DataError("data.path", f"no documents in {self.path.name}", "at least three documents")
        return [text for text in texts if text.strip()]
