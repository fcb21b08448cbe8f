"""Documents and their splits, and what is wrong with data."""

from dataclasses import dataclass


class DataError(ValueError):
    """Data that cannot be used. `field` names the setting to mend (as in data.train), `nearest` what may be meant."""

    def __init__(self, field: str, given: str, allowed: str, nearest: str | None = None) -> None:
        # All arguments in `args`: the error travels from a Ray worker to the driver.
        super().__init__(field, given, allowed, nearest)
        self.field, self.given, self.allowed, self.nearest = field, given, allowed, nearest

    def __str__(self) -> str:
        return f"{self.field}: given {self.given}; allowed: {self.allowed}"


@dataclass(frozen=True)
class Document:
    """One training example: a prompt, if it has one, and a text. Documents of one `group` never stand in two splits.

    Attributes:
        answer: what a generated text is compared with.
    """

    text: str
    group: str
    prompt: str = ""
    answer: str | None = None


@dataclass(frozen=True)
class SplitSizes:
    """Documents in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Splits:
    """The domain's documents, and those of a general split, which measures what is forgotten."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    general: tuple[Document, ...] = ()
