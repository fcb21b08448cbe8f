"""What the command lines share: a YAML file, overrides of it, an output folder, and going on after an interruption."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from trainables.errors import ConfigError, mask_secrets


def configured(parser: argparse.ArgumentParser, metavar: str, file: str, outputs: str) -> argparse.ArgumentParser:
    """Adds the arguments `file`, `set`, `output` and `resume`.

    Args:
        metavar, file: name of the YAML file in the help, and what it is.
        outputs: the folder that output folders lie in by default.
    """
    parser.add_argument("file", metavar=metavar, help=file)
    parser.add_argument("--resume", action="store_true", help="go on with what is in the output folder")
    parser.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], help="override a value, as in budget.epochs=4"
    )
    parser.add_argument("--output", metavar="DIR", help=f"output folder (default: {outputs}/<name>)")
    return parser


def exit_code(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """What `command` returns, or what its error means, told in one line: 2 a person can mend it, 1 the system refused,
    130 interrupted."""
    try:
        return command()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def invocation(module: str) -> str:
    """How a module's command begins, the way that this process was started."""
    if Path(sys.argv[0]).stem == "entrodrop":
        return f"entrodrop {module.rpartition('.')[2]}"
    return f"python -m {module}"


def resume_command(options: argparse.Namespace, module: str) -> str:
    """The command that goes on where the one with these options was interrupted, with secrets masked."""
    parts = [options.file]
    for override in options.set:
        parts += ["--set", mask_secrets(override)]
    if options.output:
        parts += ["--output", mask_secrets(options.output)]
    return f"{invocation(module)} {shlex.join([*parts, '--resume'])}"
