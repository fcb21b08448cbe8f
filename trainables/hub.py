"""The Hugging Face hub: whether it gives a model, and what a person can do where it does not give what is asked for."""

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
    """What is allowed in place of a repository that the hub did not give.

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
            return f"a {noun} that you have access to: accept its conditions on {page} and set HF_TOKEN"
        case RepositoryNotFoundError():
            return f"a {noun} that {constants.ENDPOINT} has; a private one needs HF_TOKEN"
        case RevisionNotFoundError():
            return f"a revision that {repository} has"
        case HfHubHTTPError() | HFValidationError():
            return f"a {noun} that {constants.ENDPOINT} gives ({reason})"
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached: {reason}"
    command = f"hf download {'--repo-type dataset ' * (kind == 'dataset')}{repository} --local-dir FOLDER"
    return f"a {noun} in the local cache ({why}), or a local folder of it, as made elsewhere by `{command}`"
