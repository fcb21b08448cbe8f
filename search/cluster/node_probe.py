"""What a node of a cluster says of itself: its packages, its GPUs, and what it sees and can write."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trainables.errors import ConfigError, mask_secrets
from trainables.storage.files import Place, store_errors

_MARK = ".seen-"


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
    """Marks the folder, for as long as the context is open.

    Raises:
        ConfigError: this process cannot write it.
    """
    place, content = folder.place, secrets.token_hex(16)
    if isinstance(place, Path):
        place = place.absolute()
    mark = place / f"{_MARK}{secrets.token_hex(8)}"
    try:
        with store_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            if folder.shared:
                # Of a search that was killed: an output is one search's at a time.
                for left in place.glob(f"{_MARK}*"):
                    left.unlink()
            mark.write_text(content)
    except OSError as error:
        given, reason = mask_secrets(str(folder.place)), error.strerror
        kind = "folder" if isinstance(place, Path) else "URL"
        raise ConfigError(f"{folder.setting}: {given} cannot be written ({reason}); name another {kind}") from None
    try:
        yield folder.setting, str(mark), content, folder.shared
    finally:
        with suppress(OSError), store_errors(place):
            mark.unlink()


ProbeResult: TypeAlias = tuple[
    dict[str, str | None], dict[str, str | None], dict[str, str], list[tuple[str, float]] | None
]


def probe_function() -> Callable[..., ProbeResult]:
    """The function that looks at a node, and returns what a Report has.

    It is made here and uses the standard library alone, for GPUs torch, and for URLs upath, so that Ray sends its code:
    the node may not have this package.
    """

    def look(
        packages: tuple[str, ...], sources: tuple[str, ...], marks: list[tuple[str, str, str, bool]], gpus: bool
    ) -> ProbeResult:
        import hashlib
        import importlib.metadata
        import importlib.util
        import sys
        import uuid
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

        def why(error: Exception) -> str:
            return str(getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__)

        def wrong(mark: str, content: str, shared: bool) -> str | None:
            """What is wrong with the folder of a mark, and what to do."""
            file: Any = Path(mark)
            seen, unseen = False, "is another folder there"
            # A store raises what it likes.
            errors: type[Exception] = Exception if "://" in mark else OSError
            try:
                if "://" in mark:
                    from upath import UPath

                    file = UPath(mark)
                seen = file.read_text(encoding="utf-8", errors="replace") == content
            except errors as error:
                unseen = f"cannot be seen there ({why(error)})"
            folder = mark.rpartition("/")[0]
            if shared and not seen:
                return f"{folder} {unseen}; name a folder on storage that all nodes share, or a URL that all reach"
            if shared or not seen:
                own = file.with_name(f"{file.name}-{uuid.uuid4().hex}")
                try:
                    own.parent.mkdir(parents=True, exist_ok=True)
                    own.write_text("")
                    own.unlink()
                except errors as error:
                    return f"{folder} cannot be written there ({why(error)}); name one that each node can write"
            return None

        found = {setting: wrong(mark, content, shared) for setting, mark, content, shared in marks}
        folders = {setting: told for setting, told in found.items() if told is not None}
        gpus_found = None
        if gpus and importlib.util.find_spec("torch") is not None:
            import torch

            each = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
            properties = map(torch.cuda.get_device_properties, each)
            gpus_found = [(gpu.name, float(gpu.total_memory)) for gpu in properties]
        return versions, digests, folders, gpus_found

    return look
