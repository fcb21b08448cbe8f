"""How a search stands, wherever it runs: reads what it writes in its output folder.

    python -m search.status runs/math
    python -m search.status runs/math --watch      until it ends, on a terminal

Exit codes: 0 told, 2 something in the arguments is wrong, 130 interrupted.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from search.output.events import Event, Events, SearchEnded, SearchStarted
from search.output.folder import EVENTS, REPORT, RESOLVED, check_search_folder, is_locked
from search.output.object_store import is_url_locked, open_for_reading
from search.progress.state import SearchProgress
from search.progress.table import ProgressTable
from trainables.config.command_line import exit_code, invocation
from trainables.errors import ConfigError, mask_secrets, one_line
from trainables.storage.files import is_url

_PAUSE = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _print_state(options.folder, options.watch))


def _print_state(text: str, watch: bool) -> int:
    if watch and is_url(text):
        raise ConfigError(f"--watch: {one_line(text)} is a URL; name a folder, or leave --watch out")
    with open_for_reading(text) as folder:
        check_search_folder(folder, EVENTS, RESOLVED)
        return _show(Followed(folder, text), watch)


def _show(search: "Followed", watch: bool) -> int:
    console = Console(markup=False, highlight=False)
    search.read()
    if watch and search.runs and console.is_terminal:
        with Live(get_renderable=search.view, console=console, refresh_per_second=2):
            while search.runs:
                time.sleep(_PAUSE)
                search.read()
    else:
        console.print(search.view())
    console.print(search.words, soft_wrap=True)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.status"), description="Tells how a search stands, wherever it runs."
    )
    parser.add_argument("folder", metavar="DIR", help="the output folder of the search, or its URL")
    parser.add_argument("--watch", action="store_true", help="keep showing it until it ends; on a terminal only")
    return parser.parse_args(arguments)


class Followed:
    """A search that another process runs, or ran.

    Args:
        folder: its output, or a copy of it.
        named: what the person named: a folder, or the URL that the copy is of.

    Attributes:
        name: of the search.
        runs: whether it is at work.
        state: how it stands.
    """

    def __init__(self, folder: Path, named: str | None = None) -> None:
        self.name, self.runs = "", False
        self._named = named or str(folder)
        self._folder, self._events = folder, Events(folder / EVENTS)
        self.state = SearchProgress({}, lambda: self._now)
        self._now = 0.0
        self._ended: SearchEnded | None = None
        self._resume_command = ""

    def read(self) -> None:
        """Takes in what the search has written since.

        Raises:
            ConfigError: a line that no search has written.
        """
        # Asked first: what it writes before it ends is read afterwards.
        locked = is_url_locked(self._named) if is_url(self._named) else is_locked(self._folder)
        self._events.hand_to(self._follow)
        self.runs = locked and self._ended is None
        if self.runs:
            self._now = time.time()

    def _follow(self, event: Event) -> None:
        self._now = event.time
        self.state.follow(event)
        if isinstance(event, SearchStarted):
            self.name = event.name
            self._ended, self._resume_command = None, event.resume_command
        elif isinstance(event, SearchEnded):
            self._ended = event

    def view(self) -> ProgressTable:
        return ProgressTable(self.state)

    @property
    def reported(self) -> bool:
        """Whether it has ended and has a report: also where all trials but the baseline failed."""
        ended = self._ended
        return ended is not None and (ended.status == "FINISHED" or (ended.status == "FAILED" and bool(ended.files)))

    @property
    def words(self) -> str:
        """Whether it runs, and if not, why."""
        if self.runs:
            return "running"
        report = f"{mask_secrets(self._named).rstrip('/')}/{REPORT}"
        match self._ended:
            case SearchEnded(status="FINISHED"):
                return f"finished; see {report}"
            # To go on with it would change nothing.
            case SearchEnded(status="FAILED") if self._ended.files:
                return f"failed: no trial but the baseline ran to its end; see {report}"
            case SearchEnded(status="FAILED"):
                reason = f"failed: {self._ended.description}"
            case SearchEnded():
                reason = "interrupted"
            case None:
                reason = "not running: it was killed, or its machine was lost"
        return f"{reason}; go on with: {self._resume_command}"


if __name__ == "__main__":
    sys.exit(main())
