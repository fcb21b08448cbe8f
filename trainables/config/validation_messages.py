"""What is wrong with a YAML file, in words: pydantic's errors with the description of the field that each is about.

A description reads "WHAT IT IS: WHAT IS ALLOWED."; its error reads "given X; allowed: WHAT IS ALLOWED (what it is)". A
description without a colon leaves what is allowed to the field around it, as that of a range's `low` does.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from trainables.config.yaml_values import Place
from trainables.errors import describe_problem, nearest_word, one_line


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a value, or a situation (see `describe_problem`)."""

    place: Place
    given: str
    allowed: str | None = None
    nearest: str | None = None
    is_unknown_key: bool = False

    def __str__(self) -> str:
        where = f"{one_line('.'.join(map(str, self.place)))}: " if self.place else ""
        given = one_line(self.given) if self.allowed is not None else self.given
        return where + one_line(describe_problem(given, self.allowed, self.nearest), 1500)


def wrong(place: Place, given: str, allowed: str | None = None, nearest: str | None = None) -> PydanticCustomError:
    """The error of a validator: a value, or a situation (see `describe_problem`).

    Args:
        place: within what is validated.
    """
    return _error(Problem(place, given, allowed, nearest))


def _error(problem: Problem) -> PydanticCustomError:
    return PydanticCustomError("setting", "{problem}", {"problem": problem})


def shown(value: Any) -> str:
    """A YAML value as its author would know it again."""
    match value:
        case str():
            return f"the text '{value}'" if _is_number(value) else f"'{value}'"
        case None:
            return "nothing"
        case float() if value != value or value in (float("inf"), float("-inf")):
            return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case bool():
            return str(value).lower()
    return str(value)


def explain(block: type[BaseModel], value: Any, errors: Sequence[ErrorDetails]) -> list[InitErrorDetails]:
    """The errors that `block` found in `value`, each as the error of a `Problem` with its place in `value`.

    Those of blocks within it are explained already, but for what only the field around them knows.
    """
    found = [_problem(block, value, error) for error in errors if error["type"] != "default_factory_not_called"]
    # A misspelt key is one problem, not a missing key as well.
    missing = {error["loc"] for error in errors if error["type"] == "missing"}
    meant = {(problem.nearest,) for problem in found if problem.is_unknown_key} & missing
    return [{"type": _error(problem), "loc": (), "input": value} for problem in found if problem.place not in meant]


def _problem(block: type[BaseModel], value: Any, error: ErrorDetails) -> Problem:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    keys = ", ".join(block.model_fields)
    if not error["loc"]:
        return Problem((), shown(given), f"a mapping {{{keys}}}")
    name = str(error["loc"][0])
    if kind == "extra_forbidden":
        return Problem((name,), "an unknown key", keys, nearest_word(name, block.model_fields), is_unknown_key=True)
    field = block.model_fields[name]
    allowed = _allowed(field.description or "")
    # The rest of `loc` is what pydantic adds, as the keys within are in the Problem: tags of unions, and the index of a
    # mapping that stands for a list of one.
    is_list = isinstance(value.get(name), list)
    place: Place = (name, *(part for part in error["loc"][1:] if is_list and isinstance(part, int)))
    if kind == "setting":
        inner: Problem = context["problem"]
        problem = replace(
            inner, place=(*place, *inner.place), allowed=allowed if inner.allowed == "" else inner.allowed
        )
        owners = _owners(field.annotation, inner.place[0]) if inner.is_unknown_key and len(inner.place) == 1 else ""
        return replace(problem, allowed=f"{problem.allowed}; {owners}", nearest=None) if owners else problem
    if kind == "missing":
        return Problem(place, "nothing", allowed)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        words = [word for _, word, _ in _find_kinds(field.annotation)]
        return Problem((*place, key), shown(given.get(key)), ", ".join(words), nearest_word(given.get(key), words))
    if kind == "literal_error":
        return Problem(place, shown(given), allowed, nearest_word(given, re.findall(r"'(.*?)'", context["expected"])))
    if kind == "finite_number":
        return Problem(place, f"{shown(given)}, which is not finite", allowed)
    if kind in ("int_type", "float_type") and isinstance(given, str) and _is_number(given):
        return Problem(place, shown(given), f"{allowed}; write {given.strip()} without quotes" if allowed else "")
    if kind == "string_type" and isinstance(given, int | float):
        return Problem(place, shown(given), f"{allowed}; write it in quotes")
    return Problem(place, shown(given), allowed)


def _allowed(description: str) -> str:
    what, colon, allowed = " ".join(description.split()).rstrip(".").partition(": ")
    # In the middle of a sentence; AdamW and GPUs stay as they are.
    what = re.sub(r"^[A-Z](?=[a-z]*\b)", lambda first: first[0].lower(), what)
    return f"{allowed} ({what})" if colon else ""


def _find_kinds(annotation: Any) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """The blocks that may stand in a field and are told apart by a key: that key, its word, the block."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            if len(words) == 1:
                yield name, words[0], annotation
    for inner in get_args(annotation):
        yield from _find_kinds(inner)


def _owners(annotation: Any, key: str | int) -> str:
    owners = [(name, word) for name, word, block in _find_kinds(annotation) if key in block.model_fields]
    return f"'{key}' belongs to {owners[0][0]} {' or '.join(word for _, word in owners)}" if owners else ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", text.strip(), re.I | re.A) is not None
