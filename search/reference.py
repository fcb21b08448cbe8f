"""Every key of a space, as a page for people; made from the schema."""

import json
from collections.abc import Iterator
from typing import Any

_HEAD = """\
# Every key of a space

Made from the schema, by `python -m search.space --reference > spaces/REFERENCE.md`. A key that *can be searched* takes
a fixed value, a range such as `{low: 0.1, high: 0.9}` (with `log: true` for a logarithmic scale), or a list of choices
such as `[0.1, 0.5]`. `spaces/math.yaml` shows most of them in their place.
"""
_TABLE = "| key | default | what it is |\n|---|---|---|"
# A schema's names for ranges.
_RANGE = "FloatRange"


def reference(schema: dict[str, Any]) -> str:
    """The page, in markdown.

    Args:
        schema: the JSON schema of a space.
    """
    return _HEAD + "\n" + "\n\n".join(_sections(schema, schema["$defs"], "", None)) + "\n"


def _sections(block: dict[str, Any], definitions: dict[str, Any], path: str, title: str | None) -> Iterator[str]:
    """The section of a block, and those of the blocks in it."""
    rows, inner = [], []
    for key, setting in block["properties"].items():
        names = list(_references(setting))
        blocks = [name for name in names if not name.startswith(_RANGE)]
        where = f"{path}{key}"
        rows.append(f"| `{where}` | {_default(block, key, setting, bool(blocks))} | {_about(setting, names)} |")
        kinds = len(blocks) > 1
        inner += [(definitions[name], where, _title(definitions[name], where, kinds)) for name in blocks]
    head = [f"## {title}"] if title is not None else []
    about = [block["description"]] if title is not None and "description" in block else []
    yield "\n\n".join([*head, *about, "\n".join([_TABLE, *rows])])
    for definition, where, its_title in inner:
        yield from _sections(definition, definitions, f"{where}.", its_title)


def _references(setting: Any) -> Iterator[str]:
    """The names of the definitions that a setting may be one of."""
    if isinstance(setting, dict):
        if "$ref" in setting:
            yield setting["$ref"].rpartition("/")[2]
        for part in ("anyOf", "oneOf", "items"):
            yield from _references(setting.get(part))
    elif isinstance(setting, list):
        for part in setting:
            yield from _references(part)


def _title(definition: dict[str, Any], path: str, kinds: bool) -> str:
    """The block's path, and what tells it from others that may stand there."""
    consts = [(key, value["const"]) for key, value in definition["properties"].items() if "const" in value]
    return f"`{path}`" + (f" with `{consts[0][0]}: {consts[0][1]}`" if kinds and consts else "")


def _default(block: dict[str, Any], key: str, setting: dict[str, Any], is_block: bool) -> str:
    if key in block.get("required", ()):
        return "*required*"
    if "default" not in setting:
        return ""
    default = setting["default"]
    return "see below" if is_block and default is not None else f"`{json.dumps(default)}`".replace("|", "\\|")


def _about(setting: dict[str, Any], names: list[str]) -> str:
    text = " ".join(setting.get("description", "").split()).replace("|", "\\|")
    return f"{text} Can be searched." if any(name.startswith(_RANGE) for name in names) else text
