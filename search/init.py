"""Writes a space for your data, with what suits it: looks at a file, a folder, or a data set of the hub.

    python -m search.init problems.jsonl --model hub:owner/name
    python -m search.init texts/ --model builtin/nano --model builtin/micro --output mine.yaml
    python -m search.init owner/name --model models/mine --no-dry-run

What it guesses stands in the file as a comment, and on the terminal; what it cannot tell it asks for in the file.

Exit codes: 0 written, 1 the system refused, 2 something in the arguments or the data is wrong, 130 interrupted.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from search.drafting.data import find_data
from search.drafting.draft import draft_space
from trainables.config.command_line import exit_code, invocation
from trainables.config.model_names import ModelName
from trainables.errors import ConfigError, DataError, ModelError, describe_problem, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _init(options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.init"), description="Writes a space for your data, and prints what its search will do."
    )
    parser.add_argument("data", metavar="DATA", help="a file, a folder, or a data set of the hub: owner/name")
    parser.add_argument("--model", metavar="NAME", action="append", default=[], help="a model, as in hub:owner/name")
    parser.add_argument("--name", metavar="NAME", help="the configuration of the data set of the hub")
    parser.add_argument("--output", metavar="FILE", help="the space's file (default: the data's name with .yaml)")
    parser.add_argument("--overwrite", action="store_true", help="write the file even if it exists")
    parser.add_argument("--no-dry-run", action="store_true", help="do not check the space and print the plan")
    return parser.parse_args(arguments)


def _init(options: argparse.Namespace) -> int:
    stem = re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9_]", "-", Path(options.data).name.partition(".")[0]) or "space"
    output = Path(options.output or f"{stem}.yaml")
    if output.exists() and not options.overwrite:
        raise ConfigError(f"--output: {one_line(str(output))} exists already; name another file, or add --overwrite")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: the folder {one_line(str(output.parent))} does not exist; name another")
    models = {_resolve_model(name): _shorten_model(name, output.parent) for name in options.model}
    try:
        found = find_data(options.data, options.name, output.parent)
        draft = draft_space(found, options.data, models, output)
    except ModelError as error:
        raise ConfigError(f"--model: {describe_problem(error.given, error.allowed, error.nearest)}") from None
    except DataError as error:
        problem = describe_problem(error.given, error.allowed, error.nearest)
        raise ConfigError(f"{one_line(options.data)}: {problem}") from None
    from trainables.storage.files import write_atomic

    write_atomic(output, "\n".join(draft.lines) + "\n")
    print(f"written: {output}")
    print("\n".join(f"  guessed  {line}" for line in draft.guesses))
    command = f"{invocation('search.run')} {shlex.quote(str(output))}"
    if draft.asked:
        print("\n".join(f"  asked    {line}" for line in draft.asked))
        print(f"write into the file what is asked there; then: {command} --dry-run")
        return 0
    if not options.no_dry_run:
        from search.run import main as run

        print(f"\n{command} --dry-run", flush=True)
        if code := run([str(output), "--dry-run"]):
            return code
    print(f"\nsearch with: {command}")
    return 0


def _resolve_model(name: str) -> str:
    """The name of a model, of a path the whole of it; ConfigError if there is none of this name."""
    try:
        return str(TypeAdapter(ModelName).validate_python(name, context={"folder": Path().absolute()}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["ctx"]["problem"]
        raise ConfigError(f"--model: {problem}") from None


def _shorten_model(name: str, folder: Path) -> str:
    """The name of a model as it stands in a file in `folder`."""
    if name.startswith(("hub:", "package:", "builtin/", "~")) or Path(name).is_absolute():
        return name
    relative = os.path.relpath(name, folder)
    return relative if "/" in relative else f"./{relative}"


if __name__ == "__main__":
    sys.exit(main())
