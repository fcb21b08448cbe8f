"""The report of a search, or of several side by side, as one HTML file that needs no network.

    python -m search.report runs/math                                        runs/math/report.html
    python -m search.report runs/math runs/code --output both.html

A search writes its own at its end; of one that has not finished the report shows what there is so far.

Exit codes: 0 written, 1 it could not be, 2 something in the arguments is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from search.folder import REPORT, check_holds
from search.folder import RESOLVED as NEEDED
from trainables.config.file import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        if options.output is None and len(options.folders) > 1:
            raise ConfigError("--output: given none; allowed: a file, where the report is of several searches")
        for folder in options.folders:
            check_holds(folder, NEEDED)
        output = options.output or options.folders[0] / REPORT
        # They take seconds to import.
        from search.page import write_page
        from search.reopened import reopened

        with ExitStack() as stack:
            write_page(output, [stack.enter_context(reopened(folder)) for folder in options.folders])
        print(output)
        return 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.report", description="Writes the report of a search, or of several side by side."
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="the output folder of a search")
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: report.html in DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
