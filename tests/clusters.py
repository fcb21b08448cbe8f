"""A Ray cluster on this machine, of nodes that are processes of their own, to which searches are submitted as jobs."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from unittest import mock

import psutil
import yaml

from search.cluster.ray_runtime import join_or_start_ray
from search.environment import ray_environment
from tests import DEADLINE_S, ROOT
from tests.networks import INTERFACE, Network
from tests.searches import end_process
from tests.servers import free_ports

_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_DEADLINE, _DEADLINE_MS = f"{DEADLINE_S:.0f}", f"{1000 * DEADLINE_S:.0f}"
_TOO_LATE = "The current node timed out during startup"
_SCALING = ROOT / "tests" / "assets" / "autoscaler.yaml"


class Cluster:
    """A head without CPUs, and with a dashboard on the loopback interface; a token is asked for everywhere.

    Where the system allows, each node that is added is in a network namespace with an address of its own, and has a
    disk of its own.

    Args:
        own: the folder that is on it.
        scales: whether Ray's autoscaler starts its nodes, as tests/assets/autoscaler.yaml says, in place of `add_node`.

    Attributes:
        host: address of this machine that all nodes reach.
        address: of the head.
        environment: of a process that may join it.
    """

    def __init__(self, scales: bool = False, own: Path | None = None) -> None:
        # Short, as Ray's sockets are in it.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        (self.folder / "token").write_text(secrets.token_hex(32))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # As of the Ray that a search starts itself.
            "RAY_worker_niceness": "0",
            # Otherwise a node with one CPU starts one process after the other.
            "RAY_worker_maximum_startup_concurrency": "8",
            # A node that is gone is missed within seconds; one that is slow is not gone.
            "RAY_health_check_initial_delay_ms": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_timeout_ms": _DEADLINE_MS,
            # On a machine that is busy its processes take longer to start than Ray waits for them.
            "RAY_gcs_server_port_wait_time_s": _DEADLINE,
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": _DEADLINE,
            "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": _DEADLINE,
            "RAY_agent_register_timeout_ms": _DEADLINE_MS,
            "RAY_worker_register_timeout_seconds": _DEADLINE,
        }
        self._own = own
        self._nodes: list[subprocess.Popen[str]] = []
        self._jobs: list[subprocess.Popen[str]] = []
        self._started = 0
        # The autoscaler starts its nodes by itself, in no other network than its own.
        self._network = Network() if not scales and Network.possible() else None
        self.host = "127.0.0.1" if self._network is None else self._network.address
        port, dashboard = free_ports(2)
        self.address, self._dashboard = f"{self.host}:{port}", f"http://127.0.0.1:{dashboard}"
        ports = f"--port={port}", f"--dashboard-port={dashboard}"
        self._head_arguments = ["--head", *ports, "--dashboard-host=127.0.0.1", "--num-cpus=0"]
        if scales:
            config = yaml.safe_load(_SCALING.read_text())
            config["provider"] |= {"gcs_address": self.address, "folder": str(self.folder)}
            head_id = config["provider"]["head_node_id"]
            (self.folder / "autoscaler.yaml").write_text(yaml.safe_dump(config))
            self._head_arguments.append(f"--autoscaling-config={self.folder}/autoscaler.yaml")
            self.environment |= {
                # tests/autoscaled.py is loaded by Ray.
                "PYTHONPATH": str(ROOT),
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": head_id,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            }
        try:
            self._start_head()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_head(self) -> None:
        self._head_folder = self.folder / str(self._started)
        self._start(self.host, [], *self._head_arguments)

    @property
    def has_disks(self) -> bool:
        """Whether each node has one of its own."""
        return self._own is not None and self._network is not None

    def add_node(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A node with one CPU. Args: environment: that it has besides that of the others."""
        host, within = (self.host, []) if self._network is None else self._network.machine()
        if self.has_disks:
            # What is mounted in a network namespace is seen by its processes alone.
            within = [*within, "sh", "-c", 'mount -t tmpfs own "$0" && exec "$@"', str(self._own)]
        # gloo looks for the interface of the machine's name, which all have in common here.
        own = {} if self._network is None else {"GLOO_SOCKET_IFNAME": INTERFACE}
        arguments = f"--address={self.address}", "--num-cpus=1"
        return self._start(host, within, *arguments, environment=own | dict(environment or {}))

    def _start(
        self, host: str, within: Sequence[str], *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        # A folder of its own, as on a machine of its own: a node unpacks there what a job brings along, and removes it.
        own = f"--temp-dir={self.folder}/{self._started}"
        self._started += 1
        common = (
            own,
            f"--node-ip-address={host}",
            "--dashboard-agent-listen-port=0",
            "--object-store-memory=200000000",
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            node = subprocess.Popen(
                [*within, *_RAY, "start", "--block", *common, *arguments],
                env=self.environment | dict(environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._nodes.append(node)
            assert node.stdout is not None
            lines = []
            for line in node.stdout:
                lines.append(line)
                if "Ray runtime started" in line:
                    return node
            self.kill(node)
            # Ray gives a node half a minute to start, which no variable changes.
            if _TOO_LATE not in "".join(lines) or time.monotonic() > deadline:
                raise RuntimeError(f"no node with {arguments}: {''.join(lines)}")

    def take_away(self, node: subprocess.Popen[str]) -> None:
        """Ends a node as an autoscaler does that loses a spot instance: it says so before."""
        raylet = next(p for p in psutil.Process(node.pid).children() if p.name() == "raylet")
        (node_id,) = (a.partition("=")[2] for a in raylet.cmdline() if a.startswith("--node_id="))
        reason = "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=1"
        self._ray("drain-node", f"--address={self.address}", f"--node-id={node_id}", *reason)
        self.kill(node)

    def kill(self, node: subprocess.Popen[str]) -> None:
        """Ends a node and all that is on it, at once."""
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()
        self._nodes.remove(node)

    def lose(self) -> None:
        """Ends all of it at once, with its jobs; then another head is there."""
        self._end()
        self._start_head()

    def clear(self) -> None:
        """Ends all nodes but the head, which another one follows if a job is still running on it."""
        if any(job.poll() is None for job in self._jobs):
            self.lose()
        for node in self._nodes[1:]:
            self.kill(node)

    def _end(self) -> None:
        for node in reversed(self._nodes.copy()):
            self.kill(node)
        while self._jobs:
            end_process(self._jobs.pop())

    def submit(self, name: str, environment: Mapping[str, str], *command: str) -> subprocess.Popen[str]:
        """Submits a command as the job `name`, with this project as the working folder, and follows its log."""
        runtime = self.folder / f"{name}.yaml"
        runtime.write_text(yaml.safe_dump({"env_vars": dict(environment)}))
        job = f"--submission-id={name}", f"--working-dir={ROOT}", f"--runtime-env={runtime}"
        follower = subprocess.Popen(
            [*_RAY, "job", "submit", f"--address={self._dashboard}", *job, "--", *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._jobs.append(follower)
        return follower

    def log(self, name: str) -> str:
        """What the job has printed."""
        return (self._head_folder / "session_latest" / "logs" / f"job-driver-{name}.log").read_text()

    def stop(self, name: str) -> None:
        """`ray job stop`; returns when the job has ended."""
        self._ray("job", "stop", f"--address={self._dashboard}", name)

    def kill_driver(self, output: str) -> None:
        """SIGKILL for the process of the search that writes there."""
        for process in psutil.Process(self._nodes[0].pid).children(recursive=True):
            # It may end just now.
            with suppress(psutil.NoSuchProcess):
                # A shell has the command as one word.
                if output in process.cmdline():
                    process.kill()
                    return
        raise RuntimeError(f"no search writes {output}")

    def close(self) -> None:
        self._end()
        if self._network is not None:
            self._network.close()
        shutil.rmtree(self.folder)

    def _ray(self, *arguments: str) -> None:
        subprocess.run([*_RAY, *arguments], env=self.environment, check=True, capture_output=True, timeout=DEADLINE_S)


@contextmanager
def ray_of_a_search(folder: Path, cpus: int = 2) -> Iterator[None]:
    """Ray as a search with its output in `folder` starts it, in this process, whether or not there are as many CPUs."""
    environment = {name: value for name, value in ray_environment().items() if name not in os.environ}
    counted = mock.patch("search.cluster.ray_runtime.count_local_cpus", return_value=cpus)
    with counted, mock.patch.dict(os.environ, environment), join_or_start_ray(folder):
        yield
