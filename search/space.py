"""The schema of a search space (spaces/*.yaml).

    python -m search.space --json-schema > space.schema.json

prints the JSON schema, which editors use to complete and to check a space. Each setting can be fixed; a
`Searchable` one can also be searched: as a range {low, high, log} or as a list of choices.
"""

import argparse
import json
import re
from functools import cache
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from search.space_errors import shown
from search.yaml_lines import Place


def _wrong(where: Place, given: str, allowed: str) -> PydanticCustomError:
    context = {"where": where, "given": given, "allowed": allowed}
    return PydanticCustomError("space", "given {given}; allowed: {allowed}", context)


class _Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


_Number = TypeVar("_Number", bound=float)
_Choice = TypeVar("_Choice")


class FloatRange(_Block, Generic[_Number]):
    """Any number from `low` to `high`."""

    low: _Number
    """Least value, in the unit of the setting."""
    high: _Number
    """Greatest value, in the unit of the setting; above `low`."""
    log: bool = False
    """Search on a logarithmic scale: true or false. It needs `low` above 0."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return cls.__name__

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise _wrong(("high",), shown(self.high), f"a number above low, which is {self.low:g}")
        if self.log and self.low <= 0:
            raise _wrong(("low",), shown(self.low), "a number above 0, as log is true")
        return self


def _distinct(values: list[_Choice]) -> list[_Choice]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise _wrong((index,), f"{shown(value)} a second time", "each choice once")
    return values


def _way(value: object) -> str:
    """Which of the three ways to give a setting `value` is."""
    return "choices" if isinstance(value, list) else "range" if isinstance(value, dict | FloatRange) else "fixed"


Choices = Annotated[list[_Choice], Field(min_length=1), AfterValidator(_distinct)]
if TYPE_CHECKING:
    Searchable = Union[_Number, FloatRange[_Number], list[_Number]]  # noqa: UP007
else:

    class Searchable:
        """A number with its bounds; or a range, or choices, within the same bounds."""

        # An alias would not do: typing fills in no parameters of a class such as FloatRange[_Number].
        def __class_getitem__(cls, number: Any) -> Any:
            fixed, choices = Annotated[number, Tag("fixed")], Annotated[Choices[number], Tag("choices")]
            searched = Annotated[FloatRange[number], Tag("range")]
            return Annotated[fixed | searched | choices, Discriminator(_way)]


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$",
        json_schema_extra={"allowed": "up to 100 letters, digits, '.', '_' and '-', first a letter, a digit or '_'"},
    ),
]
Text = Annotated[
    str,
    Field(
        pattern=r"^[^\x00-\x1f\x7f]+$",
        json_schema_extra={"allowed": "one line of text"},
    ),
]


class _Splits(_Block):
    train: Count
    """Documents to train on: an integer of at least 1."""
    validation: Count
    """Documents that choose among the trials: an integer of at least 1."""
    test: Count
    """Documents that the winners are confirmed on, never used before: an integer of at least 1."""


class ReasoningGymData(_Splits):
    """Problems with worked solutions, generated offline by the package reasoning-gym."""

    source: Literal["reasoning_gym"]
    """Where the documents come from: reasoning_gym, or files."""
    task: Literal["gsm_symbolic"]
    """The generator: gsm_symbolic (grade-school arithmetic)."""


class FilesData(_Splits):
    """A file of your own, with one JSON object on each line."""

    source: Literal["files"]
    """Where the documents come from: files, or reasoning_gym."""
    path: Text
    """The file, UTF-8; relative to the folder of the space's own file."""
    template: str = Field(json_schema_extra={"allowed": "text with at least one {column} of the file"})
    """The text of a document, with columns of the file in braces, such as "{question}\\n{answer}"."""

    @field_validator("path")
    @classmethod
    def _from_the_folder_of_the_space(cls, path: str, info: ValidationInfo) -> str:
        return str(info.context["folder"] / path) if info.context else path

    @field_validator("template")
    @classmethod
    def _has_columns(cls, template: str) -> str:
        try:
            columns = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise _wrong((), shown(template), f"text with {{columns}} in braces; {{{{ for a brace ({error})") from None
        # {} and {0} are positions, {a.b} an attribute: a column has a name.
        if not columns or not all(re.match(r"[^\d.\[][^.]*$", name) for name in columns):
            raise _wrong((), shown(template), "text with at least one {column} of the file, each with its name")
        return template


