"""An object store on this machine that speaks S3."""

import subprocess
import sys
import time
from typing import Any

from tests import DEADLINE_S
from tests.servers import free_ports

_BUCKET = "bucket"


class ObjectStore:
    """A server of its own process, with an empty bucket; what is in it goes with the server.

    Args:
        host: address that it listens on, one of this machine's.

    Attributes:
        url: of a folder in the bucket.
        environment: of a process that uses it.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        from s3fs import S3FileSystem

        (port,) = free_ports(1)
        self.url = f"s3://{_BUCKET}/runs"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "moto.server", "--host", host, "--port", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.files: Any = S3FileSystem(
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        try:
            self._make_bucket()
        except BaseException:
            self.close()
            raise

    def _make_bucket(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.files.mkdir(_BUCKET)
                return
            except OSError:
                assert self._process.poll() is None, "the object store did not start"
                assert time.monotonic() < deadline, "the object store does not answer"
                time.sleep(0.2)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
