"""One run without a search: the settings in a file such as best_schedule.builtin-nano.yaml.

The file is a search space in which one model stands and nothing is searched; what only a search needs is ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from trainables.config.build import model_settings_of, settings_of
from trainables.config.data import source_of, split_sizes
from trainables.config.errors import shown
from trainables.config.fields import Block, is_searched, wrong
from trainables.config.file import ConfigError, ConfigFile, load
from trainables.config.run import RunBudget, RunConfig
from trainables.config.schedule import SplineShape
from trainables.config.training import SEARCHABLE
from trainables.config.yaml_lines import Place
from trainables.documents import SplitSizes
from trainables.settings import ModelSettings, Settings
from trainables.sources import Source

_ALLOWED = "one value: a run has one setting; python -m search.run searches"

Ignored = Annotated[Any, Field(exclude=True)]


class RecipeBudget(RunBudget):
    trials: Ignored = None
    """Of a search; ignored."""


class RecipeConfig(RunConfig):
    """One setting to train with."""

    budget: RecipeBudget = RecipeBudget()
    """How much is spent."""
    objective: Ignored = None
    """Of a search; ignored."""
    early_stopping: Ignored = None
    """Of a search; ignored."""
    sampler: Ignored = None
    """Of a search; ignored."""
    resources: Ignored = None
    """Of a search; ignored."""
    tracking: Ignored = None
    """Of a search; ignored."""

    @model_validator(mode="after")
    def _is_one_setting(self) -> Self:
        if len(self.models) > 1:
            raise wrong(("models",), shown(self.models), _ALLOWED.replace("setting", "model"))
        for place, block, name in _searched(self):
            setting = getattr(block, name)
            value = setting.model_dump() if isinstance(setting, Block) else setting
            default = "" if name in block.model_fields_set else "nothing, which stands for "
            raise wrong((*place, name), f"{default}{_brief(value)}", _ALLOWED)
        training = self.training
        if training.batch_size % training.accumulation:
            allowed = f"a multiple of training.accumulation ({training.accumulation})"
            raise wrong(("training", "batch_size"), shown(training.batch_size), allowed)
        return self


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(getattr(one, 'shape', one)) for one in value)}]"
    return "null" if value is None else shown(value)


def _searched(config: RunConfig) -> Iterator[tuple[Place, Block, str]]:
    """The settings that are searched: the place of the block, the block, and the setting's name in it."""
    blocks: list[tuple[Place, Block, Sequence[str]]] = []
    if (schedule := config.schedule) is not None:
        own = ("tokens", "mask_ratio", "presentation", "curriculum", "refresh_epochs")
        blocks.append((("schedule", "entropy_threshold"), schedule.entropy_threshold, ("quantile", "nats")))
        blocks.append((("schedule",), schedule, own))
        shape = schedule.curriculum[0]
        if isinstance(shape, SplineShape):
            if shape.rises is None:
                yield ("schedule", "curriculum", 0), shape, "rises"
        else:
            blocks.append((("schedule", "curriculum", 0), shape, tuple(type(shape).model_fields)))
    blocks.append((("training",), config.training, SEARCHABLE))
    for place, block, names in blocks:
        yield from ((place, block, name) for name in names if is_searched(getattr(block, name)))


@dataclass(frozen=True)
class Recipe:
    """All that a run without a search needs.

    Attributes:
        source, general: where documents come from, and documents that measure what is forgotten, if there are any.
        general_documents: how many of these; 0 if there are none.
        sequence_length: tokens in a row.
        layout: "packed" or "padded".
        high_entropy, low_entropy: shares of the held-out tokens in the two groups.
        reference: the model whose entropies count; None for the model itself.
        mask_token: text of the token that stands for a dropped one; None for the tokenizer's own mask token.
        needs_mask_token: whether one is needed.
    """

    name: str
    seed: int
    model: str
    settings: Settings
    model_settings: ModelSettings
    source: Source
    sizes: SplitSizes
    general: Source | None
    general_documents: int
    sequence_length: int
    layout: str
    train_on_prompt: bool
    high_entropy: float
    low_entropy: float
    reference: str | None
    mask_token: str | None
    needs_mask_token: bool
    file: ConfigFile[RecipeConfig] = field(repr=False)

    def error(self, where: str, given: object, allowed: str, nearest: str | None = None) -> ConfigError:
        """The error for a setting, such as "data.path", that turned out wrong after loading."""
        return self.file.error(where, given, allowed, nearest)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file `path`, after `overrides` such as "budget.epochs=4".

    Raises:
        ConfigError: anything that the author of the file or of the overrides can mend.
    """
    file = load(path, overrides, RecipeConfig)
    config = file.config
    schedule = config.schedule
    return Recipe(
        name=config.name,
        seed=config.seed,
        model=config.models[0],
        settings=settings_of(config),
        model_settings=model_settings_of(config),
        source=source_of(config.data),
        sizes=split_sizes(config.data),
        general=source_of(config.general) if config.general is not None else None,
        general_documents=config.general.documents if config.general is not None else 0,
        sequence_length=config.training.sequence_length,
        layout=config.training.layout,
        train_on_prompt=config.data.train_on_prompt,
        high_entropy=config.evaluation.high_entropy,
        low_entropy=config.evaluation.low_entropy,
        reference=schedule.reference if schedule is not None else None,
        mask_token=schedule.mask_token if schedule is not None else None,
        needs_mask_token=schedule is not None and schedule.needs_mask_token,
        file=file,
    )
