"""The address that outlives a server, which tests and benchmarks kill."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.servers import Door


@contextmanager
def answering(text: bytes) -> Iterator[int]:
    """The port of a server that says it to each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def asked(uri: str) -> bytes:
    with urllib.request.urlopen(uri, timeout=10) as answer:
        text: bytes = answer.read()
    return text


def test_a_door_leads_where_it_is_told() -> None:
    with ExitStack() as stack:
        door = Door()
        stack.callback(door.close)
        first, second = (stack.enter_context(answering(text)) for text in (b"first", b"second" * 100_000))
        door.lead_to(first)
        assert asked(door.uri) == b"first"
        door.shut()
        with pytest.raises(urllib.error.URLError, match="refused"):
            asked(door.uri)
        door.lead_to(second)
        assert asked(door.uri) == b"second" * 100_000
