"""One Optuna study for each model size: what to try next, when to stop, and the true state of every trial."""

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from search.space import Space
from trainables.config.build import choose, fixed, settings_of
from trainables.config.fields import FloatRange
from trainables.settings import Settings

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

BASELINE = "none"
ENTRODROP = "entrodrop"
# Without a schedule: no token is dropped, and only what regularizes is searched.
REGULARIZED = "regularized"


def objective_value(objective: str, losses: Sequence[float]) -> float:
    """The value of a trial with these high-entropy losses, one for each evaluation so far, in nats."""
    reduce: dict[str, Callable[[Sequence[float]], float]] = {
        "best": min,
        "final": lambda values: values[-1],
        "mean": statistics.fmean,
    }
    return reduce[objective](losses)


class _ObjectiveSoFar(optuna.pruners.BasePruner):
    """Lets a pruner compare trials by the objective of their losses so far, while the study keeps the losses."""

    def __init__(self, wrapped: optuna.pruners.BasePruner, objective: str) -> None:
        self._wrapped, self._objective = wrapped, objective

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        seen = copy(trial)
        losses = [value for _, value in sorted(trial.intermediate_values.items())]
        last = max(trial.intermediate_values)
        seen.intermediate_values = {
            **trial.intermediate_values,
            last: objective_value(self._objective, losses),
        }
        return self._wrapped.prune(study, seen)


@dataclass(frozen=True)
class Candidate:
    """A trial to run: its number in the study, its arm, and its settings."""

    number: int
    arm: str
    settings: Settings
    parameters: dict[str, Any]


