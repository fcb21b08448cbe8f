"""What the page that follows a search costs it.

    python -m tests.benchmarks.watch [--epochs 60] [--pages 2] [--json FILE] [--quick]

A search of builtin/nano by the real command, with two slots and --watch, while as many pages are open. The CPU time of
the page's own process is set against that of all the search's other processes (driver, Ray, slots, workers), from the
first evaluation to the end of the trials. On a machine that the search keeps busy, this is what the search loses.

Keys: share (page_s / search_s; goal: less than 0.01); page_s, search_s: CPU seconds; start_s: CPU seconds in which the
page's process started, and pages_bytes: that all pages were sent.
"""

import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil

from tests import DEADLINE_S
from tests.scripts import parse, parser_of, write_results
from tests.searches import SPACE, Searches, end_searches
from trainables.storage.cache import default_root

# Seconds between two looks at the processes: one that ends in between loses so much.
_PAUSE_S = 0.5


class Page(threading.Thread):
    """An open page. Attributes: size: bytes that it was sent."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.size, self._address = 0, address

    def run(self) -> None:
        # The search ends, and its page with it.
        with suppress(OSError), urlopen(f"{self._address}events") as stream:
            for line in stream:
                self.size += len(line)


def find_server(search: psutil.Process, port: int) -> psutil.Process:
    """The process that serves the page."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for process in search.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")):
                    return process
        time.sleep(_PAUSE_S)
    raise TimeoutError("no process serves the page")


def add_cpu_seconds(processes: list[psutil.Process], known: dict[int, float]) -> None:
    """Args: known: CPU seconds of each process since it started, which are brought up to date."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            known[process.pid] = times.user + times.system


def measured(epochs: int, pages: int, folder: Path) -> dict[str, float]:
    content = SPACE | {
        "data": SPACE["data"] | {"train": 16, "validation": 16},
        "budget": {"trials": 4, "epochs": epochs},
        "early_stopping": {"pruner": "none", "patience": None},
        "confirmation": None,
        "resources": {"slots": 2},
    }
    searches = Searches(folder, content, cache=default_root())
    process = searches.start("watched", "--watch")
    assert process.stdout is not None
    address = next(line for line in process.stdout if line.startswith("page: ")).split()[1]
    # What it prints must not fill the pipe.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    search = psutil.Process(process.pid)
    server = find_server(search, int(address.rstrip("/").rpartition(":")[2]))
    opened = [Page(address) for _ in range(pages)]
    for page in opened:
        page.start()
    searches.wait_for_evaluations("watched", 1, process)
    first: Mapping[int, float] | None = None
    known: dict[int, float] = {}
    while process.poll() is None and not searches.events("watched", "search_ended"):
        with suppress(psutil.NoSuchProcess):
            add_cpu_seconds([search, *search.children(recursive=True)], known)
            first = first or dict(known)
        time.sleep(_PAUSE_S)
    assert first is not None
    assert process.wait(DEADLINE_S) == 0
    spent = {pid: seconds - first.get(pid, 0.0) for pid, seconds in known.items()}
    page_s = spent.pop(server.pid)
    search_s = sum(spent.values())
    return {
        "share": page_s / search_s,
        "page_s": page_s,
        "search_s": search_s,
        "start_s": first[server.pid],
        "pages_bytes": float(sum(page.size for page in opened)),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--pages", type=int, default=2)
    options = parse(parser, epochs=4)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measured(options.epochs, options.pages, Path(folder))
    finally:
        end_searches()
    print(
        f"{options.pages} open pages took {result['page_s']:.2f} s of CPU, the search {result['search_s']:.1f} s: "
        f"{result['share']:.2%} (goal: less than 1 %); the page's process started in {result['start_s']:.1f} s"
    )
    write_results(options, result)


if __name__ == "__main__":
    main()
