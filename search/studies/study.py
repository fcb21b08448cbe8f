"""The trials of one Optuna study in the journal or the database: what they have reported, and their true states."""

import hashlib
import statistics
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.space import EXACT, Space
from search.studies.storage import StudyStorage
from trainables.config.model_names import slug
from trainables.settings import Settings

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

# What a person reads of a trial that has ended.
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
# Why a trial ended before its budget: the codes that are stored, and the words that a person reads. A search that an
# older version began has the words stored.
_REASONS = {
    "plateau": "no improvement any more",
    "losing": "will not win",
    "nan": "the loss is not finite",
    "out_of_memory": "out of memory",
    "hang": "no progress",
    "worker_lost": "worker lost",
    "slot_lost": "slot lost",
    "error": "error",
}
_OLDER_REASONS = {words: code for code, words in _REASONS.items()}
# What was decided after a trial's last evaluation: its tokens, the reason to stop, the device seconds up to then.
_DECIDED = "decided"
# What trials were trained on beyond their stop, as it was not decided yet.
_DISCARDED = "discarded"


def objective_value(objective: str, losses: Sequence[float]) -> float:
    """The value of a trial with these losses, one for each evaluation so far, in nats."""
    reduce: dict[str, Callable[[Sequence[float]], float]] = {
        "best": min,
        "final": lambda values: values[-1],
        "mean": statistics.fmean,
    }
    return reduce[objective](losses)


