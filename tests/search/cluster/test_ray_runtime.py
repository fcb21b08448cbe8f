"""Ray as a search starts it, in a process of its own: what it opens to others, and what it leaves behind."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from search.cluster.ray_runtime import join_or_start_ray, ray_folder
from search.environment import ray_address
from tests import DEADLINE_S, ROOT
from trainables.errors import ConfigError

pytestmark = pytest.mark.faults

LATE = Exception("The current node timed out during startup. This could happen because")
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from search.cluster.ray_runtime import join_or_start_ray
from search.environment import set_ray_environment
set_ray_environment()
import psutil
with join_or_start_ray(Path(sys.argv[1])):
    processes = psutil.Process().children(recursive=True)
    for process in [psutil.Process(), *processes]:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens", connection.laddr.ip)
    import ray
    address = ray.get_runtime_context().gcs_address
    stranger = "import ray; ray.init(address=" + repr(address) + ", log_to_driver=False)"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run([sys.executable, "-c", stranger], env=environment, capture_output=True, text=True)
    print("stranger", done.returncode, "AuthenticationError" in done.stderr)
    folders = [path for path in Path(sys.argv[2]).iterdir()]
    print("folders", len(folders))
    print("imports", ray.get(ray.remote(lambda: __import__("search.arms").arms.BASELINE).remote()))
    print("niceness", ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0))
gone, left = psutil.wait_procs(processes, timeout=60)
print("left", len(left), "of", len(processes))
"""


def test_a_machine_too_busy_for_ray_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        mock.patch("ray.init", side_effect=LATE),
        pytest.raises(TimeoutError, match="this machine is too busy"),
        join_or_start_ray(tmp_path),
    ):
        pass
    assert not ray_folder(tmp_path).exists()


def test_a_machine_that_is_busy_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with mock.patch("ray.init", side_effect=[LATE, None]) as init, join_or_start_ray(tmp_path) as folder:
        assert folder == ray_folder(tmp_path)
    assert init.call_count == 2


def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        mock.patch("ray.init") as init,
        pytest.raises(ConfigError, match=rf"^RAY_ADDRESS: no Ray cluster can be joined at '{address}' \(.*refused"),
        join_or_start_ray(tmp_path),
    ):
        pass
    init.assert_not_called()


def test_an_address_where_something_else_listens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.cluster.ray_runtime._ANSWERS_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("0.0.0.0", 0))
        silent.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with (
            mock.patch("ray.init") as init,
            pytest.raises(ConfigError, match=r"what listens there is not Ray"),
            join_or_start_ray(tmp_path),
        ):
            pass
    init.assert_not_called()


def test_local_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_address() is None


def test_an_output_whose_name_is_not_utf_8_has_a_folder(tmp_path: Path) -> None:
    assert ray_folder(tmp_path / os.fsdecode(b"o\xe9")).name.startswith("ray-")


@pytest.mark.parametrize("length", [20, 49, 200])
def test_the_paths_of_rays_sockets_are_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    given = f"/tmp/{'x' * (length - 5)}"
    monkeypatch.setattr("tempfile.gettempdir", lambda: given)
    monkeypatch.setattr("os.access", lambda path, mode: True)
    folder = ray_folder(tmp_path)
    assert len(str(folder / "session_2026-11-29_09-00-26_533450_1234567/sockets/plasma_store")) <= 107
    assert str(folder).startswith(given) == (length == 20)
    monkeypatch.setattr("os.access", lambda path, mode: path != "/tmp")
    if length > 20:
        with pytest.raises(ConfigError, match=r"^TMPDIR: the path .* name a folder of at most 26 bytes"):
            ray_folder(tmp_path)


@pytest.fixture
def temporary() -> Iterator[Path]:
    # Short, as Ray's sockets are in it.
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"t{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_ray_listens_on_loopback_only_with_its_token_starves_no_worker_and_leaves_nothing(
    tmp_path: Path, temporary: Path
) -> None:
    # No home that can be written.
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "HOME": "/proc/nonexistent"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_worker_niceness"):
        environment.pop(name, None)
    # Not from the current folder (-P), as the console command; Ray's workers have no such flag.
    (tmp_path / "search.py").write_text("raise SystemExit('the wrong one')\n")
    command = [sys.executable, "-P", "-c", SCRIPT, str(tmp_path / "output"), str(temporary)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    listens = {line.partition(" ")[2] for line in lines if line.startswith("listens")}
    assert listens <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert listens
    assert "stranger 1 True" in lines
    assert "folders 1" in lines
    assert "niceness 0" in lines
    assert "imports none" in lines
    assert any(line.startswith("left 0 of ") and line != "left 0 of 0" for line in lines), lines
    assert list(temporary.iterdir()) == []
