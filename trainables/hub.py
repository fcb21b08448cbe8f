"""The Hugging Face hub: whether it gives a model, and what a person can do where it does not give what is asked for."""

import contextlib
from pathlib import Path
from typing import Literal

_NOUN = {"model": "model", "dataset": "data set"}
_TIMEOUT_S = 10.0


def ask_for_model(repository: str, revision: str | None) -> None:
    """Asks the hub once whether it has a model, and gives it to this person; nothing is downloaded.

    Raises:
        Exception: what the hub's client raises, for `advice`.
    """
    from huggingface_hub import HfApi

    HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_S)


def advice(kind: Literal["model", "dataset"], repository: str, error: Exception) -> str:
    """Why the hub did not give a repository, and what to do.

    Args:
        error: what the hub's client raised.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    noun = _NOUN[kind]
    reason = str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__
    match error:
        case GatedRepoError():
            page = f"{constants.ENDPOINT}/{'datasets/' * (kind == 'dataset')}{repository}"
            return f"{repository} is open only to some; accept its conditions on {page} and set HF_TOKEN"
        case RepositoryNotFoundError():
            return f"{constants.ENDPOINT} has no {noun} {repository}; mend the name, or set HF_TOKEN if it is private"
        case RevisionNotFoundError():
            return f"{repository} has no such revision; name another, or none"
        case HfHubHTTPError() | HFValidationError():
            return f"{constants.ENDPOINT} does not give the {noun} {repository} ({reason}); try again, or name another"
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached: {reason}"
    command = f"hf download {'--repo-type dataset ' * (kind == 'dataset')}{repository} --local-dir FOLDER"
    return (
        f"{repository} is not in the local cache, and {why}; name a local folder of it, made elsewhere by `{command}`"
    )


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is what Git leaves in the place of a large one until `git lfs pull`."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        return content.read(24) == b"version https://git-lfs."
    return False
