"""What a node of a cluster says of itself: its packages, its GPUs, and what it sees and can write."""

import hashlib
import importlib.metadata
import importlib.util
import secrets
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trainables.errors import ConfigError, mask_secrets
from trainables.storage.files import Place, store_errors

_PREFIX = ".seen-"


@dataclass(frozen=True)
class NeededFolder:
    """A folder, or a URL, that every node writes in.

    Attributes:
        setting: where the person gives it, as in "--output".
        shared: whether all nodes must see what one writes.
    """

    setting: str
    place: Place
    shared: bool


@dataclass(frozen=True)
class NodeReport:
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


# A folder's setting, a file in it that tells it from another of the same path, the file's content, and whether all
# nodes must see it.
ProbeFile: TypeAlias = tuple[str, str, str, bool]


@contextmanager
def write_probe_file(folder: NeededFolder) -> Iterator[ProbeFile]:
    """Writes a file into the folder, which stays as long as the context is open.

    Raises:
        ConfigError: this process cannot write it.
    """
    place, content = folder.place, secrets.token_hex(16)
    if isinstance(place, Path):
        place = place.absolute()
    file = place / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        with store_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            if folder.shared:
                # Of a search that was killed: an output is one search's at a time.
                for left in place.glob(f"{_PREFIX}*"):
                    left.unlink()
            file.write_text(content)
    except OSError as error:
        given, reason = mask_secrets(str(folder.place)), error.strerror
        kind = "folder" if isinstance(place, Path) else "URL"
        raise ConfigError(f"{folder.setting}: {given} cannot be written ({reason}); name another {kind}") from None
    try:
        yield folder.setting, str(file), content, folder.shared
    finally:
        with suppress(OSError), store_errors(place):
            file.unlink()


ProbeResult: TypeAlias = tuple[
    dict[str, str | None], dict[str, str | None], dict[str, str], list[tuple[str, float]] | None
]


def probe_node(packages: Sequence[str], sources: Sequence[str], files: Sequence[ProbeFile], gpus: bool) -> ProbeResult:
    """Looks at the node that it runs on. Returns what a NodeReport has.

    Ray sends the code of this module (search/cluster/node_checks.py): the node may not have it. So what runs there uses
    the standard library alone, for GPUs torch, and for URLs upath.
    """
    versions: dict[str, str | None] = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    versions |= {name: _version(name) for name in packages}
    problems = {setting: _check_folder(path, content, shared) for setting, path, content, shared in files}
    return (
        versions,
        {name: _hash_sources(name) for name in sources},
        {setting: problem for setting, problem in problems.items() if problem is not None},
        _list_gpus() if gpus and importlib.util.find_spec("torch") is not None else None,
    )


def _version(package: str) -> str | None:
    try:
        # A build for GPUs and one without them are of one version.
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _hash_sources(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    root, digest = Path(spec.origin).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _check_folder(probe_path: str, content: str, shared: bool) -> str | None:
    """What is wrong with the folder of a probe file, and what to do."""
    file: Any = Path(probe_path)
    seen, problem = False, "is another folder there"
    # A store raises what it likes.
    errors: type[Exception] = Exception if "://" in probe_path else OSError
    try:
        if "://" in probe_path:
            from upath import UPath

            file = UPath(probe_path)
        seen = file.read_text(encoding="utf-8", errors="replace") == content
    except errors as error:
        problem = f"cannot be seen there ({_reason(error)})"
    folder = probe_path.rpartition("/")[0]
    if shared and not seen:
        return f"{folder} {problem}; name a folder on storage that all nodes share, or a URL that all reach"
    if shared or not seen:
        probe = file.with_name(f"{file.name}-{uuid.uuid4().hex}")
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except errors as error:
            return f"{folder} cannot be written there ({_reason(error)}); name one that each node can write"
    return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__)


def _list_gpus() -> list[tuple[str, float]]:
    import torch

    each = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return [(gpu.name, float(gpu.total_memory)) for gpu in map(torch.cuda.get_device_properties, each)]
