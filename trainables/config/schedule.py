"""The block schedule: EntroDrop, and its controls."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainables.config.fields import (
    Block,
    FloatRange,
    NotNegative,
    OneOrMore,
    Positive,
    Searchable,
    Share,
    Text,
    WholeNumber,
)
from trainables.config.model_names import ModelName
from trainables.config.validation_messages import shown, wrong


class EntropyThreshold(Block):
    """tau: either a quantile or nats."""

    quantile: Searchable[Share] | None = None
    """Tokens up to this quantile of the training tokens' entropies are low-entropy: from 0 to 1."""
    nats: Searchable[NotNegative] | None = None
    """Tokens of up to this entropy are low-entropy: nats, at least 0."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.quantile is None and self.nats is None:
            raise wrong((), "neither quantile nor nats is given; give one of them")
        if self.quantile is not None and self.nats is not None:
            raise wrong(("nats",), "quantile is given too; leave out one of them")
        return self


class ConstantShape(Block):
    """Full strength from the start."""

    shape: Literal["constant"]
    """Shape of the curriculum: constant."""


class LinearShape(Block):
    """Strength in proportion to progress."""

    shape: Literal["linear"]
    """Shape of the curriculum: linear."""
    until: Searchable[Annotated[float, Field(gt=0, le=1)]] = 1.0
    """Progress at which full strength is reached: share of the budget's tokens, above 0 and at most 1."""


class CosineShape(Block):
    """Half a cosine wave from 0 to 1."""

    shape: Literal["cosine"]
    """Shape of the curriculum: cosine."""


class SigmoidShape(Block):
    """A logistic rise."""

    shape: Literal["sigmoid"]
    """Shape of the curriculum: sigmoid."""
    midpoint: Searchable[Share] = FloatRange[Share](low=0.1, high=0.8)
    """Progress at which the rise is steepest: share of the budget's tokens, from 0 to 1."""
    steepness: Searchable[Positive] = FloatRange[Positive](low=4.0, high=30.0, log=True)
    """Slope of the rise, per unit of progress: above 0; 4 is gentle, 30 nearly a step."""


class StepShape(Block):
    """Nothing, then full strength."""

    shape: Literal["step"]
    """Shape of the curriculum: step."""
    at: Searchable[Share] = FloatRange[Share](low=0.1, high=0.8)
    """Progress at which dropping starts: share of the budget's tokens, from 0 to 1."""


class SplineShape(Block):
    """A monotone cubic spline from 0 to 1 over evenly spaced knots."""

    shape: Literal["spline"]
    """Shape of the curriculum: spline."""
    rises: Annotated[list[NotNegative], Field(min_length=2, max_length=9)] | None = None
    """How much the strength rises from knot to knot, rescaled to sum to 1: a list of 2 to 9 numbers of at least 0, one
    more than there are knots; null searches each of them from 0 to 1."""
    # After `rises`, which it depends on.
    knots: Annotated[int, Field(ge=1, le=8)] = Field(
        default_factory=lambda values: len(values["rises"]) - 1 if values.get("rises") else 3
    )
    """Knots between start and end: an integer from 1 to 8. 3 if neither knots nor rises are given."""

    @model_validator(mode="after")
    def _has_a_rise_to_each_knot_and_to_the_end(self) -> Self:
        if self.rises is not None and len(self.rises) != self.knots + 1:
            raise wrong(("knots",), shown(self.knots), f"{len(self.rises) - 1}, one less than there are rises")
        return self


Shape = Annotated[
    ConstantShape | LinearShape | CosineShape | SigmoidShape | StepShape | SplineShape, Field(discriminator="shape")
]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _distinct_shapes(shapes: list[Shape]) -> list[Shape]:
    names = [shape.shape for shape in shapes]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise wrong((index, "shape"), f"{name} is given a second time; search its parameters instead")
    return shapes


Curriculum = Annotated[
    list[Shape],
    Field(min_length=1),
    AfterValidator(_distinct_shapes),
    BeforeValidator(_as_list, json_schema_input_type=Shape | Annotated[list[Shape], Field(min_length=1)]),
]

_SHAPES: list[Shape] = [
    ConstantShape(shape="constant"),
    LinearShape(shape="linear"),
    CosineShape(shape="cosine"),
    SigmoidShape(shape="sigmoid"),
    StepShape(shape="step"),
]
MASK_TOKEN = "input_mask_token"
Redraw = Literal["epoch", "never"]
Presentation = Literal["input", "input_mask_token", "input_random_token", "loss"]
Tokens = Literal["low_entropy", "random", "high_entropy"]


class Schedule(Block):
    entropy_threshold: EntropyThreshold = EntropyThreshold(quantile=FloatRange[Share](low=0.2, high=0.9))
    """Which tokens are low-entropy, and so may be dropped: a quantile, or nats."""
    tokens: OneOrMore[Tokens] = "low_entropy"
    """Which tokens are dropped: low_entropy; or, to compare with, random (as many of all tokens) or high_entropy (as
    many, from above)."""
    mask_ratio: Searchable[Share] = FloatRange[Share](low=0.1, high=0.9)
    """Share of these tokens that is dropped at full strength: from 0 to 1."""
    presentation: OneOrMore[Presentation] = "input"
    """What dropping does: input (the token's embedding becomes zero), input_mask_token (it becomes the mask token's),
    input_random_token (it becomes a random token's), or loss (the token's label leaves the loss)."""
    curriculum: Curriculum = _SHAPES
    """How the strength rises with progress: a mapping with shape constant, linear, cosine, sigmoid, step, or spline; or
    a list of such mappings, with different shapes, to choose from."""
    reference: ModelName | None = None
    """The model whose entropies count, with the same tokenizer: a model's name; null for the model itself, before
    training."""
    refresh_epochs: OneOrMore[WholeNumber] = 0
    """Epochs after which the entropies are computed anew from the model in training: an integer of at least 0; 0 for
    never."""
    redraw: OneOrMore[Redraw] = "epoch"
    """When the tokens to drop are drawn anew: epoch (in each), or never (the same tokens in every epoch, and more of
    them as the strength rises)."""
    mask_token: Text | None = None
    """The token that input_mask_token shows, as text: one token of the tokenizer; null for its own mask token."""

    @property
    def needs_mask_token(self) -> bool:
        return MASK_TOKEN in (self.presentation if isinstance(self.presentation, list) else [self.presentation])


def spec_of(shape: Any) -> dict[str, Any]:
    """The settings of a shape that its curriculum depends on, fixed or searched: {"shape": "step", "at": 0.5}."""
    return {key: value for key, value in shape if key != "knots" and (key, value) != ("until", 1.0)}
