"""The search of one model size: what to try next in which arm, when to stop, and what came out."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.arms import BASELINE
from search.space import EXACT, GENERAL, HIGH, Space
from search.studies.arm_spaces import Arm, arms_of, dimensions, encode_settings, middle_settings, suggest_settings
from search.studies.pruners import (
    LOSING,
    PLATEAU,
    ComebackPruner,
    CurvePruner,
    RungPruner,
    has_plateaued,
    is_audited,
    is_known,
)
from search.studies.samplers import ArmSampler
from search.studies.storage import StudyStorage
from search.studies.study import Candidate, TrialStudy, device_s_of, hash_to_int, losses_of, objective_value, reason_of
from trainables.config.to_settings import fix_values, settings_of

SHAPE = "curriculum.shape"


class SearchStudy(TrialStudy):
    """The search of one model size.

    Args:
        smaller: the study of the size before this one, whose best settings are tried first.
        clock: seconds.
    """

    def __init__(
        self,
        studies: StudyStorage,
        model: str,
        space: Space,
        smaller: "SearchStudy | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(studies, model, model, space)
        self._smaller, self._clock = smaller, clock
        self.arms = {arm.name: arm for arm in arms_of(space)}
        self._first_began: float | None = None
        self._elapsed_before = float(self.study.user_attrs.get("elapsed_s", 0.0))
        self._replay()

    def _replay(self) -> None:
        """Shows all trials so far to samplers that know none."""
        self._sampling = {arm.name: self._sampling_of(arm) for arm in self.arms.values()}
        # Of each arm's trials the tokens, once they have ended: a suggestion must not look through all trials.
        self._trained: dict[str, dict[int, int | None]] = {name: {} for name in self.arms}
        # Of each arm's trials that were stopped early the number, and the tokens in all.
        self._stopped = dict.fromkeys(self.arms, (0, 0))
        for trial in self._trials():
            self._sampling[trial.user_attrs["arm"]].suggest(trial.number, trial.params)
            self._trained[trial.user_attrs["arm"]][trial.number] = None
            if trial.state.is_finished():
                self._learn(trial.number)

    def _sampling_of(self, arm: Arm) -> ArmSampler:
        sampler, schedule = self._space.sampler, arm.space.schedule
        shapes = [shape.shape for shape in schedule.curriculum] if schedule is not None else []
        return ArmSampler(
            sampler.name,
            sampler.startup_trials,
            hash_to_int("sampler", self._space.seed, self.model, arm.name) // 2,
            partial(encode_settings, arm.space, prefix=self._prefix(arm)),
            [{self._prefix(arm) + SHAPE: shape} for shape in shapes] or [{}],
            len(self._space.objectives),
            self._allowed is not None and arm.name != BASELINE,
        )

    def _prefix(self, arm: Arm) -> str:
        # Two arms may search the same setting in different ranges, which in one study are different parameters.
        return "" if self._space.arms is None else f"{arm.name}."

    @property
    def planned(self) -> int:
        return sum(len(self._trained[arm.name]) + self._trials_left(arm) for arm in self.arms.values())

    @property
    def exhausted(self) -> bool:
        return not self._interrupted and self._next_arm() is None

    @property
    def searches(self) -> bool:
        """Whether there is anything to search."""
        return any(dimensions(arm.space) for arm in self.arms.values())

    def _next_arm(self) -> Arm | None:
        """Of the arms that have budget left, the one that has used the least of it."""
        budget = self._space.budget
        if budget.hours is not None and self.elapsed_s >= 3600 * budget.hours:
            return None
        if budget.device_hours is not None and self._device_s() >= 3600 * budget.device_hours:
            return None
        used = {name: self._count_used(name) for name in self.arms}
        left = [arm for arm in self.arms.values() if self._trials_left(arm)]
        if budget.tokens is not None:
            full = self.full_tokens
            # Before the first report nobody knows what a trial takes, but that the budget is enough for one.
            left = [a for a in left if (used[a.name] * full < budget.tokens if full else not self._runs(a.name))]
        return min(left, key=lambda arm: used[arm.name], default=None)

    def _trials_left(self, arm: Arm) -> int:
        """Full trials that the arm's budget is still enough for. Those that were stopped early count together, with the
        tokens that they have had: what stopping saves goes to further trials. One that failed counts as a full one."""
        count, tokens = self._stopped[arm.name]
        full = math.ceil(tokens / self.full_tokens) if self.full_tokens else count
        return max(0, arm.trials - (len(self._trained[arm.name]) - count) - full)

    def _trials_of(self, arm: str) -> list[FrozenTrial]:
        return [t for t in self._trials() if t.user_attrs.get("arm") == arm]

    def _runs(self, arm: str) -> bool:
        return None in self._trained[arm].values()

    def _count_used(self, arm: str) -> float:
        """What an arm has used of its budget, in full trials; a running trial counts as a full one."""
        full = self.full_tokens
        return sum(1.0 if full is None or t is None else t / full for t in self._trained[arm].values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the size's first trial began, without those between an interruption and its end."""
        return self._elapsed_before + (self._clock() - self._first_began if self._first_began is not None else 0.0)

    def _device_s(self) -> float:
        spent = sum(device_s_of(trial) or 0.0 for trial in self._trials())
        return spent + float(self.discarded["device_s"])

    def ask(self, clock: int = 0) -> Candidate | None:
        if self._first_began is None:
            self._first_began = self._clock()
        if self._interrupted:
            number = self._interrupted.pop(0)
            return self._candidate(self._running(number))
        if (arm := self._next_arm()) is None:
            return None
        suggested = self._sampling[arm.name].suggest(self._begun(), self._guess(arm))
        trial = self._begin(suggested, arm=arm.name, clock=clock)
        self._trained[arm.name][trial.number] = None
        return self._candidate(trial)

    def _guess(self, arm: Arm) -> dict[str, Any] | None:
        """What the arm's next trial is given; None where the sampler chooses."""
        if len(self._trained[arm.name]) >= max(1, self._space.transfer):
            return None
        guesses, tried = self._guesses(arm), [trial.params for trial in self._trials_of(arm.name)]
        # A smaller size that went on with a larger budget may rank its settings anew.
        return next((g for g in guesses if g not in tried), None) if len(tried) < len(guesses) else None

    def _guesses(self, arm: Arm) -> list[dict[str, Any]]:
        """What an arm tries first: what did best for the smaller size, or the middle of what is searched."""
        transfer = self._space.transfer
        if self._smaller is not None and transfer and (best := self._smaller.best_settings(arm.name, transfer)):
            return [trial.params for trial in best]
        return [{self._prefix(arm) + name: value for name, value in middle_settings(arm.space).items()}]

    def _candidate(self, trial: optuna.Trial) -> Candidate:
        arm = self.arms[trial.user_attrs["arm"]]
        # Suggesting again gives back what the trial was given when it began.
        parameters = suggest_settings(arm.space, trial, self._prefix(arm))
        settings = settings_of(fix_values(arm.space, parameters))
        return Candidate(trial.number, arm.name, settings, parameters, trial.user_attrs.get("clock", 0))

    def report(self, number: int, metrics: Mapping[str, float]) -> str | None:
        trial, evaluations = self._running(number), len(self.losses(number))
        # Before what makes the evaluation count: a driver that is killed in between will do both again.
        for measure in self._space.measures[1:]:
            values = self._trial(number).user_attrs.get(measure, [])[:evaluations]
            trial.set_user_attr(measure, [*values, metrics[measure]])
        return super().report(number, metrics)

    def _reason_to_stop(self, number: int) -> str | None:
        """The baseline is never stopped, nor is a trial that is audited."""
        trial = self._trial(number)
        if trial.user_attrs["arm"] == BASELINE or "audit" in trial.user_attrs:
            return None
        reason = self._reason(trial)
        stopping = self._space.early_stopping
        if reason is not None and is_audited(stopping.audit, self._space.seed, self.name, number):
            self.annotate(number, "audit", {"reason": reason, "tokens": self.tokens(number)})
            return None
        return reason

    def _reason(self, trial: FrozenTrial) -> str | None:
        stopping, space, full = self._space.early_stopping, self._space, self.full_tokens
        if full is None or max(trial.intermediate_values) >= full:
            return None
        if (
            space.objective == "best"
            and (patience := stopping.patience) is not None
            and all(has_plateaued(self._losses_of(trial, measure), patience) for measure in space.objectives)
        ):
            return PLATEAU
        # Of several objectives a trial may win one although it is behind in the other; those ahead of it may break a
        # constraint.
        if len(space.measures) > 1 or self.measure == EXACT or self._pruner is None:
            return None
        return LOSING if self._pruner.prune(self.study, trial) else None

    @cached_property
    def _pruner(self) -> optuna.pruners.BasePruner | None:
        stopping, full = self._space.early_stopping, self.full_tokens
        assert full is not None
        match stopping.pruner:
            # With best, patience says as much, and stops less that would have won.
            case "comebacks" if self.objective != "best":
                return ComebackPruner(stopping.first_rung, full, self.objective)
            case "curves":
                return CurvePruner(stopping.first_rung, stopping.chance, full, self.objective)
            case "rungs":
                return RungPruner(stopping.first_rung, stopping.reduction_factor, full, self.objective)
        return None

    def _losses_of(self, trial: FrozenTrial, measure: str) -> list[float]:
        """In the order of the evaluations, in nats."""
        others: list[float] = trial.user_attrs.get(measure, [])
        return losses_of(trial) if measure == HIGH else others

    def values(self, trial: FrozenTrial) -> list[float]:
        """The trial's objectives, in nats: with `best`, all are those of the evaluation of least high-entropy loss; or
        the share of wrong answers."""
        if self.measure == EXACT:
            return [self.value(trial.number)]
        return [self.loss(trial, measure) for measure in self._space.objectives]

    def loss(self, trial: FrozenTrial, measure: str = HIGH) -> float:
        """At the evaluation that counts, in nats."""
        losses = self._losses_of(trial, measure)
        if self.objective != "best":
            return objective_value(self.objective, losses)
        high = losses_of(trial)
        return losses[high.index(min(high))]

    @property
    def _allowed(self) -> float | None:
        return self._space.constraints.general_loss

    def general_loss(self, number: int) -> float | None:
        return None if self._allowed is None else self.loss(self._trial(number), GENERAL)

    @property
    def limit(self) -> float | None:
        """The general loss that a setting may have, in nats; None without a constraint, or a baseline."""
        if self._allowed is None or (baseline := self.baseline()) is None:
            return None
        return self.loss(baseline, GENERAL) + self._allowed

    def breaks(self, trial: FrozenTrial) -> bool:
        """Whether the trial breaks the constraint."""
        return self._excess(trial, self.limit) > 0

    def _excess(self, trial: FrozenTrial, limit: float | None) -> float:
        """What the trial's general loss is above the limit, in nats; 0 where there is none."""
        return 0.0 if limit is None or trial.user_attrs["arm"] == BASELINE else self.loss(trial, GENERAL) - limit

    def tell(self, number: int, state: TrialState, reason: str | None = None) -> None:
        limit = self.limit
        self.study.set_user_attr("elapsed_s", self.elapsed_s)
        super().tell(number, state, reason)
        if self.limit == limit:
            self._learn(number)
        else:
            # What the samplers know of all trials is another.
            self._replay()

    def _learn(self, number: int) -> None:
        trial = self._trial(number)
        arm, tokens = trial.user_attrs["arm"], self.tokens(number)
        self._trained[arm][number], sampling = tokens, self._sampling[arm]
        if trial.state == TrialState.PRUNED:
            count, before = self._stopped[arm]
            self._stopped[arm] = count + 1, before + tokens
        if trial.state == TrialState.FAIL:
            sampling.learn_failure(number)
        else:
            stopped = reason_of(trial) == LOSING
            intermediate, excess = trial.intermediate_values if stopped else None, self._excess(trial, self.limit)
            sampling.learn(number, self.values(trial), intermediate, excess)

    def baseline(self) -> FrozenTrial | None:
        """The best trial of the baseline, if one ran to its end."""
        return next(iter(self.ranked(BASELINE)), None)

    def best(self) -> FrozenTrial | None:
        """The best trial of those whose objective is known, the baseline apart."""
        trials = [trial for name in self.arms if name != BASELINE for trial in self._trials_of(name)]
        return next(iter(self._in_order(trials)), None)

    def ranked(self, arm: str) -> list[FrozenTrial]:
        """The trials of an arm whose objective is known, the best first: those that ran to their end, and those that
        stopped because their best evaluation lay behind them."""
        return self._in_order(self._trials_of(arm))

    def _in_order(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those whose objective is known, that with the least first; what breaks the constraint comes last, in the
        order of its excess (Deb 2000)."""
        known = list(filter(is_known, trials))
        limit = self.limit if any(trial.user_attrs["arm"] != BASELINE for trial in known) else None
        return sorted(known, key=lambda t: (max(0.0, self._excess(t, limit)), self.values(t)[0], t.number))

    def best_settings(self, arm: str, count: int) -> list[FrozenTrial]:
        """The best trials of an arm, the best first, at most `count` and each with a setting of its own; none that
        breaks the constraint where another does not."""
        ranked = self.ranked(arm)
        best_trials: list[FrozenTrial] = []
        for trial in [trial for trial in ranked if not self.breaks(trial)] or ranked[:1]:
            if all(trial.params != other.params for other in best_trials):
                best_trials.append(trial)
        return best_trials[:count]

    def pareto_front(self) -> list[FrozenTrial]:
        """The trials whose objective is known, that keep the constraint, and that no other such one beats in all
        objectives, by the first one."""
        known = [trial for name in self.arms for trial in self.ranked(name) if not self.breaks(trial)]

        def beaten(trial: FrozenTrial) -> bool:
            values = self.values(trial)
            return any(
                all(a <= b for a, b in zip(other, values, strict=True)) and other != values
                for other in map(self.values, known)
            )

        return sorted((t for t in known if not beaten(t)), key=lambda t: (self.values(t)[0], t.number))

    def parameters(self, trial: FrozenTrial) -> dict[str, Any]:
        """All settings of a trial that its arm can search, also those that are fixed."""
        arm = self.arms[trial.user_attrs["arm"]]
        return suggest_settings(arm.space, optuna.trial.FixedTrial(trial.params), self._prefix(arm))

    def space_of(self, trial: FrozenTrial) -> Space:
        """The space with the settings of a trial, in which nothing is searched."""
        return fix_values(self.arms[trial.user_attrs["arm"]].space, self.parameters(trial))