class Budget(_Block):
    trials: Count = 8
    """Trials for each model: an integer of at least 1. Trial 0 is the baseline without dropout."""
    epochs: Count = 16
    """Passes over the training documents in a trial that is not stopped early: an integer of at least 1."""


class EntropyThreshold(_Block):
    quantile: Searchable[Share] = FloatRange[Share](low=0.2, high=0.9)
    """Tokens up to this quantile of the training tokens' entropies are low-entropy: from 0 to 1."""


class ConstantShape(_Block):
    """Full strength from the start."""

    shape: Literal["constant"]
    """Shape of the curriculum: constant."""


class LinearShape(_Block):
    """Strength in proportion to progress."""

    shape: Literal["linear"]
    """Shape of the curriculum: linear."""


class CosineShape(_Block):
    """Half a cosine wave from 0 to 1."""

    shape: Literal["cosine"]
    """Shape of the curriculum: cosine."""


class SigmoidShape(_Block):
    """A logistic rise."""

    shape: Literal["sigmoid"]
    """Shape of the curriculum: sigmoid."""
    midpoint: Searchable[Share] = FloatRange[Share](low=0.1, high=0.8)
    """Progress at which the rise is steepest: share of the budget's tokens, from 0 to 1."""
    steepness: Searchable[Positive] = FloatRange[Positive](low=4.0, high=30.0, log=True)
    """Slope of the rise, per unit of progress: above 0; 4 is gentle, 30 nearly a step."""


class StepShape(_Block):
    """Nothing, then full strength."""

    shape: Literal["step"]
    """Shape of the curriculum: step."""
    at: Searchable[Share] = FloatRange[Share](low=0.1, high=0.8)
    """Progress at which dropping starts: share of the budget's tokens, from 0 to 1."""


Shape = Annotated[ConstantShape | LinearShape | CosineShape | SigmoidShape | StepShape, Field(discriminator="shape")]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _distinct_shapes(shapes: list[Shape]) -> list[Shape]:
    names = [shape.shape for shape in shapes]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _wrong(
                (index, "shape"),
                f"{shown(name)} a second time",
                "each shape once; search its parameters instead",
            )
    return shapes


Curriculum = Annotated[
    list[Shape],
    Field(min_length=1),
    AfterValidator(_distinct_shapes),
    BeforeValidator(_as_list, json_schema_input_type=Shape | Annotated[list[Shape], Field(min_length=1)]),
]


Presentation = Literal["input", "loss"]


class Schedule(_Block):
    entropy_threshold: EntropyThreshold = EntropyThreshold()
    """Which tokens are low-entropy, and so may be dropped."""
    mask_ratio: Searchable[Share] = FloatRange[Share](low=0.1, high=0.9)
    """Share of the low-entropy tokens that is dropped at full strength: from 0 to 1."""
    presentation: Annotated[
        Annotated[Presentation, Tag("fixed")] | Annotated[Choices[Presentation], Tag("choices")],
        Discriminator(lambda value: "choices" if isinstance(value, list) else "fixed"),
    ] = "input"
    """What dropping does: input (the token's embedding becomes zero) or loss (its label leaves the loss)."""
    curriculum: Curriculum = [
        ConstantShape(shape="constant"),
        LinearShape(shape="linear"),
        CosineShape(shape="cosine"),
        SigmoidShape(shape="sigmoid"),
        StepShape(shape="step"),
    ]
    """How the strength rises with progress: one shape, or a list of different shapes to choose from."""


