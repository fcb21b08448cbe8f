"""A page that follows a search while it runs, for a browser or a phone; at the end it becomes the report.

    python -m search.run spaces/math.yaml --watch     then open the address that it prints
    python -m search.watch runs/math                  the same of a search that runs already
    python -m search.watch s3://bucket/math --port 8080

Only this machine sees the page, and nothing can be changed there. From another one:
`ssh -L 8765:127.0.0.1:8765 HOST`, then open http://127.0.0.1:8765/.

Exit codes: 2 something in the arguments is wrong, 130 interrupted.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn
from jinja2 import Template
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from search.output.folder import EVENTS, REPORT, RESOLVED, check_search_folder
from search.output.object_store import fetch_output, open_for_reading
from search.progress.table import duration_text, end_text, loss_text, standing_text
from search.results.page.rendering import make_environment
from search.status import Followed
from search.studies.study import describe_reason
from trainables.config.command_line import exit_code, invocation
from trainables.errors import ConfigError
from trainables.storage.files import StorageError, place

_HOST, _PORT = "127.0.0.1", 8765
# Seconds between two looks at a folder, and at a URL, which each look copies.
_PAUSE_S, _URL_PAUSE_S = 1.0, 15.0
# Making the table of all trials takes time, in a long search half a second: so many times as much is waited after it.
_REST = 100
# Seconds that an open page has to become the report when a search that serves it ends.
_LAST_LOOK_S = 3.0
# Nothing from elsewhere is loaded, whatever a name or a setting holds.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _serve(options.folder, options.port))


def _serve(text: str, port: int) -> int:
    with open_for_reading(text) as folder:
        check_search_folder(folder, EVENTS, RESOLVED)
        page = LivePage(folder, text)
        # A damaged folder is told here, and not in the browser.
        page.show()
        with _listen(port) as listening:
            print(_address(listening), flush=True)
            _serve_page(page, listening)
    return 0


@contextmanager
def serve_beside(folder: Path, port: int) -> Iterator[str]:
    """Serves the page of the search that this process runs in `folder`, from another process. Gives its address.

    Raises:
        ConfigError: the port cannot be used.
    """
    with _listen(port, "--watch") as listening:
        address = _address(listening)
        arguments = folder, listening
        process = multiprocessing.get_context("spawn").Process(target=_follow, args=arguments, daemon=True)
        # Ctrl-C is for the search, which ends this process in the end; it is ignored from the first moment on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, before)
    try:
        yield address
    finally:
        process.join(_LAST_LOOK_S)
        process.terminate()
        process.join()


def _follow(folder: Path, listening: socket.socket) -> None:
    _serve_page(LivePage(folder), listening, _Beside)


def _address(listening: socket.socket) -> str:
    return f"http://{_HOST}:{listening.getsockname()[1]}/"


class _Beside(uvicorn.Server):
    """A server that leaves signals to others."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _serve_page(page: "LivePage", listening: socket.socket, kind: type[uvicorn.Server] = uvicorn.Server) -> None:
    # A browser holds its stream open for as long as it is there, or the server.
    config = uvicorn.Config(
        make_app(page, lambda: server.should_exit), log_level="warning", timeout_graceful_shutdown=5
    )
    server = kind(config)
    server.run(sockets=[listening])


def _listen(port: int, option: str = "--port") -> socket.socket:
    listening = socket.socket()
    # A page that is started again at once takes the port of the one before.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else "allowed: from 0 to 65535"
        raise ConfigError(f"{option}: {port} cannot be used ({reason}); name another, or 0 for any free one") from None
    return listening


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.watch"), description="Serves a page, to this machine alone, that follows a search."
    )
    parser.add_argument("folder", metavar="DIR", help="the output folder of the search, or its URL")
    parser.add_argument("--port", type=int, default=_PORT, help=f"0 for any free one (default: {_PORT})")
    return parser.parse_args(arguments)


class Shown(NamedTuple):
    """HTML of a search.

    Attributes:
        now: what it is doing.
        trials: the table of all its trials; empty before any has ended.
    """

    now: str
    trials: str


