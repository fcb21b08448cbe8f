"""An MLflow server of its own processes, which can be killed, and an address that outlives it."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests import DEADLINE_S


class Server:
    """An MLflow server on this machine, in processes of its own, which keeps its runs in SQLite."""

    def __init__(self, folder: Path, database: Path | None = None) -> None:
        self.database = database or folder / "server.db"
        self._folder = folder
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        store, artifacts = f"sqlite:///{self.database}", str(self._folder / "artifacts")
        # A server that starts computes for seconds. It is to be away, not to take the cores from those who train, to
        # whom Ray gives a niceness of 15.
        command = ["nice", "-n", "19", sys.executable, "-m", "mlflow", "server"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        try:
            while not self._answers():
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the MLflow server did not start"
                time.sleep(0.2)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kills it and its workers, if it runs."""
        if self._process.poll() is not None:
            return
        for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
            process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Door:
    """An address on this machine that leads to a server, then to none, then to another one.

    Attributes:
        uri: refuses connections while it leads nowhere.
    """

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self._port}"
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def lead_to(self, port: int) -> None:
        """Leads to a port of this machine, and no more to the one before."""

        async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # The server may be gone, and either side may hang up.
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pass(reader, back), _pass(there, writer))
            writer.close()

        async def listen() -> None:
            self._listener = await asyncio.start_server(passed, "127.0.0.1", self._port)

        self.shut()
        self._run(listen())

    def shut(self) -> None:
        """Leads nowhere. Connections that are open end when their server does."""

        async def shut() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        self._run(shut())

    def close(self) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what is read, until its end."""
    try:
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    finally:
        writer.close()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that no one listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
