"""What every node of a cluster needs, looked at before the first trial: the same packages, folders that all see, and
GPUs that torch can use."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.machine import Cluster
from search.mirror import Output
from trainables.cache import default_root
from trainables.config.errors import one_line
from trainables.config.file import ConfigError
from trainables.weights import CONFIG, HUB, kept_at

# What a slot's processes import.
_PACKAGES = ("ray", "torch", "transformers", "safetensors", "peft", "numpy", "fsspec", "filelock")
_SOURCES = ("search", "trainables")
# A node may have to install packages first.
_TIMEOUT_S = 600.0
# How often nodes that have joined are looked for, in seconds.
_PAUSE_S = 5.0


@dataclass(frozen=True)
class Folder:
    """A folder that the whole search uses.

    Attributes:
        setting: where the person gives it, as in "--output".
        writable: whether nodes write in it.
        file: a file in it, which nodes know it by; None for one that is written there for that.
    """

    setting: str
    path: Path
    writable: bool = False
    file: str | None = None


@dataclass(frozen=True)
class Report:
    """What a node has.

    Attributes:
        versions: of Python and of packages; None for one that is not installed.
        sources: digests of this project's own packages; None for one that cannot be found.
        folders: what is wrong with those that cannot be used, by their setting.
        gpus: the name and the bytes of each that torch can use; None where they are not looked for, or there is no
            torch.
    """

    versions: Mapping[str, str | None]
    sources: Mapping[str, str | None]
    folders: Mapping[str, str]
    gpus: Sequence[tuple[str, float]] | None = None


def needed(where: Output, models: Sequence[str], reference: str | None = None) -> list[Folder]:
    """The folders that all nodes need; that of an output behind a URL is in the cache.

    Args:
        reference: the model whose entropies are used, if that is another one: any node may compute them.
    """
    local = where.place == where.folder
    folders = [Folder("--output", where.folder, writable=True)] if local else []
    folders.append(Folder("ENTRODROP_CACHE", default_root(), writable=not local))
    settings = {model: f"models ({model})" for model in models}
    if reference is not None:
        settings.setdefault(reference, f"schedule.reference ({reference})")
    kept = {model: kept_at(model) for model in settings}
    folders += [Folder(settings[model], folder, file=CONFIG) for model, folder in kept.items() if folder is not None]
    if any(folder is None and model.startswith(HUB) for model, folder in kept.items()):
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(Folder("HF_HUB_CACHE", Path(HF_HUB_CACHE)))
    return folders


def present(gpus: bool) -> Cluster:
    """What the cluster that this process has joined has.

    Args:
        gpus: whether they are used, and so looked at.

    Raises:
        ConfigError: what is wrong with a node that has some.
    """
    nodes = _Nodes([], gpus, (), ())
    if gpus:
        nodes.check()
    return nodes.cluster()


@contextmanager
def checked_nodes(folders: Sequence[Folder], refused: Callable[[str], None], gpus: bool = False) -> Iterator[Cluster]:
    """Looks at every node of the cluster that this process has joined, as a slot may lie on any of them, and gives what
    there is; then, as long as the context is open, at each that joins.

    Args:
        refused: is told, by another thread, what is wrong with a node that has joined; once.
        gpus: whether they are used, and so looked at.

    Raises:
        ConfigError: what is wrong, a line for each thing; or a folder that this process cannot write.
    """
    with ExitStack() as stack:
        nodes = _Nodes([(f.setting, *stack.enter_context(_marked(f)), f.writable) for f in folders], gpus)
        nodes.check()
        ends = threading.Event()
        thread = threading.Thread(target=nodes.watch, args=(refused, ends), daemon=True, name="nodes")
        thread.start()
        try:
            yield nodes.cluster()
        finally:
            ends.set()
            thread.join()


class _Nodes:
    """The nodes of a cluster, each looked at once.

    Args:
        marks: of the folders, as `_look` takes them.
        gpus: whether those of nodes that have some are looked at.
    """

    def __init__(
        self,
        marks: list[tuple[str, str, str, bool]],
        gpus: bool,
        packages: tuple[str, ...] = _PACKAGES,
        sources: tuple[str, ...] = _SOURCES,
    ) -> None:
        look = _look()
        self._arguments = packages, sources, marks
        # A process that has looked at GPUs ends, and leaves nothing on them. It takes none: a slot may have them all.
        self._task = ray.remote(num_cpus=0, max_retries=0, max_calls=int(gpus))(look)
        self._here = Report(*look(*self._arguments, False))
        self._looks_at_gpus = gpus
        self._gpus: list[tuple[str, float]] = []
        self._asked: dict[str, tuple[Any, float]] = {}
        self._reported: set[str] = set()

    def check(self) -> None:
        """Raises ConfigError if anything is wrong with a node."""
        if wrong := self.problems(time.monotonic() + _TIMEOUT_S):
            raise ConfigError("\n".join(wrong))

    def cluster(self) -> Cluster:
        """The resources of all nodes, and the GPUs that they have told of."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return Cluster.with_gpus(ray.cluster_resources(), self._gpus, nodes)

    def watch(self, refused: Callable[[str], None], ends: threading.Event) -> None:
        while not ends.wait(_PAUSE_S):
            if wrong := self.problems(time.monotonic() + 1.0):
                refused("; ".join(wrong))
                return

    def problems(self, until: float) -> list[str]:
        """What is wrong with nodes that have not reported yet; those that take longer than `until`, in seconds of
        time.monotonic(), are asked again the next time."""
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for node in alive.keys() - self._asked.keys():
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            gpus = self._looks_at_gpus and alive[node]["Resources"].get("GPU", 0) > 0
            reference = self._task.options(scheduling_strategy=there).remote(*self._arguments, gpus)
            self._asked[node] = reference, time.monotonic()
        reports: list[tuple[str, Report | str]] = []
        for node in alive:
            if node not in self._reported and (report := self._report(node, until)) is not None:
                self._reported.add(node)
                self._gpus += (isinstance(report, Report) and report.gpus) or ()
                reports.append((alive[node]["NodeManagerAddress"], report))
        return problems(self._here, reports)

    def _report(self, node: str, until: float) -> Report | str | None:
        """None if it is still to come, or the node has gone."""
        reference, asked_at = self._asked[node]
        try:
            return Report(*ray.get(reference, timeout=max(0.0, until - time.monotonic())))
        except GetTimeoutError:
            silent_s = time.monotonic() - asked_at
            return f"no answer in {silent_s:.0f} s" if silent_s >= _TIMEOUT_S else None
        except RayError as error:
            if not any(there["NodeID"] == node and there["Alive"] for there in ray.nodes()):
                return None
            # Of a traceback the last line is the cause.
            return str(error).strip().splitlines()[-1]


