"""The models that a space asks to register in MLflow: of each size the one that its confirmation recommends."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from search.outcome import Size, recommended, verdict_of
from search.record import Record
from search.space import Space


def register_models(models: Path, space: Space, sizes: Sequence[Size], record: Record) -> list[str]:
    """Has MLflow register the recommended models, and removes the others.

    Args:
        models: where the runs of the confirmation have left theirs; see search.tuner.run_trials.

    Returns:
        for a person, which sizes have none and why.
    """
    missing = []
    for size in sizes:
        run = None
        if size.confirmed is not None and (arm := recommended(size, space)) is not None:
            run = size.confirmed.run_with_model(arm)
        folder = models / size.studies[-1].slug / str(run.number) if run is not None else None
        if run is None or folder is None or not folder.exists():
            why = "nothing was confirmed" if run is None else "its weights were not kept"
            missing.append(f"{size.model}: no model is registered, as {why}")
            continue
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        tags = {"model": size.model, "arm": run.user_attrs["arm"], "verdict": str(verdict_of(size, space))}
        record.register(
            f"{space.tracking.register_as}-{size.searched.slug}", size.studies[-1].name, run.number, folder, tags
        )
    return missing
