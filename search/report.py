"""The report of a search, or of several side by side, as one HTML file that needs no network.

    python -m search.report runs/math                                        runs/math/report.html
    python -m search.report runs/math runs/code --output both.html

Of several it also says what differed in their spaces, and which of their losses may be compared. A search writes its
own at its end; of one that has not finished the report shows what there is so far.

Exit codes: 0 written, 1 it could not be, 2 something in the arguments is wrong, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from search.output.folder import REPORT, RESOLVED, check_search_folder
from search.output.object_store import open_for_reading
from trainables.config.command_line import exit_code, invocation
from trainables.errors import ConfigError, mask_secrets
from trainables.storage.files import is_url, place, replace_file, store_errors


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _write(options.folders, options.output))


def _write(texts: Sequence[str], output: Path | None) -> int:
    if output is None and len(texts) > 1:
        raise ConfigError("--output: the report of several searches is in no folder of theirs; name a file for it")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output: {output} is a folder; name a file")
    with ExitStack() as stack:
        folders = [stack.enter_context(open_for_reading(text)) for text in texts]
        # Told before what takes seconds to import.
        for folder in folders:
            check_search_folder(folder, RESOLVED)
        from search.results.archive import load_search
        from search.results.page.page import write_page

        path = output or folders[0] / REPORT
        named = zip(folders, texts, strict=True)
        write_page(path, [stack.enter_context(load_search(folder, text)) for folder, text in named])
        if output is None and is_url(texts[0]):
            page = place(texts[0]) / REPORT
            with store_errors(page):
                replace_file(page, path.read_bytes())
            print(mask_secrets(str(page)))
        else:
            print(path)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.report"),
        description="Writes the report of a search, or of several side by side.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="the output folder of a search, or its URL")
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: report.html in DIR")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
