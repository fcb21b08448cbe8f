"""What one run is, as a YAML file says it: models, data, schedule, training and evaluation.

A search's space is this and how to search; `trainables.config.recipe` reads one setting of it.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from trainables.config.data import Data, FilesData, FilesGeneral, General, HubData, HubGeneral, stated_count
from trainables.config.fields import Block, Choices, Count, Name
from trainables.config.model_names import ModelName, distinct_slugs
from trainables.config.schedule import Schedule
from trainables.config.training import Evaluation, Training
from trainables.config.validation_messages import shown, wrong


class RunBudget(Block):
    epochs: Count = 12
    """Passes over the training documents in a run that is not stopped early: an integer of at least 1."""


class RunConfig(Block):
    """Fine-tuning, with settings that are fixed or searched."""

    name: Name = Field(default_factory=lambda: "space")
    """Name of the search or of the run: up to 100 letters, digits, '.', '_' and '-', the first a letter, a digit or
    '_'; the stem of the file's name if not given."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the data, of the sampler and of the trials: an integer from 0 to 2147483647."""
    models: Annotated[Choices[ModelName], AfterValidator(distinct_slugs)]
    """Models, each searched on its own: a list of builtin/nano, builtin/micro, hub:owner/name, hub:owner/name@revision,
    package:python_package (the one GGUF file in it), or the path of a folder or of a .gguf file."""
    data: Data
    """The domain data: a mapping with source builtin, files, hub, or reasoning_gym."""
    general: General | None = None
    """Documents of another kind, which measure what is forgotten: a mapping with source builtin, files, hub,
    or reasoning_gym;
    null for none."""
    budget: RunBudget = RunBudget()
    """How much is spent."""
    schedule: Schedule | None = Schedule()
    """EntroDrop: which tokens are dropped, and when; null to drop none."""
    training: Training = Training()
    """Fine-tuning."""
    evaluation: Evaluation = Evaluation()
    """What is measured on held-out documents."""

    @model_validator(mode="after")
    def _a_chat_template_has_chats(self) -> Self:
        given = self.data.chat_template if isinstance(self.data, FilesData | HubData) else None
        kinds = (FilesData, HubData, FilesGeneral, HubGeneral)
        if given is not None and not any(isinstance(d, kinds) and d.has_chats for d in (self.data, self.general)):
            raise wrong(("data", "chat_template"), "no documents are chats; leave it out, or leave out data.template")
        return self

    @model_validator(mode="after")
    def _answers_can_be_generated(self) -> Self:
        asked, where = self.evaluation.exact_match, ("evaluation", "exact_match")
        if not asked:
            return self
        if isinstance(self.data, FilesData | HubData) and self.data.answer is None and not self.data.has_chats:
            raise wrong(where, "there is no data.answer to compare with; add one, or write 0 here")
        stated = stated_count(self.data.validation)
        if stated is not None and asked > stated:
            raise wrong(where, shown(asked), f"at most {stated}, which is data.validation")
        if self.training.sharding == "fsdp":
            raise wrong(where, "with training.sharding fsdp no worker has the whole model; write 0 here, or ddp there")
        return self
