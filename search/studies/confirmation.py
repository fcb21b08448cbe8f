"""The best settings of a size and its baseline, trained again with seeds that had no part in choosing them.

The setting of each arm and its stopping point are chosen on the validation split; then the test split is read once.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.arms import BASELINE
from search.space import GENERAL, Space
from search.studies.arm_spaces import dimensions
from search.studies.comparison import (
    FEWEST,
    POINTS,
    Comparison,
    Contestant,
    Runs,
    mean_losses,
    measures_of,
    point_of,
    test_losses,
)
from search.studies.rounds import LEAST_LEVEL, fraction_of, is_futile, level_of_look, spent
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from search.studies.study import Candidate, TrialStudy, reason_of
from search.studies.verdict import Difference, Verdict
from trainables.config.to_settings import settings_of
from trainables.settings import Settings

# Settings that the baseline has to share with one that it is compared with.
_APART = ("learning_rate", "weight_decay", "lora")


@dataclass(frozen=True)
class _Look:
    """What was seen when all contestants had been trained with so many seeds.

    Attributes:
        level: the error of the intervals at this look.
        last: whether further seeds would decide nothing, or it is decided.
    """

    seeds: int
    level: float
    last: bool


class Confirmation(TrialStudy):
    """The confirmation of one size's search, which begins when the search has ended."""

    def __init__(self, studies: StudyStorage, searched: SearchStudy, space: Space) -> None:
        super().__init__(studies, f"{searched.model}/confirmation", searched.model, space)
        assert space.confirmation is not None
        self._searched, self._how = searched, space.confirmation
        # What was looked at, how many contestants and which ended runs, and what was seen.
        self._looked: tuple[tuple[int, ...], list[_Look]] | None = None
        self._found: tuple[tuple[int, ...], dict[tuple[str, str], dict[int, Difference]]] = (), {}

    def know_groups(self, test: Sequence[int], general: Sequence[int]) -> None:
        """Keeps which documents of the test split, and of the general one, are of one group, by the groups' numbers."""
        groups = {"test": list(test), "general": list(general)}
        if self._groups != groups:
            self.study.set_user_attr("groups", groups)
            self._found = (), {}

    @property
    def _groups(self) -> dict[str, list[int]]:
        """Empty in a confirmation of an older version: each document is its own group."""
        groups: dict[str, list[int]] = self.study.user_attrs.get("groups", {})
        return groups

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
        contestants = []
        for name in searched.arms:
            for trial in searched.best_settings(name, 1 if name == BASELINE else self._how.best):
                settings = settings_of(searched.space_of(trial))
                contestants.append(Contestant(name, trial.number, searched.parameters(trial), settings.to_json()))
        return [*contestants, *self._without_dropout(contestants)]

    def _without_dropout(self, found: Sequence[Contestant]) -> list[Contestant]:
        """The baseline with each setting's learning rate, weight decay and adapters, where the search varied those of
        the arms that drop tokens only: otherwise a better learning rate would pass for a better schedule."""
        if not self._varies_the_baseline:
            return []
        baseline, *others = found
        made: list[Contestant] = []
        for own in others:
            parameters = {name: own.parameters[name] for name in _APART if name in own.parameters}
            settings = {**baseline.settings, **{name: own.settings[name] for name in parameters}}
            if all(settings != other.settings for other in (baseline, *made)):
                made.append(Contestant(BASELINE, None, parameters, settings))
        return made

    @property
    def _varies_the_baseline(self) -> bool:
        return self._space.arms is None and bool(dimensions(self._searched.arms[BASELINE].space))

    @property
    def planned(self) -> int:
        if (contestants := len(self.contestants)) or self._searched.ended:
            return contestants * self._seeds_at_most
        arms = self._searched.arms.values()
        best = sum(min(self._how.best, arm.trials) for arm in arms if arm.name != BASELINE)
        return (1 + best + (best if self._varies_the_baseline else 0)) * self._seeds_at_most

    @property
    def _seeds_at_most(self) -> int:
        """Seeds that a contestant may come to be trained with: in rounds, fewer when it is decided."""
        looks = self._looks()
        return looks[-1].seeds if looks and looks[-1].last else self._how.most_seeds

    @property
    def exhausted(self) -> bool:
        return not self._interrupted and self._searched.ended and not self.waits and self._next() is None

    @property
    def waits(self) -> bool:
        """A round has begun, and whether there is another hangs on its runs."""
        if self._interrupted or not self._how.in_rounds or self._next() is not None or not self.contestants:
            return False
        looks = self._looks()
        return not (looks and looks[-1].last) and self._round < self._how.most_seeds

    @property
    def _round(self) -> int:
        """The seeds that each contestant may be trained with now."""
        most, looks = self._how.most_seeds, self._looks()
        if not self._how.in_rounds:
            return most
        if looks and looks[-1].last:
            return looks[-1].seeds
        return next((seeds for seeds in range(FEWEST, most) if not self._ended_with(seeds)), most)

    def _next(self) -> tuple[int, int] | None:
        """A contestant and a seed that it has not been trained with. All contestants get one seed, then the next: what
        an interruption leaves can be compared."""
        begun = {(t.user_attrs["contestant"], t.user_attrs["seed"]) for t in self._trials()}
        seeds = range(self._first_seed, self._first_seed + self._round)
        pairs = ((index, seed) for seed in seeds for index in range(len(self.contestants)))
        return next((pair for pair in pairs if pair not in begun), None)

    def _ended_with(self, seeds: int) -> bool:
        """Whether the runs of all contestants with so many seeds have ended, however they did."""
        ended = {
            (t.user_attrs["contestant"], t.user_attrs["seed"]) for t in self._trials() if t.state != TrialState.RUNNING
        }
        return all(
            (index, self._first_seed + n) in ended for n in range(seeds) for index in range(len(self.contestants))
        )

    def _looks(self) -> list[_Look]:
        """The looks at the runs so far, one for each round that has ended: a function of what is stored alone."""
        if not self._how.in_rounds or not self.contestants:
            return []
        if self._looked is None or self._looked[0] != self._ended_runs:
            self._looked = self._ended_runs, self._look_again()
        return self._looked[1]

    @property
    def _ended_runs(self) -> tuple[int, ...]:
        """What all that is told depends on: how many contestants there are, and the runs that have ended."""
        return len(self.contestants), *(t.number for t in self.trials(TrialState.COMPLETE, TrialState.FAIL))

    def _look_again(self) -> list[_Look]:
        looks: list[_Look] = []
        fractions: list[float] = []
        for seeds in range(FEWEST, self._how.most_seeds + 1):
            if not self._ended_with(seeds):
                break
            chosen, baseline = self._chosen_of(seeds), self._best_of(BASELINE, seeds)
            if chosen is None or baseline is None:
                continue
            point, family = point_of(self._space), self._family(seeds)
            runs = self._collect_runs(baseline, family, seeds)
            if self.measure not in measures_of(runs.runs[0][0], point, runs.groups):
                looks.append(_Look(seeds, self._error, last=True))
                break
            parts, at = runs.components(point, self.measure), (0, family.index(chosen))
            variance, least = float(parts.variance_TD[at]), float(parts.variance_with(self._how.most_seeds)[at])
            share = float(parts.share_with(self._how.most_seeds)[at])
            fractions.append(fraction_of(share) if seeds < self._how.most_seeds else 1.0)
            level = level_of_look(fractions, self._error)
            if level < LEAST_LEVEL and fractions[-1] < 1:
                continue
            difference = runs.differences(point, self.measure, level, self._how.margin)[at[1]]
            # Equality is told by what is narrow, not by what is large: it is waited for as long as it could be told.
            margin = self._how.margin
            futile = is_futile(difference.mean, variance, least, self._error) and (
                margin is None or abs(difference.mean) + 2 * least**0.5 > margin
            )
            decided = difference.verdict != Verdict.UNDECIDED
            if difference.verdict == Verdict.BETTER and self._allowed is not None:
                decided = not self._may_tell(self._allowed, runs, at, level)
            last = fractions[-1] == 1 or decided or futile
            looks.append(_Look(seeds, level, last))
            if last:
                break
        return looks

    def _may_tell(self, allowed: float, runs: Runs, at: tuple[int, int], level: float) -> bool:
        """Whether further seeds may tell that the setting keeps the constraint, or that it breaks it."""
        point = point_of(self._space)
        found, parts = runs.differences(point, GENERAL, level, None)[at[1]], runs.components(point, GENERAL)
        variance, least = float(parts.variance_TD[at]), float(parts.variance_with(self._how.most_seeds)[at])
        return found.low <= allowed < found.high and not is_futile(found.mean - allowed, variance, least, self._error)

    @property
    def _allowed(self) -> float | None:
        return self._space.constraints.general_loss

    @property
    def _error(self) -> float:
        return 1 - self._how.confidence

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
        """To register, one model of each contestant; not its best, which would be the luckiest."""
        registers = self._space.tracking.register_as is not None and seed == self._first_seed
        return self._how.keep_models or registers

    def _reason_to_stop(self, number: int) -> None:
        """None: every run goes on to its end."""

    def tested(self, number: int) -> dict[str, dict[str, float]]:
        trial = self._trial(number)
        return {point: test_losses(trial, point) for point in POINTS} if "test" in trial.user_attrs else {}

    def comparisons(self) -> dict[str, Comparison]:
        """Each arm's setting against the baseline's: of those confirmed better the best by the validation split, or
        else the best of all. Arms without two runs are left out, and measures whose tokens are all in one group of
        documents. Without high-entropy tokens, or questions, in two there is no comparison. The intervals hold for all
        settings together that the confirmation has: a seed that is lucky on the validation split, and so decides the
        choice, is lucky on the test split as well."""
        if not self._is_comparable:
            return {}
        comparisons = {}
        for arm in self._searched.arms:
            if (choice := self._choice(arm)) is None:
                continue
            runs = list(self._runs(choice).values())
            differences = {
                point: {
                    measure: self._differences(point, measure)[choice]
                    for measure in measures_of(runs[0], point, self._groups)
                }
                for point in (POINTS if arm != BASELINE else ())
            }
            losses = {point: mean_losses(runs, point) for point in POINTS}
            validation, diverged = self.told(self._validation(choice)), self._diverged(choice)
            contestant = self.contestants[choice]
            comparisons[arm] = Comparison(contestant, validation, losses, differences, len(runs), diverged)
        return comparisons

    @property
    def _is_comparable(self) -> bool:
        """Whether the baseline has runs enough, and the test split groups."""
        if (baseline := self._best_of(BASELINE)) is None:
            return False
        run = next(iter(self._runs(baseline).values()))
        return self.measure in measures_of(run, POINTS[0], self._groups)

    def _differences(self, point: str, measure: str) -> dict[int, Difference]:
        """Of all contestants that are compared with the baseline's; they are kept, as the resamples take seconds."""
        if self._found[0] != self._ended_runs:
            self._found = self._ended_runs, {}
        if (point, measure) not in self._found[1]:
            family, baseline = self._family(), self._best_of(BASELINE)
            assert baseline is not None
            runs = self._collect_runs(baseline, family)
            found = runs.differences(point, measure, self._level, self._how.margin) if family else []
            self._found[1][point, measure] = dict(zip(family, found, strict=True))
        return self._found[1][point, measure]

    def _is_better(self, contestant: int) -> bool:
        """Whether a setting is confirmed better, keeps the constraint, and none of its runs diverged."""
        point = point_of(self._space)
        if not self._is_comparable or self._differences(point, self.measure)[contestant].verdict != Verdict.BETTER:
            return False
        kept = self._allowed is None or self._differences(point, GENERAL)[contestant].high <= self._allowed
        return kept and not self._diverged(contestant)

    def _family(self, seeds: int | None = None) -> list[int]:
        """The contestants that are compared with the baseline's: all with runs enough, the baselines apart."""
        return [
            index
            for index, contestant in enumerate(self.contestants)
            if contestant.arm != BASELINE and len(self._runs(index, seeds)) >= FEWEST
        ]

    def _collect_runs(self, baseline: int, family: Sequence[int], seeds: int | None = None) -> Runs:
        return Runs([list(self._runs(index, seeds).values()) for index in (baseline, *family)], self._groups)

    @property
    def _level(self) -> float:
        """The error of the intervals that are told."""
        if not self._how.in_rounds:
            return self._error
        looks = self._looks()
        return looks[-1].level if looks else spent(FEWEST / self._how.most_seeds, self._error)

    @property
    def among(self) -> int:
        """The settings that the chosen one was chosen among."""
        return sum(contestant.arm != BASELINE for contestant in self.contestants)

    def chosen(self) -> str | None:
        """The arm of the setting that is judged, the baseline apart: of those confirmed better the best by the
        validation split, or else the best of all."""
        choices = [self._choice(arm) for arm in self._searched.arms if arm != BASELINE]
        known = [choice for choice in choices if choice is not None]
        if self._best_of(BASELINE) is None or not known:
            return None
        return self.contestants[min(known, key=self._rank_told)].arm

    def _chosen_of(self, seeds: int | None = None) -> int | None:
        """The contestant, the baseline apart, that did best with so many seeds."""
        choices = [self._best_of(arm, seeds) for arm in self._searched.arms if arm != BASELINE]
        known = [choice for choice in choices if choice is not None]
        return min(known, key=lambda choice: self._rank(choice, seeds), default=None)

    def runs_of(self, arm: str) -> list[FrozenTrial]:
        """The runs of an arm's chosen setting, one for each seed."""
        choice = self._choice(arm)
        return list(self._runs(choice).values()) if choice is not None else []

    def run_with_model(self, arm: str) -> FrozenTrial | None:
        """Of the runs of an arm's chosen setting the one that has written its model, if it came to its end."""
        return next((run for run in self.runs_of(arm) if self._keeps_model(run.user_attrs["seed"])), None)

    def _runs(self, contestant: int, seeds: int | None = None) -> dict[int, FrozenTrial]:
        """The runs of a contestant that came to their end, by seed; of those with the first so many seeds. In rounds,
        of those that were looked at, if there was a look."""
        if seeds is None and self._how.in_rounds and (looks := self._looks()):
            seeds = looks[-1].seeds
        done = (t for t in self.trials(TrialState.COMPLETE) if t.user_attrs["contestant"] == contestant)
        runs = {t.user_attrs["seed"]: t for t in done if "test" in t.user_attrs}
        return {seed: runs[seed] for seed in sorted(runs) if seeds is None or seed < self._first_seed + seeds}

    def _validation(self, contestant: int, seeds: int | None = None) -> float:
        """The mean objective over the seeds that all contestants have, if there are any: one that lost a bad seed must
        not gain by it."""
        return statistics.fmean(self.value(run.number) for run in self._common_runs(contestant, seeds))

    def _common_runs(self, contestant: int, seeds: int | None) -> list[FrozenTrial]:
        every = [self._runs(i, seeds) for i in range(len(self.contestants))]
        common = set.intersection(*(set(runs) for runs in every if len(runs) >= FEWEST))
        runs = self._runs(contestant, seeds)
        return [runs[seed] for seed in sorted(common or runs)]

    def _rank(self, contestant: int, seeds: int | None) -> tuple[int, float, float, int]:
        """The least is the best: by the validation split, after the runs that diverged, and what the general loss is
        above what is allowed."""
        diverged = self._diverged(contestant)
        return diverged, self._excess(contestant, seeds), self._validation(contestant, seeds), contestant

    def _rank_told(self, contestant: int) -> tuple[bool, tuple[int, float, float, int]]:
        return not self._is_better(contestant), self._rank(contestant, None)

    def _diverged(self, contestant: int) -> int:
        """Runs of a contestant whose loss was not finite."""
        failed = (t for t in self.trials(TrialState.FAIL) if t.user_attrs["contestant"] == contestant)
        return sum(reason_of(trial) == "nan" for trial in failed)

    def _excess(self, contestant: int, seeds: int | None) -> float:
        """What the mean general loss is above the baseline's and what is allowed, in nats; 0 where it is not."""
        if self._allowed is None or self.contestants[contestant].arm == BASELINE:
            return 0.0
        if (baseline := self._best_of(BASELINE, seeds)) is None:
            return 0.0
        own, without = (
            mean_losses(self._common_runs(i, seeds), point_of(self._space))[GENERAL] for i in (contestant, baseline)
        )
        return max(0.0, own - without - self._allowed)

    def _choice(self, arm: str) -> int | None:
        """The contestant of an arm that is told of; of the baseline the best."""
        if arm == BASELINE:
            return self._best_of(arm)
        return min((i for i in self._family() if self.contestants[i].arm == arm), key=self._rank_told, default=None)

    def _best_of(self, arm: str, seeds: int | None = None) -> int | None:
        """The contestant of an arm that did best, of those with runs enough to be compared."""
        known = [i for i, c in enumerate(self.contestants) if c.arm == arm and len(self._runs(i, seeds)) >= FEWEST]
        return min(known, key=lambda i: self._rank(i, seeds), default=None)
