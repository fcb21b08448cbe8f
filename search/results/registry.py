"""The models that a space asks to register in MLflow: of each model the one that its confirmation recommends."""

from collections.abc import Sequence
from pathlib import Path

from search.output.folder import MODELS, Output
from search.recorder import Recorder
from search.results.files import describe_result
from search.results.model_card import CARD, render_card
from search.results.model_result import ModelResult, recommend_arm, verdict_of
from search.space import Space
from trainables.storage.files import fetch_folder, remove, store_errors, write_atomic


def register_models(output: Output, space: Space, results: Sequence[ModelResult], record: Recorder) -> list[str]:
    """Has MLflow register the recommended models, and removes the others if they are not to be kept.

    Returns:
        for a person, which models are not registered and why.

    Raises:
        StorageError: the store of the output's URL does not answer.
    """
    missing = []
    for result in results:
        run = None
        if result.confirmed is not None and (arm := recommend_arm(result, space)) is not None:
            run = result.confirmed.run_with_model(arm)
        folder = None
        if run is not None:
            alone = space.confirmation is None or not space.confirmation.keep_models
            folder = _fetch(output, Path(result.studies[-1].slug) / str(run.number), alone)
        if run is None or folder is None:
            reason = "nothing was confirmed" if run is None else "its weights were not kept"
            missing.append(f"{result.model}: no model is registered, as {reason}")
            continue
        write_atomic(folder / CARD, render_card(result, space))
        tags = {"model": result.model, "arm": run.user_attrs["arm"], "verdict": str(verdict_of(result, space))}
        name = f"{space.tracking.register_as}-{result.searched.slug}"
        words = describe_result(result, space)
        record.register(name, result.studies[-1], run.number, folder, tags, words)
    return missing


def _fetch(output: Output, name: Path, alone: bool) -> Path | None:
    """The folder of a model on this machine; None if it is not there.

    Args:
        alone: whether those beside it are removed.
    """
    kept = output.models / name.as_posix()
    with store_errors(kept):
        if not kept.exists():
            return None
        for other in kept.parent.iterdir() if alone else ():
            if other.name != kept.name:
                remove(other)
    if isinstance(kept, Path):
        return kept
    folder = output.folder / MODELS / name
    fetch_folder(kept, folder)
    return folder
