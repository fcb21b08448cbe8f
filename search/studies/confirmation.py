"""The best settings of a size and its baseline, trained again with seeds that had no part in choosing them.

The setting of each arm and its stopping point are chosen on the validation split; then the test split is read once.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.arms import BASELINE
from search.space import Space
from search.studies.arm_spaces import dimensions
from search.studies.bootstrap import Difference
from search.studies.comparison import (
    FEWEST,
    POINTS,
    Comparison,
    Contestant,
    compare,
    mean_losses,
    measures_of,
    point_of,
    test_losses,
)
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from search.studies.study import Candidate, TrialStudy
from trainables.config.to_settings import settings_of
from trainables.settings import Settings


class Confirmation(TrialStudy):
    """The confirmation of one size's search, which begins when the search has ended."""

    def __init__(self, studies: StudyStorage, searched: SearchStudy, space: Space) -> None:
        super().__init__(studies, f"{searched.model}/confirmation", searched.model, space)
        assert space.confirmation is not None
        self._searched, self._how = searched, space.confirmation

    @property
    def contestants(self) -> list[Contestant]:
        """What is trained again; nothing before the search has ended, or if it has nothing to confirm. A search that
        went on with a larger budget adds to them."""
        stored = [Contestant(**values) for values in self.study.user_attrs.get("contestants", [])]
        searched = len(self._searched.trials(*TrialState))
        if not self._searched.ended or self.study.user_attrs.get("searched") == searched:
            return stored
        known = [(c.arm, c.trial, c.parameters) for c in stored]
        stored += [c for c in self._chosen() if (c.arm, c.trial, c.parameters) not in known]
        self.study.set_user_attr("contestants", [asdict(contestant) for contestant in stored])
        self.study.set_user_attr("searched", searched)
        return stored

    def _chosen(self) -> list[Contestant]:
        searched = self._searched
        if searched.best() is None or searched.baseline() is None:
            return []
        found = []
        for name in searched.arms:
            for trial in searched.best_settings(name, 1 if name == BASELINE else self._how.best):
                settings = settings_of(searched.space_of(trial))
                found.append(Contestant(name, trial.number, searched.parameters(trial), settings.to_json()))
        return [*found, *self._without_dropout(found)]

    def _without_dropout(self, found: Sequence[Contestant]) -> list[Contestant]:
        """The baseline with the best setting's learning rate and weight decay, where the search varied those of the
        arms that drop tokens only: otherwise a better learning rate would pass for a better schedule."""
        if not self._varies_the_baseline:
            return []
        best = self._searched.best()
        assert best is not None
        baseline = next(c for c in found if c.arm == BASELINE)
        own = next(c for c in found if c.trial == best.number)
        parameters = {name: own.parameters[name] for name in ("learning_rate", "weight_decay")}
        return [Contestant(BASELINE, None, parameters, {**baseline.settings, **parameters})]

    @property
    def _varies_the_baseline(self) -> bool:
        return self._space.arms is None and bool(dimensions(self._searched.arms[BASELINE].space))

    @property
    def planned(self) -> int:
        if (contestants := len(self.contestants)) or self._searched.ended:
            return contestants * self._how.seeds
        arms = self._searched.arms.values()
        best = sum(1 if arm.name == BASELINE else min(self._how.best, arm.trials) for arm in arms)
        return (best + self._varies_the_baseline) * self._how.seeds

    @property
    def exhausted(self) -> bool:
        return not self._interrupted and self._searched.ended and self._next() is None

    def _next(self) -> tuple[int, int] | None:
        """A contestant and a seed that it has not been trained with. All contestants get one seed, then the next: what
        an interruption leaves can be compared."""
        begun = {(t.user_attrs["contestant"], t.user_attrs["seed"]) for t in self._trials()}
        seeds = range(self._first_seed, self._first_seed + self._how.seeds)
        pairs = ((index, seed) for seed in seeds for index in range(len(self.contestants)))
        return next((pair for pair in pairs if pair not in begun), None)

    @property
    def _first_seed(self) -> int:
        return self._space.seed + 1

    def ask(self, clock: int = 0) -> Candidate | None:
        if self._interrupted:
            return self._candidate(self._interrupted.pop(0))
        if not self._searched.ended or (pair := self._next()) is None:
            return None
        number, (index, seed) = self._begun(), pair
        contestant = self.contestants[index]
        attributes = {"arm": contestant.arm, "contestant": index, "seed": seed, "trial": contestant.trial}
        self._begin(create_trial(value=0.0), **attributes, clock=clock)
        return self._candidate(number)

    def _candidate(self, number: int) -> Candidate:
        attributes = self._trial(number).user_attrs
        contestant = self.contestants[attributes["contestant"]]
        settings = replace(Settings.from_json(contestant.settings), seed=attributes["seed"])
        parameters = {**contestant.parameters, "seed": settings.seed}
        keeps = point_of(self._space) if self._keeps_model(settings.seed) else None
        clock = attributes.get("clock", 0)
        return Candidate(number, contestant.arm, settings, parameters, clock, test=True, keeps=keeps)

    def _keeps_model(self, seed: int) -> bool:
        """One model of each contestant; not its best, which would be the luckiest."""
        return self._space.tracking.register_as is not None and seed == self._first_seed

    def _reason_to_stop(self, number: int) -> None:
        """None: every run goes on to its end."""

    def tested(self, number: int) -> dict[str, dict[str, float]]:
        trial = self._trial(number)
        return {point: test_losses(trial, point) for point in POINTS} if "test" in trial.user_attrs else {}

    def comparisons(self) -> dict[str, Comparison]:
        """Each arm's chosen setting against the baseline's; arms without two seeds in common with it are left out, and
        measures whose tokens are all in one document. Without high-entropy tokens in two there is no comparison."""
        if (baseline := self._choice(BASELINE)) is None:
            return {}
        theirs, comparisons = self._runs(baseline), {}
        for arm in self._searched.arms:
            if (choice := self._choice(arm)) is None:
                continue
            ours = self._runs(choice)
            common = [ours[seed] for seed in sorted(theirs.keys() & ours.keys())]
            if len(common) < FEWEST or "high_entropy_loss" not in measures_of(common[0], POINTS[0]):
                continue
            among = sum(contestant.arm == arm for contestant in self.contestants)
            comparisons[arm] = Comparison(
                self.contestants[choice],
                self._validation(choice),
                {point: mean_losses(common, point) for point in POINTS},
                {} if arm == BASELINE else {p: compare(ours, theirs, p, self._confidence(among)) for p in POINTS},
                len(common),
            )
        return comparisons if BASELINE in comparisons else {}

    @property
    def among(self) -> int:
        """The settings that the chosen one was chosen among."""
        return sum(contestant.arm != BASELINE for contestant in self.contestants)

    def verdict(self, chosen: str) -> dict[str, Difference]:
        """For each point the chosen arm's difference in high-entropy test loss to no dropout. Its interval holds for
        all the settings together that it was chosen among (Bonferroni): a seed that is lucky on the validation split,
        and so decides the choice, is lucky on the test split as well."""
        baseline, choice = self._choice(BASELINE), self._choice(chosen)
        assert baseline is not None
        assert choice is not None
        ours, theirs, measure = self._runs(choice), self._runs(baseline), "high_entropy_loss"
        confidence = self._confidence(self.among)
        return {point: compare(ours, theirs, point, confidence, [measure])[measure] for point in POINTS}

    def _confidence(self, among: int) -> float:
        """Of an interval that holds for so many settings together (Bonferroni)."""
        return 1 - (1 - self._how.confidence) / among

    def chosen(self) -> str | None:
        """The arm of the best setting, the baseline apart, by the validation split."""
        comparisons = self.comparisons()
        arms = [arm for arm in comparisons if arm != BASELINE]
        return min(arms, key=lambda arm: comparisons[arm].validation, default=None)

    def runs_of(self, arm: str) -> list[FrozenTrial]:
        """The runs of an arm's chosen setting, one for each seed."""
        choice = self._choice(arm)
        return list(self._runs(choice).values()) if choice is not None else []

    def run_with_model(self, arm: str) -> FrozenTrial | None:
        """Of the runs of an arm's chosen setting the one that has written its model, if it came to its end."""
        return next((run for run in self.runs_of(arm) if self._keeps_model(run.user_attrs["seed"])), None)

    def _runs(self, contestant: int) -> dict[int, FrozenTrial]:
        """The runs of a contestant that came to their end, by seed."""
        done = (t for t in self.trials(TrialState.COMPLETE) if t.user_attrs["contestant"] == contestant)
        return {t.user_attrs["seed"]: t for t in done if "test" in t.user_attrs}

    def _validation(self, contestant: int) -> float:
        """The mean objective over the seeds that all contestants have, if there are any: one that lost a bad seed must
        not gain by it."""
        every = [self._runs(i) for i in range(len(self.contestants))]
        common = set.intersection(*(set(runs) for runs in every if len(runs) >= FEWEST))
        runs = self._runs(contestant)
        return statistics.fmean(self.value(runs[seed].number) for seed in common or runs)

    def _choice(self, arm: str) -> int | None:
        """The contestant of an arm that did best on the validation split, of those with runs enough to be compared."""
        known = [i for i, c in enumerate(self.contestants) if c.arm == arm and len(self._runs(i)) >= FEWEST]
        return min(known, key=lambda i: (self._validation(i), i), default=None)
