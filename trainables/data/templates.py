"""From records with columns to documents, by templates such as "{question}\\n{answer}"."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from trainables.data.documents import Document, content_hash
from trainables.errors import DataError


@dataclass(frozen=True)
class Templates:
    """What turns a record into a document.

    Attributes:
        text, prompt, answer: of the document, with columns in braces. Documents with the same prompt are a group.
    """

    text: str
    prompt: str | None = None
    answer: str | None = None

    def documents(self, records: Iterable[tuple[str, Mapping[str, Any]]], where: str) -> Iterator[Document]:
        """The documents that are not empty.

        Args:
            records: each with where it stands, as in "line 3 of data.jsonl".

        Raises:
            DataError: a column that does not exist or has no value.
        """
        for place, record in records:
            text = _filled("template", self.text, record, place, where)
            if not text.strip():
                continue
            prompt = _filled("prompt", self.prompt, record, place, where) if self.prompt else ""
            answer = _filled("answer", self.answer, record, place, where) if self.answer else None
            yield Document(text, content_hash(prompt or text), prompt, answer)


def _filled(field: str, template: str, record: Mapping[str, Any], place: str, where: str) -> str:
    try:
        text = template.format_map(_Present(record))
        text.encode()
    except KeyError as error:
        column = str(error.args[0])
        close = get_close_matches(column, record, n=1)
        raise DataError(
            f"data.{field}",
            f"the column '{column}'",
            f"the columns of {where}: {', '.join(map(str, record))}",
            close[0] if close else None,
        ) from None
    # JSON can hold half of a character, as in "\\ud800".
    except UnicodeEncodeError:
        raise DataError(f"data.{field}", f"{template} with {place}", "text that is Unicode") from None
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"data.{field}", f"{template} with {place}", f"columns with a value ({error})") from None
    return text


class _Present(dict[str, Any]):
    """A record whose columns without a value are not there to be written as "None"."""

    def __getitem__(self, column: str) -> Any:
        value = super().__getitem__(column)
        if value is None:
            raise ValueError(f"the column '{column}' has none")
        return value
