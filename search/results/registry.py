"""The models that a space asks to register in MLflow: of each size the one that its confirmation recommends."""

from collections.abc import Sequence
from pathlib import Path

from search.output.folder import MODELS, Output
from search.recorder import Recorder
from search.results.model_result import ModelResult, recommend_arm, verdict_of
from search.space import Space
from trainables.storage.files import fetch_folder, remove, store_errors


def register_models(where: Output, space: Space, sizes: Sequence[ModelResult], record: Recorder) -> list[str]:
    """Has MLflow register the recommended models, and removes the others.

    Returns:
        for a person, which sizes have none and why.

    Raises:
        StorageError: the store of the output's URL does not answer.
    """
    missing = []
    for size in sizes:
        run = None
        if size.confirmed is not None and (arm := recommend_arm(size, space)) is not None:
            run = size.confirmed.run_with_model(arm)
        own = None
        if run is not None:
            own = _kept_alone(where, Path(size.studies[-1].slug) / str(run.number))
        if run is None or own is None:
            why = "nothing was confirmed" if run is None else "its weights were not kept"
            missing.append(f"{size.model}: no model is registered, as {why}")
            continue
        tags = {"model": size.model, "arm": run.user_attrs["arm"], "verdict": str(verdict_of(size, space))}
        name = f"{space.tracking.register_as}-{size.searched.slug}"
        record.register(name, size.studies[-1], run.number, own, tags)
    return missing


def _kept_alone(where: Output, name: Path) -> Path | None:
    """The folder of a model on this machine, once those beside it are removed; None if it is not there."""
    kept = where.models / name.as_posix()
    with store_errors(kept):
        if not kept.exists():
            return None
        for other in kept.parent.iterdir():
            if other.name != kept.name:
                remove(other)
    if isinstance(kept, Path):
        return kept
    own = where.folder / MODELS / name
    fetch_folder(kept, own)
    return own
