"""One run without a search: the settings in a file such as best_schedule.builtin-nano.yaml.

The file is a search space in which one model stands and nothing is searched; what only a search needs is ignored.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from trainables.config.fields import Block, is_searched
from trainables.config.loader import ConfigFile, load, validate
from trainables.config.run import RunBudget, RunConfig
from trainables.config.schedule import Schedule, SplineShape
from trainables.config.training import SEARCHABLE, Training
from trainables.config.validation_messages import shown, wrong
from trainables.config.yaml_values import Place

_ALLOWED = "one value; python -m search.run searches"

Ignored = Annotated[Any, Field(exclude=True)]


class RecipeBudget(RunBudget):
    trials: Ignored = None
    """Of a search; ignored."""
    tokens: Ignored = None
    """Of a search; ignored."""
    hours: Ignored = None
    """Of a search; ignored."""
    device_hours: Ignored = None
    """Of a search; ignored."""


class RecipeConfig(RunConfig):
    """One setting to train with."""

    budget: RecipeBudget = RecipeBudget()
    """How much is spent."""
    arms: Ignored = None
    """Of a search; ignored."""
    objectives: Ignored = None
    """Of a search; ignored."""
    objective: Ignored = None
    """Of a search; ignored."""
    constraints: Ignored = None
    """Of a search; ignored."""
    early_stopping: Ignored = None
    """Of a search; ignored."""
    sampler: Ignored = None
    """Of a search; ignored."""
    faults: Ignored = None
    """Of a search; ignored."""
    transfer: Ignored = None
    """Of a search; ignored."""
    confirmation: Ignored = None
    """Of a search; ignored."""
    resources: Ignored = None
    """Of a search; ignored."""
    study: Ignored = None
    """Of a search; ignored."""
    tracking: Ignored = None
    """Of a search; ignored."""

    @model_validator(mode="after")
    def _is_one_setting(self) -> Self:
        if len(self.models) > 1:
            raise wrong(("models",), shown(self.models), "one model; python -m search.run searches")
        _refuse_searched(self.schedule, self.training)
        training = self.training
        if training.batch_size % training.accumulation:
            allowed = f"a multiple of training.accumulation ({training.accumulation})"
            raise wrong(("training", "batch_size"), shown(training.batch_size), allowed)
        return self


class ScheduleFile(Block):
    """The block `schedule` of a recipe; what else stands in the file is ignored."""

    model_config = ConfigDict(extra="ignore")

    schedule: Schedule | None
    """EntroDrop's schedule: the block of a file such as best_schedule.<model>.yaml, or null to drop no token."""

    @model_validator(mode="after")
    def _is_one_setting(self) -> Self:
        _refuse_searched(self.schedule)
        return self


def _refuse_searched(schedule: Schedule | None, training: Training | None = None) -> None:
    for place, block, name in _find_searched(schedule, training):
        setting = getattr(block, name)
        value = setting.model_dump() if isinstance(setting, Block) else setting
        default = "" if name in block.model_fields_set else "nothing, which stands for "
        raise wrong((*place, name), f"{default}{_abbreviate(value)}", _ALLOWED)


def _abbreviate(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(getattr(one, 'shape', one)) for one in value)}]"
    return "null" if value is None else shown(value)


def _find_searched(schedule: Schedule | None, training: Training | None) -> Iterator[tuple[Place, Block, str]]:
    """The settings that are searched: the place of the block, the block, and the setting's name in it."""
    blocks: list[tuple[Place, Block, Sequence[str]]] = []
    if schedule is not None:
        own = ("tokens", "mask_ratio", "presentation", "curriculum", "refresh_epochs", "redraw")
        blocks.append((("schedule", "entropy_threshold"), schedule.entropy_threshold, ("quantile", "nats")))
        blocks.append((("schedule",), schedule, own))
        shape = schedule.curriculum[0]
        if isinstance(shape, SplineShape):
            if shape.rises is None:
                yield ("schedule", "curriculum", 0), shape, "rises"
        else:
            blocks.append((("schedule", "curriculum", 0), shape, tuple(type(shape).model_fields)))
    if training is not None:
        blocks.append((("training",), training, SEARCHABLE))
        if (weight := training.token_weight) is not None:
            blocks.append((("training", "token_weight"), weight, tuple(type(weight).model_fields)))
        if (lora := training.lora) is not None:
            yield from ((("training", "lora"), lora, name) for name, own in lora.settings.items() if is_searched(own))
    for place, block, names in blocks:
        yield from ((place, block, name) for name in names if is_searched(getattr(block, name)))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile[RecipeConfig]:
    """The recipe in the file `path`, after `overrides` such as "budget.epochs=4".

    Raises:
        ConfigError: anything that the author of the file or of the overrides can mend.
    """
    return load(path, overrides, RecipeConfig)


def load_schedule(schedule: str | Path | Mapping[str, Any]) -> Schedule | None:
    """The block `schedule` of the recipe in a file, or the one that is given as a mapping; nothing in it is searched.

    Raises:
        ConfigError: anything that the author can mend.
    """
    if isinstance(schedule, Mapping):
        return validate({"schedule": dict(schedule)}, ScheduleFile).schedule
    return load(schedule, (), ScheduleFile, models_are_here=False).config.schedule