class SizeStudy:
    """The search of one model size.

    Attributes:
        model: the model's name, which is also the study's.
        study: the Optuna study, the only state of the search.
    """

    def __init__(self, journal: Path, model: str, space: Space) -> None:
        self.model, self._space = model, space
        self._searched_arm = ENTRODROP if space.schedule is not None else REGULARIZED
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        self.study = optuna.create_study(storage=storage, study_name=model, direction="minimize", load_if_exists=True)
        self._interrupted = [t.number for t in self._trials() if t.state == TrialState.RUNNING]
        if not self._trials():
            middle = _Middle()
            _suggest(middle, space)
            self.study.enqueue_trial(middle.parameters, user_attrs={"arm": BASELINE})
            self.study.enqueue_trial(middle.parameters, user_attrs={"arm": self._searched_arm})
        # Without a searched setting there is one trial to run beside the baseline: each further one would be the same.
        searched = bool(_searched(space))
        self.planned = space.budget.trials if searched else min(2, space.budget.trials)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _begun(self) -> int:
        return sum(t.state != TrialState.WAITING for t in self._trials())

    @property
    def exhausted(self) -> bool:
        """True when no further trial will begin."""
        return not self._interrupted and self._begun() >= self.planned

    @property
    def ended(self) -> bool:
        """True when all trials have ended."""
        return self.exhausted and not self.trials(TrialState.RUNNING)

    @property
    def full_tokens(self) -> int | None:
        tokens: int | None = self.study.user_attrs.get("full_tokens")
        return tokens

    def prepared(self, train_tokens: int) -> None:
        """Sets the budget of a full trial in tokens, which the pruner's rungs are measured in."""
        full = train_tokens * self._space.budget.epochs
        self.study.set_user_attr("full_tokens", full)
        stopping = self._space.early_stopping
        if stopping.pruner == "none":
            self.study.pruner = optuna.pruners.NopPruner()
            return
        rungs = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=math.ceil(stopping.first_rung * full), reduction_factor=stopping.reduction_factor
        )
        objective = _ObjectiveSoFar(rungs, self._space.objective)
        self.study.pruner = optuna.pruners.PatientPruner(objective, patience=stopping.patience)

    def ask(self) -> Candidate | None:
        """The next trial, those that an interruption left running first; None when the budget is used."""
        if self._interrupted:
            number = self._interrupted.pop(0)
            trial = optuna.trial.Trial(self.study, self._trials()[number]._trial_id)
            # Suggesting again gives back what the trial was given when it began.
            return self._candidate(trial)
        if self.exhausted:
            return None
        self.study.sampler = self._sampler(self._begun())
        return self._candidate(self.study.ask())

    def _candidate(self, trial: optuna.Trial) -> Candidate:
        arm = trial.user_attrs.get("arm", self._searched_arm)
        parameters = _suggest(trial, self._space, baseline=arm == BASELINE)
        trial.set_user_attr("arm", arm)
        return Candidate(trial.number, arm, settings_of(fixed(self._space, parameters)), parameters)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose draws depend on the seed, the study and the trial's number only: a resumed search goes on as
        the uninterrupted one."""
        seed = self._space.seed * 100_003 + number
        if self._space.sampler.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=self._space.sampler.startup_trials,
            multivariate=True,
            # Groups let a curriculum's own parameters be modelled among the trials that have that shape.
            group=True,
            constant_liar=True,
        )

    def report(self, number: int, tokens: int, loss: float) -> bool:
        """Records an evaluation. Returns whether the trial is to be stopped early; the baseline never is."""
        trial = self._running(number)
        trial.report(loss, step=tokens)
        return trial.user_attrs["arm"] != BASELINE and trial.should_prune()

    def annotate(self, number: int, key: str, value: Any) -> None:
        self._running(number).set_user_attr(key, value)

    def tell(self, number: int, state: TrialState, reason: str | None = None) -> None:
        """The one place where a trial's state changes.

        Args:
            state: COMPLETE, PRUNED or FAIL.
            reason: why it was pruned or failed.
        """
        if reason is not None:
            self.annotate(number, "reason", reason)
        value = self.value(number) if state == TrialState.COMPLETE else None
        self.study.tell(number, value, state=state)

    def value(self, number: int) -> float:
        """The objective of the trial's losses so far, in nats."""
        return objective_value(self._space.objective, self.losses(number))

    def losses(self, number: int) -> list[float]:
        """High-entropy losses of the trial, in the order of its evaluations, in nats."""
        return [loss for _, loss in sorted(self._trials()[number].intermediate_values.items())]

    def tokens(self, number: int) -> int:
        """Tokens that the trial has trained on up to its last evaluation."""
        return max(self._trials()[number].intermediate_values, default=0)

    def _running(self, number: int) -> optuna.Trial:
        return optuna.trial.Trial(self.study, self._trials()[number]._trial_id)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return [t for t in self._trials() if t.state in states]

    def baseline(self) -> FrozenTrial | None:
        """The trial without dropout or other regularizers, if it ran to its end."""
        done = [t for t in self.trials(TrialState.COMPLETE) if t.user_attrs["arm"] == BASELINE]
        return done[0] if done else None

    def best(self) -> FrozenTrial | None:
        """The trial with the least objective of those that ran to their end, the baseline apart."""
        done = [t for t in self.trials(TrialState.COMPLETE) if t.user_attrs["arm"] != BASELINE]
        return min(done, key=lambda t: (t.value, t.number), default=None)

    def parameters(self, trial: FrozenTrial) -> dict[str, Any]:
        """All settings of a trial that a space can search, also those that this one fixes."""
        baseline = trial.user_attrs["arm"] == BASELINE
        return _suggest(optuna.trial.FixedTrial(trial.params), self._space, baseline=baseline)


class _Middle:
    """Answers each suggestion with the middle of its range: the first guess, and the names of what is searched."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.parameters[name] = math.sqrt(low * high) if log else (low + high) / 2
        return float(self.parameters[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.parameters[name] = "sigmoid" if "sigmoid" in choices else choices[len(choices) // 2]
        return self.parameters[name]


def _searched(space: Space) -> list[str]:
    middle = _Middle()
    _suggest(middle, space)
    return list(middle.parameters)


def _suggest(trial: Any, space: Space, baseline: bool = False) -> dict[str, Any]:
    """A trial's settings: fixed ones from the space, searched ones from the trial.

    Args:
        trial: an Optuna trial, or what suggests like one.
        baseline: leave out EntroDrop and the regularizers.
    """

    def value(name: str, setting: Any) -> Any:
        if isinstance(setting, FloatRange):
            return trial.suggest_float(name, setting.low, setting.high, log=setting.log)
        if isinstance(setting, list):
            return setting[0] if len(setting) == 1 else trial.suggest_categorical(name, setting)
        return setting

    return choose(space, value, baseline)
