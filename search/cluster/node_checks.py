"""What every node of a cluster needs, looked at before the first trial: the same packages, the output, a folder for
copies, and GPUs that torch can use."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster import node_probe
from search.cluster.node_probe import NeededFolder, NodeReport, ProbeFile, probe_node, write_probe_file
from search.hardware import ClusterResources
from search.output.folder import Output
from trainables.errors import ConfigError, mask_secrets, one_line
from trainables.storage.cache import default_root

# A node may not have this project yet: Ray sends it the code.
cloudpickle.register_pickle_by_value(node_probe)

# What a slot's processes import.
_PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "safetensors",
    "peft",
    "numpy",
    "fsspec",
    "universal-pathlib",
    "filelock",
)
_SOURCES = ("search", "trainables")
# A node may have to install packages first: longer than cluster/runtime-env.yaml lets it, as then Ray knows more.
_TIMEOUT_S = 2100.0
# How often it is told which nodes are waited for, in seconds; and after how many for the first time.
_TELL_S, _FIRST_S = 60.0, 10.0
# How long nodes are waited for before a look at whether the search is to end, in seconds.
_LOOK_S = 1.0
# How often nodes that have joined are looked for, in seconds.
_PAUSE_S = 5.0


def list_needed_folders(where: Output) -> list[NeededFolder]:
    """The folders that all nodes need."""
    return [
        NeededFolder("--output", where.place, shared=True),
        # What a node does not see there of what is prepared, it copies.
        NeededFolder("ENTRODROP_CACHE", default_root(), shared=False),
    ]


def probe_cluster(gpus: bool, told: Callable[[str], object]) -> ClusterResources:
    """What the cluster that this process has joined has.

    Args:
        gpus: whether they are used, and so looked at.
        told: gets lines on what is waited for.

    Raises:
        ConfigError: what is wrong with a node that has some.
    """
    nodes = _Nodes([], gpus, (), ())
    if gpus:
        nodes.check(told)
    return nodes.cluster()


@contextmanager
def check_nodes(
    folders: Sequence[NeededFolder],
    refused: Callable[[str], None],
    told: Callable[[str], object],
    ends: Callable[[], bool],
    gpus: bool = False,
) -> Iterator[ClusterResources]:
    """Looks at every node of the cluster that this process has joined, as a slot may lie on any of them, and gives what
    there is; then, as long as the context is open, at each that joins.

    Args:
        refused: is told, by another thread, what is wrong with a node that has joined; once.
        told: gets lines on what is waited for.
        ends: whether the search is to end, and waits no longer.
        gpus: whether they are used, and so looked at.

    Raises:
        ConfigError: what is wrong, a line for each thing; or a folder that this process cannot write.
        KeyboardInterrupt: the search is to end.
    """
    with ExitStack() as stack:
        nodes = _Nodes([stack.enter_context(write_probe_file(folder)) for folder in folders], gpus)
        nodes.check(told, ends)
        closed = threading.Event()
        thread = threading.Thread(target=nodes.watch, args=(refused, closed), daemon=True, name="nodes")
        thread.start()
        try:
            yield nodes.cluster()
        finally:
            closed.set()
            thread.join()


class _Nodes:
    """The nodes of a cluster, each looked at once.

    Args:
        files: in the folders.
        gpus: whether those of nodes that have some are looked at.
    """

    def __init__(
        self,
        files: list[ProbeFile],
        gpus: bool,
        packages: tuple[str, ...] = _PACKAGES,
        sources: tuple[str, ...] = _SOURCES,
    ) -> None:
        self._arguments = packages, sources, files
        # A process that has looked at GPUs ends, and leaves nothing on them. It takes none: a slot may have them all.
        self._task = ray.remote(num_cpus=0, max_retries=0, max_calls=int(gpus))(probe_node)
        self._here = NodeReport(*probe_node(*self._arguments, False))
        self._looks_at_gpus = gpus
        self._gpus: list[tuple[str, float]] = []
        self._asked: dict[str, tuple[Any, float]] = {}
        self._reported: set[str] = set()

    def check(self, told: Callable[[str], object], ends: Callable[[], bool] = lambda: False) -> None:
        """Waits for the nodes that there are, or until there is something wrong to tell.

        Raises:
            ConfigError: what is wrong.
            KeyboardInterrupt: it `ends`.
        """
        reports, tell_at = self._reports(time.monotonic() + _LOOK_S), time.monotonic() + _FIRST_S
        awaited, wrong = set(self._asked), find_problems(self._here, reports)
        while silent := self._find_silent(awaited):
            if ends():
                raise KeyboardInterrupt
            if time.monotonic() >= tell_at:
                if wrong:
                    break
                told(f"waiting for {_name_nodes(silent)}; one that has to install packages takes minutes")
                tell_at = time.monotonic() + _TELL_S
            reports += self._reports(time.monotonic() + _LOOK_S)
            wrong = find_problems(self._here, reports)
        if wrong:
            raise ConfigError("\n".join(wrong))

    def cluster(self) -> ClusterResources:
        """The resources of all nodes, and the GPUs that they have told of."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return ClusterResources.with_gpus(ray.cluster_resources(), self._gpus, nodes)

    def watch(self, refused: Callable[[str], None], closed: threading.Event) -> None:
        while not closed.wait(_PAUSE_S):
            if wrong := find_problems(self._here, self._reports(time.monotonic() + 1.0)):
                refused("; ".join(wrong))
                return

    def _reports(self, until: float) -> list[tuple[str, NodeReport | str]]:
        """Of nodes that have not reported yet, see `problems`; those that take longer than `until`, in seconds of
        time.monotonic(), are waited for again the next time."""
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for node in alive.keys() - self._asked.keys():
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            gpus = self._looks_at_gpus and alive[node]["Resources"].get("GPU", 0) > 0
            reference = self._task.options(scheduling_strategy=there).remote(*self._arguments, gpus)
            self._asked[node] = reference, time.monotonic()
        reports: list[tuple[str, NodeReport | str]] = []
        for node in alive:
            if node not in self._reported and (report := self._report(node, until)) is not None:
                self._reported.add(node)
                self._gpus += (isinstance(report, NodeReport) and report.gpus) or ()
                reports.append((alive[node]["NodeManagerAddress"], report))
        return reports

    def _find_silent(self, awaited: Set[str]) -> list[str]:
        """The addresses of those nodes that have not reported yet."""
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in awaited - self._reported]
        return sorted({node["NodeManagerAddress"] for node in nodes})

    def _report(self, node: str, until: float) -> NodeReport | str | None:
        """None if it is still to come, or the node has gone."""
        reference, asked_at = self._asked[node]
        try:
            return NodeReport(*ray.get(reference, timeout=max(0.0, until - time.monotonic())))
        except GetTimeoutError:
            silent_s = time.monotonic() - asked_at
            return f"no answer in {silent_s:.0f} s" if silent_s >= _TIMEOUT_S else None
        except RayError as error:
            if not any(there["NodeID"] == node and there["Alive"] for there in ray.nodes()):
                return None
            # Of a traceback the last line is the cause.
            return str(error).strip().splitlines()[-1]


