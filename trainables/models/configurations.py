"""From a model's name to its configuration, which says what the model's memory and arithmetic are: without its weights.

The folder `published` holds what decides the architecture in the configurations of some models of the hub.
"""

import contextlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from trainables.errors import ModelError
from trainables.models.architectures import ARCHITECTURES
from trainables.models.builtin import unweighted
from trainables.models.loading import read_config
from trainables.models.resolve import CONFIG, HUB, from_hub, model_folder, of_hub


def config_of(name: str, cache: Path) -> PreTrainedConfig:
    """The configuration of the model of this name. One of the hub is the published one, or else from the hub's local
    cache, or else its config.json is downloaded, and nothing else.

    Raises:
        ModelError: no such model, or its configuration cannot be read.
    """
    if name in ARCHITECTURES:
        return unweighted(name)[0].config
    if not name.startswith(HUB):
        return read_config(model_folder(name, cache))
    known = _load_published(of_hub(name)[0])
    if known is not None:
        config: PreTrainedConfig = AutoConfig.for_model(**known)
        return config
    with contextlib.suppress(ModelError):
        folder = from_hub(name, cached_only=True)
        if (folder / CONFIG).is_file():
            return read_config(folder)
    return read_config(from_hub(name, CONFIG))


def _load_published(repository: str) -> dict[str, Any] | None:
    file = files("trainables.models").joinpath("published", f"{repository.replace('/', '--')}.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