def problems(here: Report, reports: Sequence[tuple[str, Report | str]]) -> list[str]:
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
    return [f"node{'s' * (len(nodes) > 1)} {', '.join(nodes)}: {problem}" for problem, nodes in nodes_of.items()]


def _problems(here: Report, report: Report | str) -> Iterator[str]:
    if isinstance(report, str):
        yield f"given {one_line(report)}; allowed: a node that can run what the search sends it"
        return
    for package, version in here.versions.items():
        if (theirs := report.versions[package]) != version:
            given = f"no package {package}" if theirs is None else f"{package} {theirs}"
            yield f"given {given}; allowed: {package} {version}, as the search itself has it"
    for package, digest in here.sources.items():
        if (theirs := report.sources[package]) != digest:
            given = f"no package {package}" if theirs is None else f"other code of {package}"
            yield f"given {given}; allowed: the search's own, which a job submitted with --working-dir . brings along"
    for setting, wrong in report.folders.items():
        yield f"{setting}: given {wrong}; allowed: a folder on storage that all nodes share"
    if report.gpus is not None and not report.gpus:
        yield (
            "given no GPU that torch can use (torch.cuda.is_available() is false); allowed: torch with CUDA, and a "
            "driver for it, on each node with GPUs"
        )


@contextmanager
def _marked(folder: Folder) -> Iterator[tuple[str, str]]:
    """A file in the folder that tells it from another of the same path: its path and its content. One that is written
    for that is there for as long as the context is open."""
    if folder.file is not None:
        known_by = folder.path.absolute() / folder.file
        yield str(known_by), known_by.read_text(encoding="utf-8", errors="replace")
        return
    content = secrets.token_hex(16)
    mark = folder.path.absolute() / f".seen-{secrets.token_hex(8)}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(content)
    except OSError as error:
        given, reason = folder.path, error.strerror
        raise ConfigError(
            f"{folder.setting}: given {given}; allowed: a folder that can be written ({reason})"
        ) from None
    try:
        yield str(mark), content
    finally:
        mark.unlink()


_Look: TypeAlias = tuple[dict[str, str | None], dict[str, str | None], dict[str, str], list[tuple[str, float]] | None]


def _look() -> Callable[..., _Look]:
    """The function that looks at a node, and returns what a Report has.

    It is made here and uses the standard library alone, and for GPUs torch, so that Ray sends its code: the node may
    not have this package.
    """

    def look(
        packages: tuple[str, ...], sources: tuple[str, ...], marks: list[tuple[str, str, str, bool]], gpus: bool
    ) -> _Look:
        import hashlib
        import importlib.metadata
        import importlib.util
        import sys
        import tempfile
        from pathlib import Path

        versions: dict[str, str | None] = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
        for name in packages:
            try:
                # A build for GPUs and one without them are of one version.
                versions[name] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        digests: dict[str, str | None] = {}
        for name in sources:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                digests[name] = None
                continue
            root, digest = Path(spec.origin).parent, hashlib.sha256()
            for path in sorted(root.rglob("*.py")):
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
            digests[name] = digest.hexdigest()
        folders = {}
        for setting, mark, content, writable in marks:
            folder = Path(mark).parent
            try:
                if Path(mark).read_text(encoding="utf-8", errors="replace") != content:
                    folders[setting] = f"{folder}, which is another folder there"
                    continue
            except OSError as error:
                folders[setting] = f"{folder}, which it cannot see ({error.strerror})"
                continue
            try:
                if writable:
                    tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                folders[setting] = f"{folder}, which it cannot write ({error.strerror})"
        found = None
        if gpus and importlib.util.find_spec("torch") is not None:
            import torch

            each = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
            properties = map(torch.cuda.get_device_properties, each)
            found = [(gpu.name, float(gpu.total_memory)) for gpu in properties]
        return versions, digests, folders, found

    return look
