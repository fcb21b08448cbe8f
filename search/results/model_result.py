"""What came of one model: its search, its confirmation, the verdict, and what figures show of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optuna.trial import FrozenTrial

from search.arms import BASELINE
from search.space import EXACT, Space
from search.studies.comparison import Comparison, point_of
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from search.studies.study import TrialStudy
from search.studies.verdict import Difference, Verdict


@dataclass(frozen=True)
class ModelResult:
    """One model of a search.

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

    @property
    def is_unconfirmable(self) -> bool:
        """Whether the confirmation is over and has compared nothing: its runs failed."""
        return self.confirmed is not None and self.confirmed.exhausted and not self.verdict

    @cached_property
    def verdict(self) -> dict[str, Difference]:
        """For each point the difference that the verdict is about; empty if nothing was confirmed."""
        if self.chosen is None:
            return {}
        measure = self.searched.measure
        return {point: by_measure[measure] for point, by_measure in self.comparisons[self.chosen].differences.items()}


@dataclass(frozen=True)
class Curve:
    """An arm's chosen setting.

    Attributes:
        study: its name.
        runs: all seeds of the confirmation, or the arm's best trial.
    """

    label: str
    study: str
    runs: list[FrozenTrial]


def select_curves(result: ModelResult) -> list[Curve]:
    """The curve of each arm that has a run, the baseline's where the space has it."""
    curves = []
    for arm in result.searched.arms:
        ranked = result.searched.ranked(arm)
        if result.confirmed is not None and (runs := result.confirmed.runs_of(arm)):
            study, number = result.confirmed.name, runs[0].user_attrs["trial"]
            trial = next((trial for trial in ranked if trial.number == number), None)
        elif ranked:
            study, runs, trial = result.searched.name, ranked[:1], ranked[0]
        else:
            continue
        label = label_arm(arm)
        if trial is not None and arm != BASELINE:
            label += f", trial {trial.number}"
            if (curriculum := result.searched.parameters(trial).get("curriculum")) is not None:
                label += f" ({curriculum['shape']})"
        curves.append(Curve(label, study, runs))
    return curves


def label_arm(arm: str) -> str:
    return "no dropout" if arm == BASELINE else arm


def collect_differences(results: Sequence[ModelResult], space: Space) -> dict[str, dict[str, Difference]]:
    """For each model that was confirmed, each arm's difference to no dropout in what the objective is
    about."""
    point = point_of(space)
    differences = {
        result.model: {
            arm: comparison.differences[point][space.measure]
            for arm, comparison in result.comparisons.items()
            if arm != BASELINE
        }
        for result in results
    }
    return {model: by_arm for model, by_arm in differences.items() if by_arm}


def open_results(studies: StudyStorage, spaces: Mapping[str, Space]) -> list[ModelResult]:
    """The results of a search, from small to large models; their studies are made if there are none yet.

    Args:
        spaces: of each model, with the workers and slots that it gets.
    """
    results: list[ModelResult] = []
    for model, space in spaces.items():
        searched = SearchStudy(studies, model, space, results[-1].searched if results else None)
        results.append(ModelResult(searched, Confirmation(studies, searched, space) if space.confirmation else None))
    return results


def recommend_arm(result: ModelResult, space: Space) -> str | None:
    """The arm that the confirmation chose if it is better than no dropout, the baseline if not; None without one."""
    verdict = verdict_of(result, space)
    return verdict and (result.chosen if verdict == Verdict.BETTER else BASELINE)


def recommend_trial(result: ModelResult) -> FrozenTrial | None:
    """The trial to take where nothing is confirmed; None if none has an objective. It is the best one; the baseline
    where that did as well, where the best one breaks the constraint, or where nothing came out of the confirmation."""
    study = result.searched
    best, baseline = study.best(), study.baseline()
    if best is None or baseline is None:
        return best
    matched = len(study.values(best)) == 1 and study.values(best)[0] >= study.values(baseline)[0]
    return baseline if matched or study.breaks(best) or result.is_unconfirmable else best


def verdict_of(result: ModelResult, space: Space) -> Verdict | None:
    """What the test split says of the chosen setting; None if it was not confirmed."""
    if not result.verdict or result.chosen is None:
        return None
    point, verdict = point_of(space), result.verdict[point_of(space)].verdict
    comparison = result.comparisons[result.chosen]
    if verdict != Verdict.BETTER:
        return verdict
    if comparison.diverged:
        return Verdict.UNSTABLE
    return verdict if comparison.keeps(point, space.constraints.general_loss) else Verdict.COSTLY


def better_side(space: Space) -> str:
    """What stands below an axis of differences to no dropout."""
    return "right of 0 is better" if space.measure == EXACT else "nats; left of 0 is better"