class Training(_Block):
    learning_rate: Searchable[Positive] = 0.002
    """AdamW's peak learning rate: above 0."""
    weight_decay: Searchable[NotNegative] = 0.01
    """AdamW's weight decay: at least 0."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the budget's optimizer steps in which the learning rate rises: from 0 to below 1."""
    batch_size: Count = 4
    """Packed sequences in an optimizer step, over all workers: a multiple of accumulation * workers."""
    accumulation: Count = 1
    """Micro-batches in an optimizer step: an integer of at least 1."""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """Tokens in a packed sequence: an integer of at least 8."""
    gradient_clip: Positive = 1.0
    """Greatest norm of the gradient: above 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward passes: fp32 or bf16."""


class Evaluation(_Block):
    per_epoch: Count = 1
    """Evaluations in each epoch: an integer of at least 1."""
    high_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the held-out tokens that counts as high-entropy: above 0 and below 1."""
    low_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the held-out tokens that counts as low-entropy: above 0 and at most 1 - high_entropy."""

    @model_validator(mode="after")
    def _groups_do_not_overlap(self) -> Self:
        # 0.7 + 0.3 may be a little above 1 in floating point.
        if self.high_entropy + self.low_entropy > 1 + 1e-9:
            name, other = ("low_entropy", "high_entropy")
            if name not in self.model_fields_set:
                name, other = other, name
            rest = 1 - getattr(self, other)
            raise _wrong((name,), shown(getattr(self, name)), f"a number of at most {rest:g} (1 - {other})")
        return self


class EarlyStopping(_Block):
    pruner: Literal["rungs", "none"] = "rungs"
    """How trials are stopped early: rungs (the worse ones stop at each rung) or none."""
    patience: Annotated[int, Field(ge=0)] = 3
    """Evaluations without improvement before a trial may be stopped: an integer of at least 0."""
    first_rung: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the budget's tokens before the first rung: above 0 and below 1."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in so many trials goes on at each rung: an integer of at least 2."""


class Sampler(_Block):
    name: Literal["tpe", "random"] = "tpe"
    """How the next setting is chosen: tpe (learns from the trials so far) or random."""
    startup_trials: Count = 5
    """Random trials before tpe starts to learn: an integer of at least 1."""


class Resources(_Block):
    slots: Count = 2
    """Trials that train at the same time: an integer of at least 1."""
    workers: Count = 1
    """Processes that share a trial: an integer of at least 1."""
    cpus_per_worker: Count = 1
    """CPU cores of a worker: an integer of at least 1."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """GPUs of a worker: an integer of at least 0."""


class Tracking(_Block):
    experiment: Text = "entrodrop"
    """MLflow experiment that the search is recorded in."""
    uri: Text | None = None
    """MLflow tracking URI; null for MLFLOW_TRACKING_URI, or MLflow's own default."""


class Space(_Block):
    """A search: what is searched, on which models and data, with what budget."""

    name: Name = Field(default_factory=lambda: "space")
    """Name of the search; the stem of the file's name if not given."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the data, of the sampler and of the trials: an integer from 0 to 2147483647."""
    models: Choices[Literal["builtin/nano", "builtin/micro"]]
    """Models to search for, each on its own: one or both of builtin/nano and builtin/micro."""
    data: Annotated[ReasoningGymData | FilesData, Field(discriminator="source")]
    """The domain data."""
    budget: Budget = Budget()
    """How much is spent."""
    schedule: Schedule = Schedule()
    """EntroDrop: which tokens are dropped, and when."""
    training: Training = Training()
    """Fine-tuning."""
    evaluation: Evaluation = Evaluation()
    """What is measured on held-out documents."""
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
            raise _wrong(where, shown(getattr(settings[where], where[1])), allowed)
        return self


@cache
def json_schema() -> dict[str, Any]:
    """The JSON schema of a space's file."""
    return Space.model_json_schema()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m search.space", description="The schema of a search space.")
    parser.add_argument("--json-schema", action="store_true", required=True, help="print the JSON schema")
    parser.parse_args()
    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
