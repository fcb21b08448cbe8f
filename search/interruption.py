"""Ctrl-C and SIGTERM: the first lets the running trials save their state, the second ends the search at once.

The first can also come from the search itself, when it cannot go on.
"""

import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

EXIT_CODE = 130
EARLY = "interrupted before the first trial"
# Seconds that killed processes may take to be gone.
_KILLED = 0.5
_STDERR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The search was interrupted, and its running trials have had their time to save; no error that Tune may catch."""


class Interruption:
    """Listens to SIGINT and SIGTERM while it is entered; called in the main thread.

    Args:
        save_s: seconds that the running trials have to save their state.

    Attributes:
        asked: whether the search is to end.
        reason: why, if no person wants it.
        last_words: what the person reads at the end of an interrupted search, also when the second signal ends it.
        tell: is given a line for the person.
        temporary: a folder that the second signal removes.
    """

    def __init__(self, save_s: float = 20.0) -> None:
        self.last_words = EARLY
        self.tell: Callable[[str], None] = lambda line: None
        self._save_s = save_s
        self.temporary: Path | None = None
        self.reason: str | None = None
        self._asked_at: float | None = None
        self._heard_one = False

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Listens again, after another library has set handlers of its own."""
        for number in _SIGNALS:
            signal.signal(number, self._handle_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    @property
    def overdue(self) -> bool:
        """True when trials that have not saved yet are no longer waited for."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > self._save_s

    def ask(self, reason: str) -> None:
        """As the first signal does, from any thread."""
        if not self.asked:
            self.reason = reason
            self._asked_at = time.monotonic()
            self.tell(f"{reason}: the running trials save their state, and the search ends")

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self._heard_one:
            self._end_at_once()
        self._heard_one = True
        # The search may be ending by itself.
        self._asked_at = self._asked_at or time.monotonic()
        self.tell("interrupted: the running trials save their state; once more ends the search at once")

    def _end_at_once(self) -> None:
        """Whatever hangs cannot hold this up, not even a reader of standard error."""
        try:
            with suppress(OSError):
                if select.select([], [_STDERR], [], 0)[1]:
                    os.write(_STDERR, f"{self.last_words}\n".encode())
            # Ray's processes on this machine would end by themselves, but some of them minutes later.
            started = psutil.Process().children(recursive=True)
            for process in started:
                with suppress(psutil.Error):
                    process.kill()
            if self.temporary is not None:
                psutil.wait_procs(started, timeout=_KILLED)
                shutil.rmtree(self.temporary, ignore_errors=True)
        finally:
            os._exit(EXIT_CODE)