def hash_to_int(*what: object) -> int:
    """32 bits that look random and depend on `what` alone."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=4).digest())


@dataclass(frozen=True)
class Candidate:
    """A trial to run.

    Attributes:
        number: in its study.
        clock: when it began, as `search.scheduling.report_order` counts.
        test: whether it reads the test split at its end.
        keeps: the weights, "best" or "final", that are written to disk at its end; None: neither.
    """

    number: int
    arm: str
    settings: Settings
    parameters: dict[str, Any]
    clock: int = 0
    test: bool = False
    keeps: str | None = None


class TrialStudy(ABC):
    """What all studies of a search share.

    Attributes:
        objective: the evaluation that counts.
        measure: what the objective is about: high_entropy_loss or exact_match.
        measures: the losses that every trial must have.
        name: of the study.
        model: that its trials train.
        slug: the study's name as a part of a file's name.
        study: the Optuna study, the only state.
    """

    def __init__(self, studies: StudyStorage, name: str, model: str, space: Space) -> None:
        self.name, self.model, self.objective = name, model, space.evaluation_that_counts
        self.measure = space.measure
        self.measures = space.measures
        self._space = space
        self.slug = slug(model) + name.removeprefix(model).replace("/", "-")
        self._storage = studies.storage
        self.study = optuna.create_study(
            storage=self._storage, study_name=studies.prefix + name, direction="minimize", load_if_exists=True
        )
        self._study_id = self._storage.get_study_id_from_name(studies.prefix + name)
        # Of each trial, by its number, what the storage knows it by.
        self._ids: dict[int, int] = {}
        self._interrupted = [t.number for t in self._trials() if t.state == TrialState.RUNNING]

    @property
    @abstractmethod
    def planned(self) -> int:
        """Trials that are still expected to run, and those that have."""

    @property
    @abstractmethod
    def exhausted(self) -> bool:
        """True when no further trial will begin."""

    @property
    def waits(self) -> bool:
        """True while whether a further trial begins hangs on those that run."""
        return False

    @abstractmethod
    def ask(self, clock: int = 0) -> Candidate | None:
        """The next trial, those that an interruption left running first; None when there is none.

        Args:
            clock: when a new one begins, as `search.scheduling.report_order` counts.
        """

    @abstractmethod
    def _reason_to_stop(self, number: int) -> str | None:
        """Why the trial is to be stopped after its last evaluation, if it is."""

    def report(self, number: int, metrics: Mapping[str, float]) -> str | None:
        """Records an evaluation. Returns why the trial is to be stopped early, if it is."""
        if EXACT in metrics:
            self.annotate(number, EXACT, metrics[EXACT])
        self._running(number).report(metrics["high_entropy_loss"], step=int(metrics["tokens"]))
        return self.decision(number, metrics.get("seconds"))

    def decision(self, number: int, seconds: float | None = None) -> str | None:
        """Why the trial is to be stopped after its last evaluation, if it is.

        It is decided once, and kept with the trial's device time: what a resumed search decides must not depend on what
        other trials have reported since.

        Args:
            seconds: that the evaluation took.
        """
        trial, tokens = self._trial(number), self.tokens(number)
        before = trial.user_attrs.get(_DECIDED)
        if before is None or before["tokens"] != tokens:
            device_s = device_s_of(trial)
            if seconds is not None:
                device_s = (device_s or 0.0) + self._space.resources.devices * seconds
            before = {"tokens": tokens, "reason": self._reason_to_stop(number), "device_s": device_s}
            self.annotate(number, _DECIDED, before)
        return reason_code(before["reason"])

    @property
    def clock(self) -> int:
        """When the last thing happened in the study, as `search.scheduling.report_order` counts."""
        return max((_clock(trial) for trial in self.trials(*TrialState) if "clock" in trial.user_attrs), default=0)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        """One trial, without a list of all: a report must not cost more the more trials there are."""
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]

    def _begun(self) -> int:
        return sum(t.state != TrialState.WAITING for t in self._trials())

    @property
    def ended(self) -> bool:
        """True when all trials have ended."""
        return self.exhausted and not self.trials(TrialState.RUNNING)

    @property
    def full_tokens(self) -> int | None:
        """The budget of a trial that is not stopped early, in tokens."""
        # Without the copy that Study.user_attrs makes: each evaluation asks for it.
        tokens: int | None = self._storage.get_study_user_attrs(self._study_id).get("full_tokens")
        return tokens

    def set_full_tokens(self, full_tokens: int) -> None:
        """Sets the budget of a full trial, in tokens."""
        self.study.set_user_attr("full_tokens", full_tokens)

    def conclude(self, number: int, test: Mapping[str, Any]) -> None:
        """Keeps what a trial read of the test split; see `trainables.training.run.Run.test`."""
        self.annotate(number, "test", dict(test))

    def tested(self, number: int) -> dict[str, dict[str, float]]:
        """The mean losses that a trial read of the test split, for each point and measure, in nats; empty if none."""
        return {}

    def general_loss(self, number: int) -> float | None:
        """The trial's at the evaluation that counts, in nats, where the space constrains it."""
        return None

    @property
    def discarded(self) -> dict[str, Any]:
        """The "tokens", and the "device_s", that trials were trained beyond the evaluation after which they ended."""
        return dict(self._storage.get_study_user_attrs(self._study_id).get(_DISCARDED, {"tokens": 0, "device_s": 0.0}))

    def count_discarded(self, tokens: int, seconds: float) -> None:
        """A trial that has ended was trained on so much beyond its last evaluation."""
        before, device_s = self.discarded, self._space.resources.devices * seconds
        after = {"tokens": before["tokens"] + tokens, "device_s": before["device_s"] + device_s}
        self.study.set_user_attr(_DISCARDED, after)

    def put_back(self, number: int) -> None:
        """The running trial is to be asked for again: it has lost its place."""
        self._interrupted = sorted([*self._interrupted, number])

    def annotate(self, number: int, key: str, value: Any) -> None:
        self._running(number).set_user_attr(key, value)

    def annotation(self, number: int, key: str) -> Any:
        """What was annotated; None if nothing was."""
        return self._trial(number).user_attrs.get(key)

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
        """The objective, which is minimised: of the trial's losses so far, in nats, or of one that ran to its end the
        share of wrong answers."""
        if self.measure == EXACT:
            return 1.0 - float(self._trial(number).user_attrs[EXACT])
        return objective_value(self.objective, self.losses(number))

    def told(self, value: float) -> float:
        """The objective as a person reads it: in nats, or the share of right answers."""
        # 1 - (1 - 0.1) is not 0.1.
        return round(1.0 - value, 12) if self.measure == EXACT else value

    def losses(self, number: int) -> list[float]:
        """High-entropy losses of the trial, in the order of its evaluations, in nats."""
        return losses_of(self._trial(number))

    def tokens(self, number: int) -> int:
        """Tokens that the trial has trained on up to its last evaluation."""
        return max(self._trial(number).intermediate_values, default=0)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return [t for t in self._trials() if t.state in states]

    def _begin(self, parameters: FrozenTrial, **attributes: Any) -> optuna.Trial:
        """A new running trial with the parameters of another one, in one change of the study."""
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parameters.params,
            distributions=parameters.distributions,
            user_attrs=attributes,
        )
        self.study.add_trial(trial)
        return self._running(len(self._trials()) - 1)

    def _running(self, number: int) -> optuna.Trial:
        return optuna.trial.Trial(self.study, self._id(number))


def losses_of(trial: FrozenTrial) -> list[float]:
    """High-entropy losses in the order of the evaluations, in nats."""
    return [loss for _, loss in sorted(trial.intermediate_values.items())]


def reason_code(reason: str | None) -> str | None:
    """The code of a stored reason."""
    return _OLDER_REASONS.get(reason, reason) if reason is not None else None


def reason_of(trial: FrozenTrial) -> str | None:
    """The code of why the trial was stopped early, or failed; None if it did not."""
    return reason_code(trial.user_attrs.get("reason"))


def describe_reason(reason: str) -> str:
    """A reason in words, with the detail that follows a colon."""
    code, colon, detail = reason.partition(":")
    return _REASONS.get(code, code) + colon + detail


def device_s_of(trial: FrozenTrial) -> float | None:
    """Device seconds that the trial has taken; None if they were not measured."""
    device_s: float | None = trial.user_attrs.get(_DECIDED, {}).get("device_s")
    return device_s


def _clock(trial: FrozenTrial) -> int:
    # A trial fails in place of an evaluation.
    evaluations = len(trial.intermediate_values) + (trial.state == TrialState.FAIL)
    return int(trial.user_attrs["clock"]) + evaluations
