"""The Ray that a search runs on: a cluster that RAY_ADDRESS names, or one of its own on this machine."""

import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from search.environment import is_ray_token_given, make_ray_token, ray_address
from search.hardware import count_local_cpus
from trainables.errors import ConfigError, one_line

# The folder that the packages lie in.
_ROOT = Path(__file__).resolve().parents[2]
# Seconds that the machine of a cluster has to answer.
_ANSWERS_S = 10.0
# How often Ray is started on a machine that may be busy for a moment.
_STARTS = 2
# The longest of Ray's paths in its folder, and the bytes that a system allows the path of a socket.
_SOCKET = "/session_2026-11-29_09-00-26_533450_1234567/sockets/plasma_store"
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107


@contextmanager
def join_or_start_ray(output: Path) -> Iterator[Path | None]:
    """Joins the cluster, or starts Ray, reachable from this machine alone, and gives the folder that it keeps its files
    in; leaves nothing of it behind.

    Args:
        output: of the search, which has one Ray at a time.

    Raises:
        ConfigError: the cluster cannot be joined.
        TimeoutError: this machine is too busy to start Ray.
    """
    import ray

    address = ray_address()
    folder = None if address else _temporary(output)
    try:
        # Ray's workers import from this process's current folder first, where a file search.py would hide the package.
        with chdir(_ROOT):
            if address:
                _join(address)
            else:
                _start(folder)
        yield folder
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path | None) -> None:
    import ray
    from ray.exceptions import RayError

    _bring_token()
    # Ray gives its own processes half a minute, which no setting changes; what came late ends with this process.
    for _ in range(_STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=count_local_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                _temp_dir=str(folder),
            )
            return
        except RayError as error:
            # Such as RAY_AUTH_TOKEN_PATH that names no file.
            reason = one_line(" ".join(str(error).split()), 300)
            raise ConfigError(
                f"RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN: Ray refuses its token ({reason}); unset them"
            ) from None
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise TimeoutError(
        f"Ray did not start within 30 seconds, {_STARTS} times: this machine is too busy; end other work"
    )


def _bring_token() -> None:
    """Where Ray cannot keep the token of its servers at home, they get one for this search alone."""
    if is_ray_token_given():
        return
    try:
        home = Path.home() / ".ray"
        home.mkdir(parents=True, exist_ok=True)
        keeps = os.access(home, os.W_OK)
    # No home, or none that can be written.
    except (OSError, RuntimeError):
        keeps = False
    if not keeps:
        make_ray_token()


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        _check_answers(address)
        ray.init(log_to_driver=False, logging_level="error")
    # RuntimeError: another version of Ray or Python; RayError: no token, or another one.
    except (OSError, ValueError, RuntimeError, RayError) as error:
        reason = one_line(" ".join(str(error).split()), 300)
        raise ConfigError(
            f"RAY_ADDRESS: no Ray cluster can be joined at {address!r} ({reason}); name one that runs, or unset it"
        ) from None


def _check_answers(address: str) -> None:
    """Raises OSError or ValueError if nothing listens there, or something that speaks another protocol than Ray does:
    Ray would wait for it for minutes, or for a quarter of an hour."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address

    host_and_port = canonicalize_bootstrap_address(address.removeprefix("ray://"))
    if host_and_port is None:
        raise ValueError("it names none")
    host, _, port = host_and_port.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_S).close()
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    with grpc.insecure_channel(host_and_port) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWERS_S)
        except grpc.FutureTimeoutError:
            raise OSError("what listens there is not Ray") from None


def ray_folder(output: Path) -> Path:
    """Where Ray keeps its own files during a search of `output`.

    Raises:
        ConfigError: TMPDIR is too long for Ray's sockets, and there is no shorter folder.
    """
    name = hashlib.blake2b(os.fsencode(output.absolute()), digest_size=6).hexdigest()
    return _short_folder() / f"ray-{name}"


def _short_folder() -> Path:
    """TMPDIR, or /tmp where the paths of Ray's sockets would get too long, as on a Mac."""
    longest = _LONGEST_SOCKET - len(f"/ray-{'0' * 12}{_SOCKET}")
    given = tempfile.gettempdir()
    for folder in (given, "/tmp"):
        if len(os.fsencode(folder)) <= longest and os.access(folder, os.W_OK):
            return Path(folder)
    raise ConfigError(
        f"TMPDIR: the path {one_line(given)} is too long for Ray's sockets; name a folder of at most {longest} bytes"
    )


def _temporary(output: Path) -> Path:
    """A new folder for Ray's own files, in the place of one that a killed search of `output` left."""
    folder = ray_folder(output)
    if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir=folder.parent))
    return folder