class LivePage:
    """What the page shows of a search.

    Args:
        folder: its output, or a copy of it.
        named: what the person named: a folder, or the URL that the copy is of.

    Attributes:
        report: the search's own.
    """

    def __init__(self, folder: Path, named: str | None = None) -> None:
        self.report = folder / REPORT
        self._folder, self._search = folder, Followed(folder, named)
        where = place(named or str(folder))
        self._url = None if isinstance(where, Path) else where
        self._pause_s = _PAUSE_S if self._url is None else _URL_PAUSE_S
        environment = make_environment()
        self.whole: Template = environment.get_template("live.html.j2")
        self._body: Template = environment.get_template("live_body.html.j2")
        self._table: Template = environment.get_template("live_trials.html.j2")
        self._lock, self._read_at, self._shown = threading.Lock(), -math.inf, Shown("", "")
        # How many trials had ended when the table was made, and when it may be made again.
        self._tabulated, self._tabulate_at = 0, -math.inf
        self._named, self._drawing = named, threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the search has ended and its report is there."""
        return self._search.reported and self.report.is_file()

    def show(self) -> "Shown":
        """The search as it stands; however many look, the folder is read once in a while.

        Raises:
            ConfigError: a line in events.jsonl that no search has written.
            StorageError: the store of a URL has not answered yet.
        """
        with self._lock:
            if time.monotonic() - self._read_at >= self._pause_s:
                self._read()
                self._read_at = time.monotonic()
            return self._shown

    def report_so_far(self) -> str:
        """The report of the search as it stands, with all its trials: drawing it takes seconds.

        Raises:
            ConfigError: what the search has written is damaged.
        """
        from search.results.archive import load_search
        from search.results.page.page import render_page

        with self._drawing, load_search(self._folder, self._named) as search:
            return render_page([search])

    def _read(self) -> None:
        try:
            if self._url is not None:
                fetch_output(self._url, self._folder)
            self._search.read()
        except StorageError:
            # The store may answer again.
            if not self._shown.now:
                raise
            return
        self._shown = Shown(self._render(), self._tabulate())

    def _tabulate(self) -> str:
        """The table of all trials, made anew when more of them have ended."""
        ended = sum(progress.ended for progress in self._search.state.studies.values())
        if ended == self._tabulated or time.monotonic() < self._tabulate_at:
            return self._shown.trials
        from search.results.archive import load_search
        from search.results.page.trials import tabulate

        began = time.monotonic()
        try:
            with load_search(self._folder, self._named) as search:
                return self._table.render(table=tabulate({search.space.name: search}, running=False))
        except (ConfigError, OSError) as error:
            return self._table.render(error=error)
        finally:
            now = time.monotonic()
            self._tabulated, self._tabulate_at = ended, now + _REST * (now - began)

    def _render(self) -> str:
        search, state = self._search, self._search.state
        running = state.running if search.runs else []
        speeds = [trial.tokens_per_s for trial in running if trial.tokens_per_s is not None]
        busy = state.busy() if search.runs else None
        losses = [loss for trial in running for loss in trial.losses]
        return self._body.render(
            name=search.name or "The search",
            words=search.words,
            runs=search.runs,
            phase=self._phase(),
            facts={
                "running for": duration_text(state.elapsed),
                "time left": duration_text(state.time_left()) if search.runs else "-",
                "tokens/s": f"{sum(speeds):,.0f}" if speeds else "-",
                "slots busy": f"{busy:.0%} of {state.slots}" if busy is not None else f"of {state.slots or '-'}",
            },
            studies=[(name, study, standing_text(study)) for name, study in state.studies.items()],
            running=running,
            nodes=state.nodes if search.runs else {},
            low=min(losses, default=0.0),
            high=max(losses, default=1.0),
            ended=[
                (
                    trial,
                    event,
                    describe_reason(event.reason) if event.reason else "",
                    end_text(state.studies[trial.study], event.objective),
                )
                for trial, event in reversed(state.ended_trials)
            ],
            loss_text=loss_text,
        )

    def _phase(self) -> str:
        if not self._search.runs:
            return "over"
        state = self._search.state
        if state.phase:
            return state.phase
        studies = dict.fromkeys(trial.study for trial in state.running)
        if not studies:
            return "between two trials"
        return ", ".join(
            f"confirmation of {name.removesuffix('/confirmation')}"
            if name.endswith("/confirmation")
            else f"search of {name}"
            for name in studies
        )


def make_app(page: LivePage, ends: Callable[[], bool]) -> Starlette:
    """Args: ends: whether the server is to end."""

    async def show(request: Request) -> Response:
        shown = await run_in_threadpool(page.show)
        if page.over:
            return FileResponse(page.report, headers=_HEADERS)
        return HTMLResponse(page.whole.render(shown=shown), headers=_HEADERS)

    async def follow(request: Request) -> Response:
        return StreamingResponse(_changes(page, ends), media_type="text/event-stream", headers=_HEADERS)

    async def report(request: Request) -> Response:
        try:
            return HTMLResponse(await run_in_threadpool(page.report_so_far), headers=_HEADERS)
        except (ConfigError, OSError) as error:
            return PlainTextResponse(str(error), status_code=503, headers=_HEADERS)

    # Another site's page that calls itself this address is refused (DNS rebinding).
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])
    return Starlette(routes=[Route("/", show), Route("/events", follow), Route("/report", report)], middleware=[hosts])


async def _changes(page: LivePage, ends: Callable[[], bool]) -> AsyncIterator[str]:
    """Server-sent events: the page's HTML, a part whenever it changes, then that the report is there."""
    sent = Shown("", "")
    while not ends():
        try:
            shown = await run_in_threadpool(page.show)
        except (ConfigError, OSError) as error:
            shown = Shown(page.whole.environment.from_string("<p>{{ error }}</p>").render(error=error), sent.trials)
        if page.over:
            yield "event: report\ndata:\n\n"
            return
        # A comment now and then tells the server that the browser has gone.
        yield f"data: {json.dumps(shown.now)}\n\n" if shown.now != sent.now else ":\n\n"
        if shown.trials != sent.trials:
            yield f"event: trials\ndata: {json.dumps(shown.trials)}\n\n"
        sent = shown
        await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