def find_problems(here: NodeReport, reports: Sequence[tuple[str, NodeReport | str]]) -> list[str]:
    """What is wrong with the nodes, a line for each thing.

    Args:
        here: what this process has.
        reports: of each node, by its address: what it has, or why it could not say.
    """
    nodes_of: dict[str, list[str]] = {}
    for address, report in reports:
        for problem in _problems(here, report):
            nodes = nodes_of.setdefault(problem, [])
            if address not in nodes:
                nodes.append(address)
    return [f"{_name_nodes(nodes)}: {problem}" for problem, nodes in nodes_of.items()]


def _name_nodes(addresses: Sequence[str]) -> str:
    return f"node{'s' * (len(addresses) > 1)} {', '.join(addresses)}"


def _problems(here: NodeReport, report: NodeReport | str) -> Iterator[str]:
    if isinstance(report, str):
        yield f"it cannot run what the search sends it ({one_line(report)}); mend it, or take it out of the cluster"
        return
    for package, version in here.versions.items():
        if (theirs := report.versions[package]) != version:
            has = f"no package {package}" if theirs is None else f"{package} {theirs}"
            yield f"it has {has}; install {package} {version}, which the search itself has"
    for package, digest in here.sources.items():
        if (theirs := report.sources[package]) != digest:
            has = f"no package {package}" if theirs is None else f"other code of {package}"
            yield f"it has {has}; submit the search as a job with --working-dir ., which brings its own along"
    for setting, wrong in report.folders.items():
        yield f"{setting}: {mask_secrets(wrong)}"
    if report.gpus is not None and not report.gpus:
        yield (
            "torch can use no GPU of it (torch.cuda.is_available() is false); install torch with CUDA, and a driver "
            "for it, on each node with GPUs"
        )
