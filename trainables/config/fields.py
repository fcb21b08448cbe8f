"""What the blocks of a YAML file are made of: a setting is fixed, or it is searched (a range, or a list of choices)."""

from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Self, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    model_validator,
)

from trainables.config.validation_messages import explain, shown, wrong


class Block(BaseModel):
    """A mapping with known keys; each has a description, with its unit and what is allowed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(value)
        except ValidationError as error:
            explained = explain(cls, value, error.errors(include_url=False))
            raise ValidationError.from_exception_data(cls.__name__, explained) from None


_Number = TypeVar("_Number", bound=float)
_Choice = TypeVar("_Choice")


class FloatRange(Block, Generic[_Number]):
    """Any number from `low` to `high`."""

    low: _Number
    """Least value, in the unit of the setting."""
    high: _Number
    """Greatest value, in the unit of the setting; above `low`."""
    log: bool = False
    """Search on a logarithmic scale: true or false; true needs `low` above 0."""

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return cls.__name__

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise wrong(("high",), shown(self.high), f"a number above low, which is {self.low:g}")
        if self.log and self.low <= 0:
            raise wrong(("low",), shown(self.low), "a number above 0, as log is true")
        return self


# Its kinds, such as FloatRange[float], have these descriptions already, and pydantic would look for each anew: through
# all frames and modules, a second of each process's start.
FloatRange.model_config["use_attribute_docstrings"] = False


def _check_distinct(values: list[_Choice]) -> list[_Choice]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise wrong((index,), f"{shown(value)} is given a second time; leave it out")
    return values


def _classify(value: object) -> str:
    """Which of the three ways to give a setting `value` is."""
    return "choices" if isinstance(value, list) else "range" if isinstance(value, dict | FloatRange) else "fixed"


Choices = Annotated[list[_Choice], Field(min_length=1), AfterValidator(_check_distinct)]
if TYPE_CHECKING:
    Searchable = Union[_Number, FloatRange[_Number], list[_Number]]  # noqa: UP007
    OneOrMore = Union[_Choice, list[_Choice]]  # noqa: UP007
else:

    class Searchable:
        """A number with its bounds; or a range, or choices, within the same bounds."""

        # An alias would not do: typing fills in no parameters of a class such as FloatRange[_Number].
        def __class_getitem__(cls, number: Any) -> Any:
            fixed, choices = Annotated[number, Tag("fixed")], Annotated[Choices[number], Tag("choices")]
            searched = Annotated[FloatRange[number], Tag("range")]
            return Annotated[fixed | searched | choices, Discriminator(_classify)]

    class OneOrMore:
        """A value, or a list of different ones."""

        def __class_getitem__(cls, value: Any) -> Any:
            fixed, choices = Annotated[value, Tag("fixed")], Annotated[Choices[value], Tag("choices")]
            return Annotated[
                fixed | choices, Discriminator(lambda given: "choices" if isinstance(given, list) else "fixed")
            ]


def is_searched(setting: Any) -> bool:
    """True for a range and for a list of two choices or more."""
    return isinstance(setting, FloatRange) or (isinstance(setting, list) and len(setting) > 1)


def only(setting: Any) -> Any:
    """The value of a setting that is not searched."""
    assert not is_searched(setting), setting
    return setting[0] if isinstance(setting, list) else setting


Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
LONGEST_NAME = 100
Name = Annotated[str, Field(pattern=rf"^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
if TYPE_CHECKING:
    CountOrAuto = Union[int, Literal["auto"]]  # noqa: UP007
else:
    # Tagged, as errors then name the setting alone.
    CountOrAuto = Annotated[
        Annotated[Count, Tag("fixed")] | Annotated[Literal["auto"], Tag("choices")],
        Discriminator(lambda given: "choices" if given == "auto" else "fixed"),
    ]
