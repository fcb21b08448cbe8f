"""What every node of a cluster needs, looked at before the first trial: the same packages, and folders that all see."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.mirror import Output
from trainables.cache import default_root
from trainables.config.errors import one_line
from trainables.config.file import ConfigError
from trainables.weights import CONFIG, at_hand, kept_at

_PACKAGES = ("ray", "torch", "transformers", "numpy")
_SOURCES = ("search", "trainables")
# A node may have to install packages first.
_TIMEOUT_S = 600.0


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
    """

    versions: Mapping[str, str | None]
    sources: Mapping[str, str | None]
    folders: Mapping[str, str]


def needed(where: Output, models: Sequence[str]) -> list[Folder]:
    """The folders that all nodes need; that of an output behind a URL is in the cache."""
    local = where.place == where.folder
    folders = [Folder("--output", where.folder, writable=True)] if local else []
    folders.append(Folder("ENTRODROP_CACHE", default_root(), writable=not local))
    for model in models:
        if (folder := kept_at(model)) is not None:
            folders.append(Folder(f"models ({model})", folder, file=CONFIG))
    if not all(map(at_hand, models)):
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(Folder("HF_HUB_CACHE", Path(HF_HUB_CACHE)))
    return folders


def check_nodes(folders: Sequence[Folder]) -> None:
    """Looks at every node of the cluster that this process has joined; a slot may lie on any of them.

    Raises:
        ConfigError: what is wrong, a line for each thing; or a folder that this process cannot write.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = _look()
    with ExitStack() as stack:
        marks = [(f.setting, *stack.enter_context(_marked(f)), f.writable) for f in folders]
        arguments = _PACKAGES, _SOURCES, marks
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        asked = []
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked.append((node["NodeManagerAddress"], task.options(scheduling_strategy=there).remote(*arguments)))
        reports: list[tuple[str, Report | str]] = []
        for address, reference in asked:
            try:
                reports.append((address, Report(*ray.get(reference, timeout=_TIMEOUT_S))))
            except RayError as error:
                # Of a traceback the last line is the cause.
                reports.append((address, str(error).strip().splitlines()[-1]))
        here = Report(*look(*arguments))
    if wrong := problems(here, reports):
        raise ConfigError("\n".join(wrong))


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


@contextmanager
def _marked(folder: Folder) -> Iterator[tuple[str, str]]:
    """A file in the folder that tells it from another of the same path: its path and its content. One that is written
    for that is there for as long as the context is open."""
    if folder.file is not None:
        yield str(folder.path.absolute() / folder.file), (folder.path / folder.file).read_text()
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


def _look() -> Callable[..., tuple[dict[str, str | None], dict[str, str | None], dict[str, str]]]:
    """The function that looks at a node, and returns what a Report has.

    It is made here and uses the standard library alone, so that Ray sends its code: the node may not have this package.
    """

    def look(
        packages: tuple[str, ...], sources: tuple[str, ...], marks: list[tuple[str, str, str, bool]]
    ) -> tuple[dict[str, str | None], dict[str, str | None], dict[str, str]]:
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
                if Path(mark).read_text() != content:
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
        return versions, digests, folders

    return look
