"""YAML as plain Python values, with the line of each of them; and back.

Only mappings with text keys, lists, text, numbers, booleans and null are read, by the core schema of YAML 1.2: 1e-4 is
a number; no, on, 1:30 and 2030-01-01 are text. Unlike there, 0x1F and 0o17 are text, and 1_000 is a number. Tags are
refused.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

# Where a value stands: the keys and list indices that lead to it.
Place = tuple[str | int, ...]

MAX_DEPTH = 32
# Aliases of aliases grow exponentially; this is far above what a configuration needs.
MAX_VALUES = 10_000
# Beyond it, integers are not exact in JSON, nor in a float.
MAX_INTEGER = 2**53 - 1

_TAG = "tag:yaml.org,2002:"
_DIGITS = "[0-9]+(?:_[0-9]+)*"
# Of what may be written without quotes, by its first character.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (rf"[-+]?{_DIGITS}", list("-+0123456789")),
    "float": (
        rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


@dataclass(eq=False)
class YamlError(Exception):
    """Text that is not the YAML that is read here; `problem` is a situation, `line` counts from 1."""

    line: int
    place: Place
    problem: str


def read(text: str) -> tuple[Any, dict[Place, int]]:
    """The values in `text`, and the line (from 1) of each place: of a key, or of a list's item.

    An empty text is None, without lines.

    Raises:
        YamlError: broken YAML, a repeated key, a key that is no text, a tag; too deep, too long, too large.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refuse_broken(mark.line + 1 if mark else 1, error.problem or error.context or "a syntax error") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise _refuse_broken(line, f"the character U+{ord(text[int(error.position)]):04X}") from None
    except (ValueError, OverflowError) as error:
        # PyYAML lets the ValueError of an escape such as "\UFFFFFFFF" through.
        raise _refuse_broken(loader.line + 1 if loader else 1, str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()
    lines: dict[Place, int] = {}
    if node is None:
        return None, lines
    return _value(node, (), _line(node), lines), lines


def to_yaml(values: Any) -> str:
    """`values` as YAML, in their order."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _refuse_broken(line: int, problem: str) -> YamlError:
    return YamlError(line, (), f"broken YAML ({problem}); check the indentation and the quotes")


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses deep nesting before Python's own stack does, and many values before they take seconds."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        # A value has a key at most.
        if self.nodes > 2 * MAX_VALUES:
            raise _too_many(self.line + 1, ())
        if self.depth > MAX_DEPTH:
            raise _too_deep(self.line + 1, ())
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Quotes the text that a reader of YAML 1.1 or 1.2 would take for something else."""


_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})$"), _first)


def _too_deep(line: int, place: Place) -> YamlError:
    return YamlError(line, place[:3], f"more than {MAX_DEPTH} levels of nesting; write fewer")


def _too_many(line: int, place: Place) -> YamlError:
    return YamlError(line, place[:3], f"more than {MAX_VALUES} values; write fewer")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _value(node: yaml.Node, place: Place, line: int, lines: dict[Place, int]) -> Any:
    lines[place] = line
    if len(lines) > MAX_VALUES:
        raise _too_many(line, place)
    # A recursive alias ends here too.
    if len(place) > MAX_DEPTH:
        raise _too_deep(line, place)
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, place, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(item, (*place, i), _line(item), lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place, line)
    raise _refuse_tag(node, place, line)


def _mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(line, place, "a list or a mapping stands as a key; write text")
        key = _scalar(key_node, place, line)
        if not isinstance(key, str):
            raise YamlError(line, place, f"the key {key_node.value} is not text; write it in quotes")
        if key in values:
            first = lines[*place, key]
            raise YamlError(line, (*place, key), f"given a second time (first on line {first}); leave one of them out")
        values[key] = _value(value_node, (*place, key), line, lines)
    return values


def _scalar(node: yaml.ScalarNode, place: Place, line: int) -> Any:
    text: str = node.value
    # What a tag that is written out says may be wrong, as in !!int x.
    with suppress(KeyError, ValueError):
        match node.tag.removeprefix(_TAG):
            case "str":
                # YAML's escapes write a character above U+FFFF as one, unlike those of JSON.
                if half := re.search("[\ud800-\udfff]", text):
                    problem = f"half of a character (U+{ord(half[0]):04X}); write the whole one, as it is"
                    raise YamlError(line, place, problem)
                return text
            case "null":
                return None
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "int":
                # The length first: Python refuses to convert thousands of digits.
                if len(text) > 40 or abs(int(text)) > MAX_INTEGER:
                    raise YamlError(line, place, f"an integer beyond {MAX_INTEGER}; write a smaller one")
                return int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise _refuse_tag(node, place, line)


def _refuse_tag(node: yaml.Node, place: Place, line: int) -> YamlError:
    tag = node.tag.replace(_TAG, "!!")
    return YamlError(line, place, f"the tag {tag} is not read; leave it out")
