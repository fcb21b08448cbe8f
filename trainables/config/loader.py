"""From a YAML file, and what the command line changes in it, to a configuration; or to one line of what is wrong."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from trainables.config.validation_messages import Problem, shown
from trainables.config.yaml_values import MAX_DEPTH, Place, YamlError, read
from trainables.errors import ConfigError, nearest_word, one_line

MAX_BYTES = 2**20

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class ConfigFile(Generic[Model]):
    """A configuration, and the file it was read from."""

    path: Path
    config: Model
    text: str
    # The line of each place in the file, or the override that set it.
    origins: Mapping[Place, int | str] = field(repr=False, compare=False)

    def error(self, where: str, given: object, allowed: str | None = None, nearest: str | None = None) -> ConfigError:
        """The error for a setting that turned out wrong after loading: a value, or a situation.

        Args:
            where: the dotted path of the setting, as in "resources.workers".
            given: its value, or words that describe it; without `allowed` what is wrong and what to do.
        """
        place = tuple(int(part) if part.isdecimal() else part for part in where.split(".") if part)
        words = given if isinstance(given, str) else shown(given)
        return _error(self.path, self.origins, [Problem(place, words, allowed, nearest)])


def load(
    path: str | Path, overrides: Sequence[str], schema: type[Model], models_are_here: bool = True
) -> ConfigFile[Model]:
    """The configuration in the file `path`, after `overrides` such as "budget.trials=4" or "models.0=builtin/nano".

    Without a name in the file, the stem of the file's name is the name.

    Args:
        models_are_here: whether the folders of its models must exist.

    Raises:
        ConfigError: anything that the author of the file or of the overrides can mend.
    """
    path = Path(path)
    text = _text(path)
    try:
        tree, lines = read(text)
    except YamlError as error:
        raise _error(path, {(): error.line}, [Problem(error.place, error.problem)]) from None
    origins: dict[Place, int | str] = dict(lines)
    if not isinstance(tree, dict):
        problem = "the file is empty" if tree is None else "there is no mapping at the top level"
        keys = " and ".join(name for name, field in schema.model_fields.items() if field.is_required())
        raise _error(path, origins or {(): 1}, [Problem((), f"{problem}; write at least the keys {keys}")])
    for override in overrides:
        _apply(override, tree, origins)
    tree.setdefault("name", re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9_]", "_", path.stem)[:100])
    try:
        config = schema.model_validate(
            tree, context={"folder": path.parent.absolute(), "models_are_here": models_are_here}
        )
    except ValidationError as error:
        raise _error(path, origins, [one["ctx"]["problem"] for one in error.errors(include_url=False)]) from None
    return ConfigFile(path, config, text, origins)


def validate(tree: Mapping[str, Any], schema: type[Model]) -> Model:
    """The configuration in a mapping that comes from no file; paths in it are relative to the current folder.

    Raises:
        ConfigError: anything that its author can mend.
    """
    try:
        return schema.model_validate(tree, context={"folder": Path.cwd(), "models_are_here": False})
    except ValidationError as error:
        raise ConfigError(str(error.errors(include_url=False)[0]["ctx"]["problem"])) from None


def _text(path: Path) -> str:
    try:
        # Opening a pipe would wait for its other end.
        is_stream = path.exists() and not path.is_file() and not path.is_dir()
        content = b"" if is_stream else _head(path)
    except FileNotFoundError:
        beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        nearest = nearest_word(path.name, [file.name for file in beside])
        raise _error(path, {}, [Problem((), "there is no such file; name a YAML file", nearest=nearest)]) from None
    except IsADirectoryError:
        raise _error(path, {}, [Problem((), "this is a folder; name a YAML file")]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _error(path, {}, [Problem((), f"it cannot be read ({reason}); name a YAML file")]) from None
    if is_stream:
        raise _error(path, {}, [Problem((), "this is a pipe or a device; name a YAML file")])
    if len(content) > MAX_BYTES:
        raise _error(path, {}, [Problem((), f"more than {MAX_BYTES} bytes; name a smaller YAML file")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text"
        raise _error(path, {(): line}, [Problem((), problem)]) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _apply(override: str, tree: dict[str, Any], origins: dict[Place, int | str]) -> None:
    """Sets one value in the tree, with the blocks around it where they are missing."""
    origin = f"--set {one_line(override)}"
    where, equals, text = override.partition("=")
    parts = where.strip().split(".")
    if not equals or "" in parts or len(parts) > MAX_DEPTH:
        problem = Problem((), shown(override), "path=value, as in budget.trials=4")
        raise ConfigError(f"{origin}: {problem}")
    try:
        value, inside = read(text)
    except YamlError as error:
        problem = Problem((*parts, *error.place), error.problem)
        raise ConfigError(f"{origin}: {problem}") from None
    outer: Any = tree
    place: Place = ()
    for depth, part in enumerate(parts, 1):
        key: Any = part
        if isinstance(outer, list):
            key = int(part) if re.fullmatch("[0-9]{1,4}", part) else -1
            if not 0 <= key <= len(outer):
                problem = Problem((*place, part), f"the index {part}", f"an index from 0 to {len(outer)}")
                raise ConfigError(f"{origin}: {problem}")
            if key == len(outer):
                outer.append(None)
        place = (*place, key)
        if depth == len(parts):
            outer[key] = value
        elif not isinstance(outer[key] if isinstance(outer, list) else outer.get(key), dict | list):
            outer[key] = [] if re.fullmatch("[0-9]{1,4}", parts[depth]) else {}
            origins[place] = origin
        outer = outer[key]
    for old in [old for old in origins if old[: len(place)] == place]:
        del origins[old]
    origins.update({(*place, *rest): origin for rest in inside or [()]})


def _error(path: Path, origins: Mapping[Place, int | str], found: Sequence[Problem]) -> ConfigError:
    """The first of the problems, and how many more there are.

    What stands in the file comes first, in its order; then what is missing; then what overrides set.
    """

    def origin(problem: Problem) -> int | str | None:
        around = (problem.place[:end] for end in range(len(problem.place), -1, -1))
        return next((origins[place] for place in around if place in origins), None)

    def order(problem: Problem) -> tuple[bool, bool, int]:
        start = origin(problem)
        return isinstance(start, str), problem.place not in origins, start if isinstance(start, int) else 0

    first = min(found, key=order)
    start = origin(first)
    line = "" if start is None else f":{start}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ConfigError(f"{start if isinstance(start, str) else f'{one_line(str(path), 500)}{line}'}: {first}{more}")
