"""The arms of a search as their studies take them: each is a space of its own, with the same budget."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import FloatDistribution

from search.arms import BASELINE, ENTRODROP, ArmBlock
from search.space import Space
from search.studies.candidates import pick_at
from trainables.config.fields import Block, FloatRange, is_searched
from trainables.config.to_settings import choose
from trainables.config.training import REGULARIZERS
from trainables.curriculum import curriculum_from

# Without a schedule: no token is dropped, and only what regularizes is searched.
REGULARIZED = "regularized"
# At which a schedule's strength is read.
_PROGRESS = (0.125, 0.375, 0.625, 0.875)


@dataclass(frozen=True)
class Arm:
    """An arm, and the space as it is in this arm.

    Attributes:
        trials: full ones that may begin; with the tokens that stopping early saves, more begin.
    """

    name: str
    space: Space
    trials: int


def arms_of(space: Space) -> list[Arm]:
    """The arms of a space; the baseline first, unless the space lists them in another order.

    A space that lists none has the baseline, with the middle of what is searched in its training, and one that searches
    the rest.
    """
    if space.arms is None:
        rest = space.budget.trials - 1
        name = ENTRODROP if space.schedule is not None else REGULARIZED
        # Without a searched setting there is one trial to run beside the baseline: each further one would be the same.
        trials = rest if dimensions(space) else min(1, rest)
        return [Arm(BASELINE, _baseline(space), 1), Arm(name, space, trials)]
    arms = []
    for block in space.arms:
        arm_space = _merge_arm(space, block)
        arms.append(Arm(block.name, arm_space, space.budget.trials if dimensions(arm_space) else 1))
    return arms


def needs_mask_token(space: Space) -> bool:
    """Whether a mask token may be shown in any of the arms."""
    return any(a.space.schedule is not None and a.space.schedule.needs_mask_token for a in arms_of(space))


def _baseline(space: Space) -> Space:
    training = space.training.model_copy(update={**dict.fromkeys(REGULARIZERS, 0.0), "token_weight": None})
    return space.model_copy(update={"schedule": None, "training": training})


def _merge_arm(space: Space, arm: ArmBlock) -> Space:
    changes: dict[str, Any] = {"training": space.training.model_copy(update=_select_given(arm.training))}
    if arm.schedule is None or space.schedule is None:
        changes["schedule"] = None
    else:
        changes["schedule"] = space.schedule.model_copy(update=_select_given(arm.schedule))
    merged = space.model_copy(update=changes)
    return _baseline(merged) if arm.name == BASELINE else merged


def _select_given(block: Block) -> dict[str, Any]:
    return {name: value for name, value in block if value is not None}


class Middle:
    """Answers each suggestion with the middle of its range, and keeps the names of what is searched."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def __call__(self, name: str, setting: Any) -> Any:
        if isinstance(setting, FloatRange):
            self.parameters[name] = pick_at(FloatDistribution(setting.low, setting.high, setting.log), 0.5)
            return float(self.parameters[name])
        if not isinstance(setting, list):
            return setting
        if len(setting) == 1:
            return setting[0]
        self.parameters[name] = "sigmoid" if "sigmoid" in setting else setting[len(setting) // 2]
        return self.parameters[name]


def suggest_settings(space: Space, trial: optuna.trial.BaseTrial, prefix: str = "") -> dict[str, Any]:
    """A trial's settings: fixed ones from the space, searched ones from the trial.

    Args:
        prefix: of the names that the trial knows them by.
    """

    return choose(space, partial(_suggest, trial, prefix))


def _suggest(trial: optuna.trial.BaseTrial, prefix: str, name: str, setting: Any) -> Any:
    if isinstance(setting, FloatRange):
        return trial.suggest_float(prefix + name, setting.low, setting.high, log=setting.log)
    if isinstance(setting, list):
        return setting[0] if len(setting) == 1 else trial.suggest_categorical(prefix + name, setting)
    return setting


def encode_settings(space: Space, trial: optuna.trial.BaseTrial, prefix: str = "") -> list[float]:
    """A trial's searched settings as numbers, always as many, in which a schedule is the share that it drops along the
    way: schedules of different shapes that drop alike are close to each other."""
    numbers: list[float] = []

    def value(name: str, setting: Any) -> Any:
        chosen = _suggest(trial, prefix, name, setting)
        if name == "mask_ratio" or name.startswith("curriculum.") or not is_searched(setting):
            return chosen
        if isinstance(setting, FloatRange):
            numbers.append(math.log(chosen) if setting.log else chosen)
        else:
            numbers.extend(float(chosen == choice) for choice in setting)
        return chosen

    parameters = choose(space, value)
    if "curriculum" in parameters:
        curriculum = curriculum_from(parameters["curriculum"])
        numbers += [parameters["mask_ratio"] * curriculum(progress) for progress in _PROGRESS]
    return numbers


def middle_settings(space: Space) -> dict[str, Any]:
    """The middle of what a space searches: the first guess."""
    middling = Middle()
    choose(space, middling)
    return middling.parameters


def dimensions(space: Space) -> list[str]:
    """The names of what a space searches in the first place, the parameters of other shapes apart."""
    return list(middle_settings(space))
