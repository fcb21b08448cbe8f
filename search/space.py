"""The schema of a search space (spaces/*.yaml), and how one is loaded.

    python -m search.space --json-schema > space.schema.json

prints the JSON schema, which editors use to complete and to check a space. Each setting can be fixed; a
`Searchable` one can also be searched: as a range {low, high, log} or as a list of choices. What a single run is
stands in trainables.config.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainables.config import file
from trainables.config.errors import shown
from trainables.config.fields import Block, Count, Text, wrong
from trainables.config.file import ConfigFile
from trainables.config.run import RunBudget, RunConfig


class Budget(RunBudget):
    trials: Count = 8
    """Trials for each model: an integer of at least 1. Trial 0 is the baseline without dropout."""


class EarlyStopping(Block):
    pruner: Literal["rungs", "none"] = "rungs"
    """How trials are stopped early: rungs (the worse ones stop at each rung) or none."""
    patience: Annotated[int, Field(ge=0)] = 3
    """Evaluations without improvement before a trial may be stopped: an integer of at least 0."""
    first_rung: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the budget's tokens before the first rung: above 0 and below 1."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in so many trials goes on at each rung: an integer of at least 2."""


class Sampler(Block):
    name: Literal["tpe", "random"] = "tpe"
    """How the next setting is chosen: tpe (learns from the trials so far) or random."""
    startup_trials: Count = 5
    """Random trials before tpe starts to learn: an integer of at least 1."""


class Resources(Block):
    slots: Count = 2
    """Trials that train at the same time: an integer of at least 1."""
    workers: Count = 1
    """Processes that share a trial: an integer of at least 1."""
    cpus_per_worker: Count = 1
    """CPU cores of a worker: an integer of at least 1."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """GPUs of a worker: an integer of at least 0."""


class Tracking(Block):
    experiment: Text = "entrodrop"
    """MLflow experiment that the search is recorded in."""
    uri: Text | None = None
    """MLflow tracking URI; null for MLFLOW_TRACKING_URI, or MLflow's own default."""


class Space(RunConfig):
    """A search: what is searched, on which models and data, with what budget."""

    budget: Budget = Budget()
    """How much is spent."""
    objective: Literal["best", "final", "mean"] = "best"
    """The high-entropy loss to minimise: of the best evaluation, of the final one, or the mean of all."""
    early_stopping: EarlyStopping = EarlyStopping()
    """When a trial ends before its budget."""
    sampler: Sampler = Sampler()
    """How settings are chosen."""
    resources: Resources = Resources()
    """What a slot gets; a slot trains one trial at a time."""
    tracking: Tracking = Tracking()
    """Where the search is recorded."""

    @model_validator(mode="after")
    def _batches_are_whole(self) -> Self:
        training, resources = self.training, self.resources
        if training.batch_size % (training.accumulation * resources.workers):
            allowed = (
                f"training.batch_size ({training.batch_size}) divisible by training.accumulation"
                f" ({training.accumulation}) * resources.workers ({resources.workers})"
            )
            settings = {
                ("training", "batch_size"): training,
                ("resources", "workers"): resources,
                ("training", "accumulation"): training,
            }
            # Not the default of one setting, but what was written.
            where = next(where for where, block in settings.items() if where[1] in block.model_fields_set)
            raise wrong(where, shown(getattr(settings[where], where[1])), allowed)
        return self


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile[Space]:
    """The space in the file `path`, after `overrides` such as "budget.trials=4".

    Raises:
        ConfigError: anything that the author of the file or of the overrides can mend.
    """
    return file.load(path, overrides, Space)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space's file."""
    return file.json_schema(Space)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m search.space", description="The schema of a search space.")
    parser.add_argument("--json-schema", action="store_true", required=True, help="print the JSON schema")
    parser.parse_args()
    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
