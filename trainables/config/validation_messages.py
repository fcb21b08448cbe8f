"""What is wrong with a YAML file, in words: pydantic's errors told with the field's own JSON schema.

The schema is the one source of what is allowed, for these messages as for an editor.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from trainables.config.yaml_values import MAX_INTEGER, Place
from trainables.errors import one_line

_MISSING = object()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `given`, `allowed` and `hint` (what to do) are words for the reader."""

    place: Place
    given: str
    allowed: str
    nearest: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        where = f"{one_line('.'.join(map(str, self.place)))}: " if self.place else ""
        hint = f"; {self.hint}" if self.hint else ""
        nearest = f"; did you mean '{one_line(self.nearest)}'?" if self.nearest else ""
        return f"{where}given {one_line(self.given)}; allowed: {one_line(self.allowed, 1000)}{hint}{nearest}"


def shown(value: Any) -> str:
    """A YAML value as its author would know it again."""
    match value:
        case str():
            return f"the text '{value}'" if _number(value) is not None else f"'{value}'"
        case None:
            return "nothing"
        case float() if value != value or value in (float("inf"), float("-inf")):
            return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case bool():
            return str(value).lower()
    return str(value)


def nearest_word(word: object, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` may be a slip of."""
    matches = get_close_matches(word, list(words), n=1) if isinstance(word, str) else []
    return matches[0] if matches else None


def problems(errors: Sequence[ErrorDetails], tree: Any, schema: Mapping[str, Any]) -> list[Problem]:
    """Each of pydantic's errors about `tree`, in words."""
    reader = _Schema(schema)
    # A default that depends on a wrong value is no problem of its own.
    found = [_problem(error, tree, reader) for error in errors if error["type"] != "default_factory_not_called"]
    # A misspelt key is one problem, not a missing key as well.
    meant = {(*problem.place[:-1], problem.nearest) for problem in found if problem.nearest}
    return [problem for problem in found if problem.given != "nothing" or problem.place not in meant]


def _problem(error: ErrorDetails, tree: Any, schema: "_Schema") -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    place = schema.place(error["loc"], tree, names_key=kind in ("missing", "extra_forbidden"))
    if kind == "setting":
        return Problem((*place, *context["where"]), context["given"], context["allowed"], context["nearest"])
    if kind == "extra_forbidden":
        return _unknown_key(place, tree, schema)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        place = (*place, context["discriminator"].strip("'"))
    value, here = _at(tree, place), schema.at(place, tree)
    allowed = schema.describe(here)
    if kind == "finite_number":
        allowed = allowed.replace("a number", "a finite number", 1)
    given = "nothing" if value is _MISSING else shown(value)
    words = schema.words(here)
    hint = None if words else _rewritten(value, [option.get("type") for option in schema.options(here)])
    return Problem(place, given, allowed, nearest_word(value, words), hint)


def _unknown_key(place: Place, tree: Any, schema: "_Schema") -> Problem:
    *block, key = place
    value = _at(tree, tuple(block))
    union = schema.for_type(schema.at(tuple(block), tree), value)
    keys = list(schema.member(union, value)["properties"])
    allowed = ", ".join(keys)
    name, members = schema.members(union)
    owners = [tag for tag, member in members.items() if key in member["properties"]]
    if owners:
        given, hint = f"'{key}' with {name} {value[name]}", f"'{key}' belongs to {name} {' or '.join(owners)}"
        return Problem(place, given, allowed, hint=hint)
    return Problem(place, "an unknown key", allowed, nearest_word(key, keys))


def _at(tree: Any, place: Place) -> Any:
    for part in place:
        if isinstance(tree, dict):
            tree = tree.get(part, _MISSING)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return _MISSING
    return tree


def _rewritten(value: Any, types: Sequence[str | None]) -> str | None:
    """How to write a number that was taken for text."""
    number = _number(value)
    if number is None:
        return None
    if "integer" in types and number.is_integer() and abs(number) <= MAX_INTEGER:
        return f"write {int(number)}"
    if "number" not in types:
        return None
    # YAML 1.1 wants a point in the mantissa and a sign in the exponent.
    mantissa, e, exponent = value.strip().lower().partition("e")
    point = "" if "." in mantissa else ".0"
    sign = "+" if exponent[:1].isdecimal() else ""
    return f"write {mantissa}{point}{e}{sign}{exponent}"


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", value.strip(), re.I | re.A):
        return float(value)
    return None


class _Schema:
    """A JSON schema as pydantic writes it, read along a tree of values."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        fields = [field for block in root["$defs"].values() for field in block["properties"].values()]
        self._tags = {"fixed", "range", "choices"} | {field["const"] for field in fields if "const" in field}

    def place(self, loc: Sequence[str | int], tree: Any, names_key: bool) -> Place:
        """`loc` without what pydantic adds to it: tags of unions, and the index of a mapping that is no list.

        No setting has the name of a tag: such a part is a key only where `names_key` (the last part of the
        `loc` of an unknown or a missing key).
        """
        place: Place = ()
        for index, part in enumerate(loc):
            is_key = names_key and index == len(loc) - 1
            is_index_of_mapping = isinstance(part, int) and isinstance(_at(tree, place), dict)
            if is_key or not (part in self._tags or is_index_of_mapping):
                place = (*place, part)
        return place

    def at(self, place: Place, tree: Any) -> Mapping[str, Any]:
        """The schema of a place, whatever stands there."""
        here, value = self.root, tree
        for part in place:
            union = self.for_type(here, value)
            name, members = self.members(union)
            if part == name:
                return {"enum": list(members)}
            block = self.member(union, value)
            here = self._resolved(block["items"] if isinstance(part, int) else block["properties"][part])
            value = _at(value, (part,))
        return here

    def for_type(self, here: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
        """Of several types that may stand in a place, the one for a mapping or a list, if `value` is such."""
        if "discriminator" in here:
            return here
        keys = ("properties", "discriminator") if isinstance(value, dict) else ("items",)
        return next((option for option in self.options(here) if any(key in option for key in keys)), here)

    def members(self, union: Mapping[str, Any]) -> tuple[str | None, dict[str, Mapping[str, Any]]]:
        """The key that tells the members of a union apart, and the members by its value."""
        discriminator = union.get("discriminator", {"propertyName": None, "mapping": {}})
        members = {tag: self._resolved({"$ref": ref}) for tag, ref in discriminator["mapping"].items()}
        return discriminator["propertyName"], members

    def member(self, union: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
        """The member of a union that `value` names."""
        name, members = self.members(union)
        return members[value[name]] if members else union

    def options(self, here: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """All that may stand in a place: the members of unions, and of unions within them that have no key of their own
        to tell their members apart."""
        members = [self._resolved(option) for option in [*here.get("oneOf", []), *here.get("anyOf", [])]]
        if not members:
            return [self._resolved(here)]
        inner = [[member] if {"discriminator", "allowed"} & set(member) else self.options(member) for member in members]
        return [option for options in inner for option in options]

    def words(self, here: Mapping[str, Any]) -> list[str]:
        """The words that may stand in a place."""
        return [word for option in self.options(here) for word in option.get("enum", [option.get("const")]) if word]

    def _resolved(self, here: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = here.get("$ref")
        resolved: Mapping[str, Any] = self.root["$defs"][reference.rpartition("/")[2]] if reference else here
        return resolved

    def describe(self, here: Mapping[str, Any]) -> str:
        """What a schema allows, in words."""
        if "allowed" in here:
            return str(here["allowed"])
        options = self.options(here)
        if "discriminator" in here:
            name, members = self.members(here)
            return f"a mapping with {name}: {', '.join(members)}"
        if len(options) > 1:
            texts = [
                "a list of such choices" if option.get("items") == options[0] else self.describe(option)
                for option in options
            ]
            return " or ".join(texts)
        if words := self.words(here):
            return ", ".join(words)
        match here.get("type"):
            case "integer":
                return f"an integer{_bounds(here)}"
            case "number":
                return f"a number{_bounds(here)}"
            case "array":
                return f"a list of at least one: {self.describe(self._resolved(here['items']))}"
            case "object":
                return f"a mapping {{{', '.join(here['properties'])}}}"
            case "boolean":
                return "true, false"
            case "null":
                return "null"
        return "text"


def _bounds(here: Mapping[str, Any]) -> str:
    if "minimum" in here and "maximum" in here:
        return f" from {here['minimum']} to {here['maximum']}"
    names = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return " and".join(f" {words} {here[name]}" for name, words in names.items() if name in here)
