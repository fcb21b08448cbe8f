"""What came of one model size: its search, its confirmation, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from search.arms import BASELINE
from search.space import Space
from search.studies.bootstrap import Difference, Verdict
from search.studies.comparison import Comparison, point_of
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from search.studies.study import TrialStudy


@dataclass(frozen=True)
class ModelResult:
    """One model size of a search.

    Attributes:
        confirmed: None if the space asks for no confirmation.
    """

    searched: SearchStudy
    confirmed: Confirmation | None

    @property
    def model(self) -> str:
        return self.searched.model

    @property
    def studies(self) -> list[TrialStudy]:
        """In the order in which they run."""
        return [self.searched] if self.confirmed is None else [self.searched, self.confirmed]

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """Of the confirmation, each arm against no dropout; to be read when its runs have ended, as it is kept: the
        resamples take seconds."""
        return self.confirmed.comparisons() if self.confirmed is not None else {}

    @cached_property
    def chosen(self) -> str | None:
        """The arm that the confirmation chose."""
        return self.confirmed.chosen() if self.comparisons and self.confirmed is not None else None

    @cached_property
    def verdict(self) -> dict[str, Difference]:
        """For each point the difference that the verdict is about; empty if nothing was confirmed."""
        if self.chosen is None or self.confirmed is None:
            return {}
        return self.confirmed.verdict(self.chosen)


def open_results(studies: StudyStorage, spaces: Mapping[str, Space]) -> list[ModelResult]:
    """The sizes of a search, from small to large; their studies are made if there are none yet.

    Args:
        spaces: of each model, with the workers and slots that it gets.
    """
    sizes: list[ModelResult] = []
    for model, space in spaces.items():
        searched = SearchStudy(studies, model, space, sizes[-1].searched if sizes else None)
        sizes.append(ModelResult(searched, Confirmation(studies, searched, space) if space.confirmation else None))
    return sizes


def recommend_arm(size: ModelResult, space: Space) -> str | None:
    """The arm that the confirmation chose or, if that was worse, the baseline that beat it; None without one."""
    return BASELINE if verdict_of(size, space) == Verdict.WORSE else size.chosen


def verdict_of(size: ModelResult, space: Space) -> Verdict | None:
    """What the test split says of the chosen setting; None if it was not confirmed."""
    return size.verdict[point_of(space)].verdict if size.verdict else None
