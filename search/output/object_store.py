"""A search whose output is behind a URL of an object store: the driver works in a folder, which a thread copies there.

An object store has no file that lines are added to, and no locks. So the files are copied whole, every few seconds and
at the end. If the driver's machine is lost, the last seconds are: what a search finds at the URL when it goes on is a
little old. That is harmless, because no file is older than one that relies on it:

- The events are written first; the cursor, which says up to where MLflow has taken them, and the study (the journal)
  follow. They are read in the opposite order and copied in this one, so that whenever a reader comes or the driver is
  lost, neither the cursor nor the journal at the URL knows of anything that the events there lack. What the study does
  not know happens again, as after a kill in a folder. What the cursor does not know is sent again, which changes
  nothing in MLflow, as an event has its time; a run is looked for before it is made.
- Checkpoints are written to the URL by the workers, and may be ahead of the study: such a run answers the evaluations
  that it is asked for from its history (`_advance` in trainables/slots/worker.py). The checkpoint of a trial that has
  ended is removed only after a journal that knows of the end is at the URL.
- A checkpoint of a trial that the journal does not know is taken if the trial that gets its number has the same
  settings, as it has in a search that is reproducible, and otherwise refused as another run's.
- Studies in a database are not copied, and are ahead of the events, which are. What a lost driver told
  them in its last seconds stays true; these evaluations may be missing in MLflow and in the report's curves.

One search at a time writes to a URL: it keeps an object there, and writes to it again and again. Another one that finds
it watches whether it changes. Two searches are not kept apart that take over the object of a dead third one in the same
moment, on a store that cannot refuse to make an object twice, or while the first one is held up for longer than
`_PATIENCE_S`; the one that finds the object to be another's ends.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.output.folder import CURSOR, EVENTS, JOURNAL, MODELS, RESOLVED, SPACE, Output, is_locked, lock_output
from search.output.folder import LOCK as LOCK
from trainables.errors import ConfigError, mask_secrets
from trainables.storage.cache import default_root
from trainables.storage.files import (
    Place,
    StorageError,
    fetch_folder,
    is_url,
    place,
    remove,
    replace_file,
    store_errors,
)

if TYPE_CHECKING:
    from upath import UPath

_INTERVAL_S = 3.0
# How long a lock that nobody writes to is watched.
_PATIENCE_S, _LOOK_S = 15.0, 0.5
# As they are copied; read in the opposite order.
_STATE = (SPACE, RESOLVED, EVENTS, CURSOR, JOURNAL)
# What else a search writes.
_RESULTS = (".html", ".json", ".yaml", ".png")
# Takes a copy of events.jsonl as one that went on elsewhere, and names the folders of models that it needs.
Adopt = Callable[[Path], Iterable[str]]


@contextmanager
def open_output(text: str, adopt: Adopt | None = None) -> Iterator[Output]:
    """The output of a search in the folder or at the URL `text`.

    Args:
        adopt: for a search that goes on: called with the events fetched from a URL; None for a new search.

    Raises:
        ConfigError: a URL that cannot be written, where another search runs, that already holds something, or with
            `adopt` holds no search.
        StorageError: not everything could be copied to the URL in the end.
    """
    try:
        text.encode()
    # Bytes of the command line that are not UTF-8.
    except UnicodeEncodeError:
        raise ConfigError(f"--output: {text} is not UTF-8; name another folder") from None
    if not is_url(text):
        yield Output(Path(text), Path(text))
        return
    shown = mask_secrets(text)
    # Made by one process at a time: this machine's own lock is a sure one.
    home = default_root() / "outputs" / hashlib.sha256(text.encode()).hexdigest()[:32]
    with lock_output(home, shown):
        folder = home / "files"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            url = _url(text)
            with store_errors(url):
                there = _files(url)
            if there and adopt is None:
                raise ConfigError(
                    f"--output: {shown} already holds something; name a new folder, "
                    "or --resume to go on with the search in it"
                )
            if adopt is not None and RESOLVED not in there:
                raise ConfigError(f"--resume: {shown} holds no search; name the output folder of one")
        except StorageError as error:
            raise _unwritable(shown, error) from None
        mirror = Mirror(url, folder)
        with mirror.locked():
            folder.mkdir()
            if adopt is not None:
                mirror.fetch(adopt)
            with mirror.copying():
                yield Output(folder, url, mirror.remove_later)


def _unwritable(shown: str, error: StorageError) -> ConfigError:
    return ConfigError(f"--output: {shown} cannot be written ({error.strerror}); name another URL")


def _url(text: str) -> "UPath":
    url = place(text)
    assert not isinstance(url, Path)
    return url


def _files(url: "UPath") -> list[str]:
    """The paths of the files at `url`, from there."""
    root = url.fs._strip_protocol(url.path).rstrip("/")
    return sorted({found.removeprefix(root).lstrip("/") for found in url.fs.find(root)} - {LOCK})


def fetch_output(url: "UPath", folder: Path) -> None:
    """Copies what a search keeps at `url` into `folder`, without checkpoints.

    Raises:
        StorageError: the store does not answer.
    """
    with store_errors(url):
        folder.mkdir(parents=True, exist_ok=True)
        there = [path for path in _files(url) if "/" not in path]
        for name in [*(name for name in reversed(_STATE) if name in there), *(n for n in there if n not in _STATE)]:
            (folder / name).write_bytes((url / name).read_bytes())


@contextmanager
def open_for_reading(text: str) -> Iterator[Path]:
    """The folder `text`, or a temporary copy of what a search keeps at the URL `text`.

    Raises:
        ConfigError: the URL cannot be read, or holds no search.
    """
    if not is_url(text):
        yield Path(text)
        return
    shown = mask_secrets(text)
    with tempfile.TemporaryDirectory(prefix="entrodrop-") as scratch:
        try:
            url = _url(text)
            folder = Path(scratch) / (url.name or "output")
            fetch_output(url, folder)
        except StorageError as error:
            raise ConfigError(
                f"DIR: {shown} cannot be read ({error.strerror}); name the output folder of a search"
            ) from None
        if not (folder / RESOLVED).exists():
            raise ConfigError(f"DIR: {shown} holds no search; name the output folder of one")
        yield folder


def is_url_locked(text: str) -> bool:
    """Whether a search runs whose output is at the URL `text`: takes seconds.

    Raises:
        StorageError: the store does not answer.
    """
    lock = _url(text) / LOCK
    # A search that was given the folder, and not its URL.
    if lock.protocol in ("file", "local") and is_locked(Path(lock.path).parent):
        return True
    with store_errors(lock):
        before, deadline = _read(lock), time.monotonic() + _PATIENCE_S
        while (now := _read(lock)) == before and now is not None and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    return now is not None and now != before


class Mirror:
    """Copies `folder` to `url`."""

    def __init__(self, url: "UPath", folder: Path) -> None:
        self._url, self._folder = url, folder
        self._token, self._beats = uuid.uuid4().hex, 0
        self._copied: dict[str, bytes] = {}
        self._ended: list[Place] = []
        self._stop = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its scheduler for a restore of its own, which is not used."""
        return {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock.

        Raises:
            ConfigError: another search is running, or the URL cannot be written.
            StorageError: the lock cannot be given back.
        """
        lock, shown = self._url / LOCK, mask_secrets(str(self._url))
        try:
            with store_errors(lock, FileExistsError):
                lock.parent.mkdir(parents=True, exist_ok=True)
                lock.fs.pipe_file(lock.path, self._claim(), mode="create")
        except FileExistsError:
            print(f"{shown}: another search may run there: looking for {_PATIENCE_S:.0f} s at most", file=sys.stderr)
            if is_url_locked(str(self._url)):
                raise ConfigError(f"--output: another search is running in {shown}; name another folder") from None
            with store_errors(lock):
                lock.write_bytes(self._claim())
        except StorageError as error:
            raise _unwritable(shown, error) from None
        try:
            yield
        finally:
            with store_errors(lock):
                if self._is_own():
                    lock.unlink()

    def _claim(self) -> bytes:
        self._beats += 1
        return json.dumps({"search": self._token, "host": socket.gethostname(), "beats": self._beats}).encode()

    def _is_own(self) -> bool:
        content = _read(self._url / LOCK)
        return content is None or json.loads(content)["search"] == self._token

    def fetch(self, adopt: Adopt) -> None:
        """Makes the folder what a search left at the URL.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            fetch_output(self._url, self._folder)
            if (events := self._folder / EVENTS).exists():
                for model in adopt(events):
                    # Nothing is written elsewhere, whatever the events say.
                    if Path(model).parts[0] == MODELS and ".." not in Path(model).parts:
                        fetch_folder(self._url / model, self._folder / model)
        except StorageError as error:
            raise ConfigError(f"--resume: {error.filename}: {error.strerror}") from None

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Copies while it is entered, and all in the end, when the folder is removed.

        Raises:
            StorageError: not everything could be copied in the end.
        """
        thread = threading.Thread(target=self._work, daemon=True, name="mirror")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            try:
                with store_errors(self._url):
                    self.copy(everything=True)
                shutil.rmtree(self._folder, ignore_errors=True)
            except StorageError as error:
                # The next search at the URL begins with an empty folder.
                left = self._folder.rename(self._folder.with_name(f"left-{self._token[:8]}"))
                raise StorageError(
                    error.errno, f"{error.strerror}; what is not there is in {left}", error.filename
                ) from None

    def remove_later(self, folder: Place) -> None:
        """Removes a checkpoint once the end of its trial is known at the URL."""
        self._ended.append(folder)

    def _work(self) -> None:
        last_error = ""
        while not self._stop.wait(_INTERVAL_S):
            try:
                with store_errors(self._url):
                    self.copy()
                last_error = ""
            except _TakenError as error:
                print(f"{error.filename}: {error.strerror}: this one ends", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except StorageError as error:
                # It may be back in a moment; if it is not, the end of the search tells so.
                if str(error) != last_error:
                    print(f"not copied: {error.filename}: {error.strerror}", file=sys.stderr)
                    last_error = str(error)

    def copy(self, everything: bool = False) -> None:
        """Copies what has changed: the state of the search, or all files."""
        self._beat()
        ended = list(self._ended)
        contents = {name: self._content(name) for name in reversed(_STATE) if (self._folder / name).exists()}
        for name in _STATE:
            if name in contents:
                self._put(name, contents[name])
        if everything:
            for path in sorted(self._folder.iterdir()):
                if path.name not in _STATE and path.suffix in _RESULTS:
                    self._put(path.name, path.read_bytes())
        for folder in ended:
            remove(folder)
            self._ended.remove(folder)

    def _beat(self) -> None:
        if not self._is_own():
            raise _TakenError(errno.EBUSY, "another search has taken its place", mask_secrets(str(self._url)))
        (self._url / LOCK).write_bytes(self._claim())

    def _content(self, name: str) -> bytes:
        content = (self._folder / name).read_bytes()
        # A line that is being written comes with the next copy.
        return content[: content.rfind(b"\n") + 1] if name in (EVENTS, CURSOR, JOURNAL) else content

    def _put(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        if self._copied.get(name) != digest:
            replace_file(self._url / name, content)
            self._copied[name] = digest


class _TakenError(StorageError):
    """Another search has taken the URL."""


def _read(lock: "UPath") -> bytes | None:
    """What the lock holds; None if there is none."""
    try:
        return lock.read_bytes()
    except FileNotFoundError:
        return None
