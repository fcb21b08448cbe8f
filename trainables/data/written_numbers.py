"""Numbers of JSON files that Python would write in another way, such as 1.50, 1e5 and 1e400, in chats.

A model learns a call of a tool as it stands in the file. transformers makes Python's own numbers of all that a chat
template sees, and json has no other: hence a way around both.
"""

import json
import re
from collections.abc import Mapping
from typing import Any


class Written(float):
    """A number that is written as it stands in its file."""

    def __new__(cls, text: str) -> "Written":
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        # Documents are pickled.
        return (self.text,)


def has_written(value: Any) -> bool:
    match value:
        case Mapping():
            return any(map(has_written, value.values()))
        case list() | tuple():
            return any(map(has_written, value))
    return isinstance(value, Written)


def write_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """What json.dumps gives of a chat's values; numbers as they are written."""
    texts: list[str] = []

    def mark(one: Any) -> Any:
        match one:
            case Written():
                texts.append(one.text)
                # No chat has a NUL character.
                return f"\0{len(texts) - 1}\0"
            case Mapping():
                return {key: mark(inner) for key, inner in one.items()}
            case list() | tuple():
                return [mark(inner) for inner in one]
        return one

    written = json.dumps(mark(value), ensure_ascii=ensure_ascii, **how)
    return re.sub(r'"\\u0000(\d+)\\u0000"', lambda found: texts[int(found[1])], written) if texts else written
