"""Names of models, as YAML gives them."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from trainables.config.validation_messages import shown, wrong
from trainables.errors import nearest_word
from trainables.models.architectures import ARCHITECTURES

BUILTIN = tuple(ARCHITECTURES)
_ALLOWED = f"{', '.join(BUILTIN)}, hub:owner/name, package:python_package, or the path of a folder or of a .gguf file"
_PREFIXED = re.compile(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?|package:[^\W\d]\w*", re.ASCII)


def _model_name(name: str, info: ValidationInfo) -> str:
    """The name of a model; a path becomes one from the folder of the file."""
    if name in BUILTIN or _PREFIXED.fullmatch(name):
        return name
    prefix = name.partition(":")[0]
    is_path = prefix not in ("hub", "package") and ("/" in name or name.lower().endswith(".gguf"))
    folder = info.context["folder"] if info.context else Path()
    if not is_path or name.startswith("builtin/"):
        beside = f"./{name}" if "/" not in name and os.path.isdir(folder / name) else None
        raise wrong((), shown(name), _ALLOWED, beside or _nearest(name))
    path = Path(os.path.normpath(folder / os.path.expanduser(name)))
    try:
        exists = path.is_file() if path.suffix.lower() == ".gguf" else path.is_dir()
    except ValueError:
        exists = False
    if not exists and (info.context or {}).get("models_are_here", True):
        raise wrong((), f"{shown(name)}, which does not exist", _ALLOWED, nearest_word(name, BUILTIN))
    return str(path)


def _nearest(name: str) -> str | None:
    if name.startswith("package:"):
        return name.replace("-", "_") if _PREFIXED.fullmatch(name.replace("-", "_")) else None
    by_word = {word: builtin for builtin in BUILTIN for word in (builtin, builtin.partition("/")[2])}
    word = nearest_word(name, by_word)
    return by_word[word] if word else None


ModelName = Annotated[str, AfterValidator(_model_name)]


def slug(model: str) -> str:
    """A model's name as a part of a file's name: hub:owner/name as hub-owner-name, a path by its last part."""
    is_path = model not in BUILTIN and not _PREFIXED.fullmatch(model)
    name = Path(model).name if is_path else model
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".") or "model"


def distinct_slugs(models: list[str]) -> list[str]:
    for index, model in enumerate(models):
        for other in models[:index]:
            if slug(model) == slug(other):
                problem = f"the results of {model} and {other} would have the same file names; rename a folder"
                raise wrong((index,), problem)
    return models
