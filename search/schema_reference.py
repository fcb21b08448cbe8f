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


def render_reference(schema: dict[str, Any]) -> str:
    """The page, in markdown.

    Args:
        schema: the JSON schema of a space.
    """
    return _HEAD + "\n" + "\n\n".join(_sections(schema, schema["$defs"], "", None)) + "\n"


def _sections(
    block: dict[str, Any], definitions: dict[str, Any], path: str, title: str | None, kind: str = ""
) -> Iterator[str]:
    """The section of a block, and those of the blocks in it.

    Args:
        kind: what tells the block from others that may stand there.
    """
    rows, inner = [], []
    for key, setting in block["properties"].items():
        # A key that takes one block or a list of them names them twice.
        names = list(dict.fromkeys(_references(setting)))
        blocks = [name for name in names if not name.startswith(_RANGE)]
        where = f"{path}{key}"
        default = _default(block, key, setting, [definitions[name] for name in blocks])
        rows.append(f"| `{where}` | {default} | {_about(setting, names)} |")
        inner += [
            (definitions[name], where, (_kind(definitions[name]) if len(blocks) > 1 else "") or kind) for name in blocks
        ]
    head = [f"## {title}"] if title is not None else []
    about = [block["description"]] if title is not None and "description" in block else []
    yield "\n\n".join([*head, *about, "\n".join([_TABLE, *rows])])
    for definition, where, its_kind in inner:
        yield from _sections(definition, definitions, f"{where}.", f"`{where}`{its_kind}", its_kind)


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


def _kind(definition: dict[str, Any]) -> str:
    consts = [(key, value["const"]) for key, value in definition["properties"].items() if "const" in value]
    return f" with `{consts[0][0]}: {consts[0][1]}`" if consts else ""


def _default(block: dict[str, Any], key: str, setting: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    if key in block.get("required", ()):
        return "*required*"
    if "default" not in setting:
        return ""
    default = setting["default"]
    if len(blocks) == 1 and default == {name: its.get("default") for name, its in blocks[0]["properties"].items()}:
        return "see below"
    return f"`{json.dumps(_simplify(default))}`".replace("|", "\\|")


def _simplify(default: Any) -> Any:
    """A default as a person writes it: what is null, and the linear scale of a range, is left out."""
    if isinstance(default, dict):
        kept = {key: _simplify(value) for key, value in default.items() if value is not None}
        return {key: value for key, value in kept.items() if (key, value) != ("log", False)}
    return [_simplify(value) for value in default] if isinstance(default, list) else default


def _about(setting: dict[str, Any], names: list[str]) -> str:
    text = " ".join(setting.get("description", "").split()).replace("|", "\\|")
    return f"{text} Can be searched." if any(name.startswith(_RANGE) for name in names) else text
