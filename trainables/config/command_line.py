"""What the command lines share: a YAML file, overrides of it, an output folder, and going on after an interruption."""

import argparse
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from trainables.errors import TEMPLATES, ConfigError, mask_secrets


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


def show_any_character() -> None:
    """What the encoding of stdout has no character for is written as \\xe9 and the like."""
    # Not a file that a test, or a caller, has put in its place.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def exit_code(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """What `command` returns, or what its error means, told in one line: 2 a person can mend it, 1 the system refused,
    130 interrupted."""
    show_any_character()
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


_TEMPLATE = re.compile(rf"data\.({'|'.join(TEMPLATES)})=")


@dataclass(frozen=True)
class CommandLine:
    """How a command was started, for the lines that go on with it or repeat it; with secrets masked. Templates may
    look like one, and are kept.

    Attributes:
        begin: what the line begins with, as `invocation` has it.
        overrides: each as PATH=VALUE.
        output: None for the default one.
    """

    begin: str
    file: str
    overrides: tuple[str, ...] = ()
    output: str | None = None

    @classmethod
    def of(cls, options: argparse.Namespace, module: str) -> "CommandLine":
        overrides = tuple(each if _TEMPLATE.match(each) else mask_secrets(each) for each in options.set)
        return cls(invocation(module), options.file, overrides, options.output and mask_secrets(options.output))

    def resumed(self, changes: Mapping[str, object] = MappingProxyType({})) -> str:
        """The line that goes on, with other values."""
        return self._line(self.overrides, changes, self.output, ["--resume"])

    def repeated(self, changes: Mapping[str, object], output: str) -> str:
        """The line that begins anew, with other values and another output."""
        return self._line(self.overrides, changes, output, [])

    def _line(
        self, overrides: Iterable[str], changes: Mapping[str, object], output: str | None, flags: Iterable[str]
    ) -> str:
        kept = [each for each in overrides if each.partition("=")[0] not in changes]
        parts = [self.file]
        for override in (*kept, *(f"{path}={value}" for path, value in changes.items())):
            parts += ["--set", override]
        if output:
            parts += ["--output", output]
        return f"{self.begin} {shlex.join([*parts, *flags])}"
