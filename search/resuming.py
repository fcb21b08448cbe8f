"""Whether an output folder is free for a new search, or holds the search that is to go on."""

from pathlib import Path
from typing import Any

from search.folder import RESOLVED
from search.lock import NAME as LOCK
from search.space import Space, to_store
from trainables.config.loader import ConfigFile
from trainables.config.validation_messages import shown
from trainables.config.yaml_values import YamlError, read
from trainables.errors import ConfigError, one_line

# What a search that goes on may have more of than it began with, and the blocks that may change: what it runs on.
_MAY_GROW = ("budget.trials", "budget.tokens", "budget.hours", "budget.device_hours")
_MAY_CHANGE = ("resources", "faults", "tracking")


def check_output(space_file: ConfigFile[Space], output: Path, resume: bool) -> None:
    """An output folder is new, or it holds this search and the person wants to go on with it."""
    if not resume:
        try:
            holds_something = output.exists() and (
                not output.is_dir() or any(path.name != LOCK for path in output.iterdir())
            )
        except OSError as error:
            raise ConfigError(
                f"--output: given {one_line(str(output))}; allowed: a folder ({error.strerror})"
            ) from None
        if holds_something:
            raise ConfigError(
                f"--output: given {output}, which already holds something; allowed: a new folder, "
                "or --resume to go on with the search in it"
            )
        return
    before, now = _began_with(output), to_store(space_file.config)
    for changed, was, given in changes(before, now):
        if changed.partition(".")[0] in _MAY_CHANGE:
            continue
        if changed not in _MAY_GROW:
            allowed = f"{shown(was)}, as it was; with --resume, only {', '.join(_MAY_GROW)} may grow"
            raise space_file.error(changed, shown(given), f"{allowed}, and {', '.join(_MAY_CHANGE)} may change")
        if was is not None and not isinstance(was, int | float):
            path = output / RESOLVED
            raise ConfigError(f"--resume: {path}: {changed}: given {one_line(shown(was))}; allowed: a number or null")
        # null is no limit.
        if given is not None and (was is None or given < was):
            allowed = "null, as it was" if was is None else f"at least {was}"
            raise space_file.error(changed, given, f"with --resume, {allowed}")


def _began_with(output: Path) -> dict[str, Any]:
    """The space that the search in `output` began with, as resolved.yaml has it: without secrets.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = output / RESOLVED
    try:
        there = path.is_file()
        text = path.read_text(encoding="utf-8") if there else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        given = one_line(str(path))
        raise ConfigError(f"--resume: given {given}; allowed: a file that can be read ({reason})") from None
    if not there:
        raise ConfigError(f"--resume: given {output}, which holds no search; allowed: the folder of a search")
    try:
        before, _ = read(text)
    except YamlError as error:
        given = one_line(error.given)
        raise ConfigError(
            f"--resume: {path}:{error.line}: given {given}; allowed: the file as the search wrote it"
        ) from None
    if not isinstance(before, dict) or not isinstance(before.get("budget"), dict):
        raise ConfigError(f"--resume: given {path}, which holds no space; allowed: the file as the search wrote it")
    return before


def changes(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted paths of the values that differ, each with what it was and what it is."""
    if before is None and isinstance(now, dict):
        # A block that a search of an earlier version did not have.
        before = {}
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [c for key in keys for c in changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)]
    return [] if before == now else [(path, before, now)]
