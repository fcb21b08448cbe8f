"""The block arms: EntroDrop, what it is compared with, the baseline that drops nothing; and what an arm is called."""

from collections.abc import Mapping
from typing import Any

from trainables.config.fields import (
    Block,
    Name,
    NotNegative,
    OneOrMore,
    Positive,
    Searchable,
    Share,
    ShareBelowOne,
    WholeNumber,
)
from trainables.config.schedule import Curriculum, EntropyThreshold, Presentation, Redraw, Tokens
from trainables.config.training import REGULARIZERS, TokenWeight
from trainables.config.validation_messages import shown, wrong
from trainables.curriculum import curriculum_from

# The arms of a space that names none.
BASELINE, ENTRODROP = "none", "entrodrop"
# Points of a curriculum that are shown: so many that a step does not look like a ramp.
_POINTS = 64


class ArmSchedule(Block):
    """What an arm changes in the space's schedule; null for what it leaves as it is."""

    entropy_threshold: EntropyThreshold | None = None
    """Which tokens are low-entropy: a quantile, or nats."""
    tokens: OneOrMore[Tokens] | None = None
    """Which tokens are dropped: low_entropy, random, or high_entropy."""
    mask_ratio: Searchable[Share] | None = None
    """Share of these tokens that is dropped at full strength: from 0 to 1."""
    presentation: OneOrMore[Presentation] | None = None
    """What dropping does: input, input_mask_token, input_random_token, or loss."""
    curriculum: Curriculum | None = None
    """How the strength rises with progress: a mapping with shape constant, linear, cosine, sigmoid, step, or spline; or
    a list of such mappings, with different shapes, to choose from."""
    refresh_epochs: OneOrMore[WholeNumber] | None = None
    """Epochs after which the entropies are computed anew: an integer of at least 0; 0 for never."""
    redraw: OneOrMore[Redraw] | None = None
    """When the tokens to drop are drawn anew: epoch, or never."""


class ArmTraining(Block):
    """What an arm changes in the space's training; null for what it leaves as it is."""

    learning_rate: Searchable[Positive] | None = None
    """AdamW's peak learning rate: above 0."""
    weight_decay: Searchable[NotNegative] | None = None
    """AdamW's weight decay: at least 0."""
    label_smoothing: Searchable[ShareBelowOne] | None = None
    """Share of each label that is spread evenly over the vocabulary: from 0 to below 1."""
    hidden_dropout: Searchable[ShareBelowOne] | None = None
    """Dropout of what each attention and each feed-forward block adds: from 0 to below 1."""
    attention_dropout: Searchable[ShareBelowOne] | None = None
    """Dropout of attention weights: from 0 to below 1."""
    neftune_alpha: Searchable[NotNegative] | None = None
    """Strength of the uniform noise on embeddings (NEFTune): at least 0."""
    token_weight: TokenWeight | None = None
    """How much the loss of each label counts: a mapping with kind eaft, dft, power, focal, mile, stm, or selective."""


class ArmBlock(Block):
    """An arm: the space's schedule and training, with what differs."""

    name: Name
    """Name of the arm: up to 100 letters, digits, '.', '_' and '-', the first a letter, a digit or '_'; the arm none is
    the baseline, which drops nothing and has neither regularizer nor token weight."""
    schedule: ArmSchedule | None = ArmSchedule()
    """What the arm changes in the space's schedule; null to drop no tokens."""
    training: ArmTraining = ArmTraining()
    """What the arm changes in the space's training."""


def check_arms(arms: list[ArmBlock]) -> list[ArmBlock]:
    """The arms, if their names differ and the baseline is one of them.

    Raises:
        PydanticCustomError: they do not, or it is not, or is the only one, or it regularizes.
    """
    names = [arm.name for arm in arms]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise wrong((index, "name"), f"{shown(name)} a second time", "arms with different names")
    if BASELINE not in names:
        problem = f"there is no baseline to compare {', '.join(names)} with; add {{name: {BASELINE}, schedule: null}}"
        raise wrong((), problem)
    if names == [BASELINE]:
        raise wrong((), f"there is only the baseline, {BASELINE}; add an arm to compare with it")
    index = names.index(BASELINE)
    baseline = arms[index]
    if baseline.schedule is not None:
        raise wrong((index, "schedule"), f"the arm {BASELINE} drops no tokens; write null")
    for name in (*REGULARIZERS, "token_weight"):
        if getattr(baseline.training, name) is not None:
            problem = f"the arm {BASELINE} has no regularizer but weight decay, and no token weight; leave this out"
            raise wrong((index, "training", name), problem)
    return arms


def curriculum_name(arm: str, parameters: Mapping[str, Any]) -> str:
    """The curriculum of a trial in a few words, as in "step 0.3"."""
    if arm == BASELINE:
        return "no dropout"
    if "curriculum" not in parameters:
        return arm
    shape, *parameters = parameters["curriculum"].values()
    numbers = [number for value in parameters for number in (value if isinstance(value, list) else [value])]
    return " ".join([shape, *(f"{number:.3g}" for number in numbers)])


def curriculum_strengths(parameters: Mapping[str, Any]) -> tuple[float, ...]:
    """The strength of a trial's curriculum over the run, each in [0, 1]; empty without a curriculum."""
    if "curriculum" not in parameters:
        return ()
    curriculum = curriculum_from(parameters["curriculum"])
    return tuple(round(curriculum((n + 0.5) / _POINTS), 3) for n in range(_POINTS))


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"curriculum": {"shape": "step"}} as {"curriculum.shape": "step"}."""
    result: dict[str, Any] = {}
    for name, value in parameters.items():
        result |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result
