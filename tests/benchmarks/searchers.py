"""Searchers for the replay: this project's studies, and what people use instead, each asked and told in one way."""

from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.space import Space
from search.studies.arm_spaces import arms_of, suggest_settings
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from tests.benchmarks.curves.table import Curve, Table


class Searcher(Protocol):
    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """A trial's number and its parameters; None if no further trial will begin."""

    def report(self, trial: int, evaluation: int, tokens: int, loss: float) -> bool:
        """Whether the trial is stopped early."""

    def end(self, trial: int, stopped: bool) -> None: ...

    def chosen(self) -> int | None:
        """The trial that one would take now."""


class Optuna:
    """An Optuna sampler; every trial runs to its end."""

    def __init__(self, space: Space, sampler: optuna.samplers.BaseSampler) -> None:
        self._space = arms_of(space)[1].space
        self._objective = space.objective
        self._study = optuna.create_study(sampler=sampler)
        self._losses: dict[int, list[float]] = {}
        self._running: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, Any]]:
        trial = self._study.ask()
        suggest_settings(self._space, trial)
        self._running[trial.number], self._losses[trial.number] = trial, []
        return trial.number, trial.params

    def report(self, trial: int, evaluation: int, tokens: int, loss: float) -> bool:
        self._losses[trial].append(loss)
        return False

    def end(self, trial: int, stopped: bool) -> None:
        self._study.tell(self._running[trial], Curve(0, [], self._losses[trial]).value(self._objective))

    def chosen(self) -> int | None:
        done = self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return min(done, key=lambda t: t.value or 0.0).number if done else None


class Stock:
    """Ray's OptunaSearch and ASHA, as their documentation sets them up; only their actors are left out.

    With the objective best, each trial counts with the least loss that it reported (scope="min"), otherwise with its
    last one (scope="last").
    """

    def __init__(self, space: Space, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._space, self._best = arms_of(space)[1].space, space.objective == "best"
        evaluations = space.budget.epochs * space.evaluation.per_epoch
        self._search = OptunaSearch(space=self._define, metric="loss", mode="min", seed=seed)
        self._scheduler = ASHAScheduler(metric="loss", mode="min", max_t=evaluations)
        self._params: dict[int, dict[str, Any]] = {}
        self._losses: dict[int, list[float]] = {}
        self._trials: dict[int, Any] = {}

    def _define(self, trial: optuna.Trial) -> None:
        suggest_settings(self._space, trial)

    def ask(self) -> tuple[int, dict[str, Any]]:
        number = len(self._trials)
        config = self._search.suggest(str(number))
        assert isinstance(config, dict)
        self._trials[number], self._losses[number] = SimpleNamespace(trial_id=str(number)), []
        self._scheduler.on_trial_add(None, self._trials[number])
        return number, self._search._ot_trials[str(number)].params

    def report(self, trial: int, evaluation: int, tokens: int, loss: float) -> bool:
        self._losses[trial].append(loss)
        result = {"training_iteration": evaluation, "loss": loss}
        self._search.on_trial_result(str(trial), result)
        return bool(self._scheduler.on_trial_result(None, self._trials[trial], result) == "STOP")

    def end(self, trial: int, stopped: bool) -> None:
        result = {"training_iteration": len(self._losses[trial]), "loss": self._losses[trial][-1]}
        if not stopped:
            self._scheduler.on_trial_complete(None, self._trials[trial], result)
        self._search.on_trial_complete(str(trial), result)

    def chosen(self) -> int | None:
        known = [trial for trial, losses in self._losses.items() if losses]
        return min(known, key=lambda t: min(self._losses[t]) if self._best else self._losses[t][-1], default=None)


class Ours:
    """This project's search of one size."""

    def __init__(self, study: SearchStudy) -> None:
        self._study = study
        self._reasons: dict[int, str] = {}

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        if (candidate := self._study.ask()) is None:
            return None
        return candidate.number, self._study.study.get_trials(deepcopy=False)[candidate.number].params

    def report(self, trial: int, evaluation: int, tokens: int, loss: float) -> bool:
        reason = self._study.report(trial, {"tokens": tokens, "high_entropy_loss": loss})
        if reason is not None:
            self._reasons[trial] = reason
        return reason is not None

    def end(self, trial: int, stopped: bool) -> None:
        if stopped:
            self._study.tell(trial, TrialState.PRUNED, self._reasons[trial])
        else:
            self._study.tell(trial, TrialState.COMPLETE)

    def chosen(self) -> int | None:
        ranked = [t for t in (self._study.best(), self._study.baseline()) if t is not None]
        return min(ranked, key=lambda t: self._study.values(t)[0]).number if ranked else None


def ours(table: Table, model: str, space: Space, smaller: SearchStudy | None = None) -> tuple[Ours, SearchStudy]:
    """This project's search, with its study in memory."""
    study = SearchStudy(StudyStorage(InMemoryStorage()), model, space, smaller)
    study.set_full_tokens(table.full_tokens)
    return Ours(study), study
