"""The blocks training and evaluation."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from trainables.config.fields import (
    Block,
    Choices,
    Count,
    FloatRange,
    NotNegative,
    OneOrMore,
    Positive,
    Searchable,
    ShareBelowOne,
    Text,
    WholeNumber,
)
from trainables.config.validation_messages import shown, wrong

# Settings of a training that hold a model back, each off at 0.
REGULARIZERS = ("label_smoothing", "hidden_dropout", "attention_dropout", "neftune_alpha")
# Settings of a training that can be searched.
SEARCHABLE = ("learning_rate", "weight_decay", *REGULARIZERS)


ALL_LINEAR: Literal["all-linear"] = "all-linear"


def _way_of_targets(given: object) -> str:
    """A list of names is one value; with a list in it, it is a list of choices."""
    if not isinstance(given, list):
        return "all"
    return "choices" if any(isinstance(one, list) for one in given) else "names"


_All = Annotated[Literal["all-linear"], Tag("all")]
_Names = Annotated[list[Text], Field(min_length=1), Tag("names")]
_Targets = Annotated[_All | _Names, Discriminator(_way_of_targets)]


class LoraAdapters(Block):
    """Low-rank adapters (LoRA, arXiv 2106.09685); the base weights stay as they are."""

    rank: OneOrMore[Count]
    """Rank of each adapter: an integer of at least 1, or a list of them to choose from."""
    alpha: Searchable[Positive]
    """The adapters' output is scaled by alpha / rank: above 0."""
    dropout: Searchable[ShareBelowOne] = 0.0
    """Dropout of what goes into the adapters: from 0 to below 1."""
    target_modules: Annotated[
        _All | _Names | Annotated[Choices[_Targets], Tag("choices")], Discriminator(_way_of_targets)
    ] = ALL_LINEAR
    """Layers that get adapters: all-linear (all linear layers of the decoder), or a list of their names, such as
    [q_proj, v_proj]; a list with such lists in it is one of choices."""

    @property
    def settings(self) -> dict[str, Any]:
        """All of them; target_modules as choices, each a text: all-linear, or names with spaces between them."""
        given = self.target_modules
        choices: Any = given if _way_of_targets(given) == "choices" else [given]
        targets = [choice if isinstance(choice, str) else " ".join(choice) for choice in choices]
        return {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout, "target_modules": targets}


class EaftWeight(Block):
    """(H / ln k)^alpha, where H is the entropy of the k likeliest tokens (EAFT, arXiv 2601.02151)."""

    kind: Literal["eaft"]
    """Kind of the weight: eaft."""
    k: OneOrMore[Annotated[int, Field(ge=2)]] = 20
    """Likeliest tokens that the entropy is of: an integer of at least 2, or a list of them to choose from."""
    alpha: Searchable[NotNegative] = 1.0
    """Exponent: at least 0; 0 is the plain loss."""


class DftWeight(Block):
    """p, the probability of the label (DFT, arXiv 2508.05629)."""

    kind: Literal["dft"]
    """Kind of the weight: dft."""


class PowerWeight(Block):
    """p^exponent, which makes the loss (1 - p^exponent) / exponent (arXiv 2510.00526)."""

    kind: Literal["power"]
    """Kind of the weight: power."""
    exponent: Searchable[NotNegative]
    """Exponent: at least 0; 0 is the plain loss, 1 is dft."""


class FocalWeight(Block):
    """(1 - p)^gamma (focal loss, arXiv 1708.02002)."""

    kind: Literal["focal"]
    """Kind of the weight: focal."""
    gamma: Searchable[NotNegative] = 2.0
    """Exponent: at least 0; 0 is the plain loss."""


class MileWeight(Block):
    """(1 + H)^gamma, where H is the entropy of the prediction in nats (MiLe loss, arXiv 2310.19531)."""

    kind: Literal["mile"]
    """Kind of the weight: mile."""
    gamma: Searchable[NotNegative] = 1.0
    """Exponent: at least 0; 0 is the plain loss."""


class StmWeight(Block):
    """Learns only labels of a low perplexity before training (selective token masking, arXiv 2501.14315)."""

    kind: Literal["stm"]
    """Kind of the weight: stm."""
    perplexity: Searchable[Annotated[float, Field(gt=1)]] = 2.5
    """Greatest perplexity under the model before training, 1 / p, of a label that is learned: above 1."""


class SelectiveWeight(Block):
    """Learns only labels with the largest loss in excess of that before training (SLM, Rho-1, arXiv 2404.07965)."""

    kind: Literal["selective"]
    """Kind of the weight: selective."""
    share: Searchable[Annotated[float, Field(gt=0, le=1)]] = 0.6
    """Share of the labels of each row that is learned: above 0 and at most 1; 1 is the plain loss."""


TokenWeight = Annotated[
    EaftWeight | DftWeight | PowerWeight | FocalWeight | MileWeight | StmWeight | SelectiveWeight,
    Field(discriminator="kind"),
]
# Their formulas take the loss for -ln p, which it is not with label smoothing.
OF_PROBABILITIES = (DftWeight, PowerWeight, FocalWeight, SelectiveWeight)


SMOOTHED = "the formula of this token weight does not hold with label smoothing; leave out one of them"


def is_smoothed(token_weight: Any, label_smoothing: Any) -> bool:
    """Whether a token weight does not go with this label smoothing, fixed or searched."""
    most = label_smoothing.high if isinstance(label_smoothing, FloatRange) else label_smoothing
    return isinstance(token_weight, OF_PROBABILITIES) and (max(most) if isinstance(most, list) else most) > 0


class Training(Block):
    learning_rate: Searchable[Positive] = 0.003
    """AdamW's peak learning rate: above 0."""
    lr_schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """The learning rate after the warm-up: constant, cosine (to 0), or wsd (constant, then linear to 0)."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    """With wsd, share of the budget's optimizer steps in which the learning rate falls: above 0 and at most 1."""
    weight_decay: Searchable[NotNegative] = 0.01
    """AdamW's weight decay: at least 0."""
    label_smoothing: Searchable[ShareBelowOne] = 0.0
    """Share of each label that is spread evenly over the vocabulary: from 0 to below 1."""
    hidden_dropout: Searchable[ShareBelowOne] = 0.0
    """Dropout of what each attention and each feed-forward block adds: from 0 to below 1."""
    attention_dropout: Searchable[ShareBelowOne] = 0.0
    """Dropout of attention weights: from 0 to below 1."""
    neftune_alpha: Searchable[NotNegative] = 0.0
    """Strength of the uniform noise on embeddings (NEFTune): at least 0; 5 is usual, 0 is none."""
    token_weight: TokenWeight | None = None
    """How much the loss of each label counts, without gradient: a mapping with kind eaft, dft, power, focal, mile, stm,
    or selective; null for all the same. Evaluation is of the plain loss."""
    warmup: ShareBelowOne = 0.05
    """Share of the budget's optimizer steps in which the learning rate rises: from 0 to below 1."""
    batch_size: Count = 4
    """Rows in an optimizer step, over all workers: a multiple of accumulation * workers."""
    accumulation: Count = 1
    """Micro-batches in an optimizer step: an integer of at least 1."""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """Tokens in a row: an integer of at least 8."""
    layout: Literal["packed", "padded"] = "packed"
    """How documents lie in rows: packed (several in a row, without attention between them) or padded (one in a row)."""
    gradient_clip: Positive = 1.0
    """Greatest norm of the gradient: above 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward passes: fp32 or bf16."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass, to save memory: true or false."""
    compile: bool = False
    """Whether torch.compile is used: true or false."""
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"
    """What the workers of a run hold: ddp (each the whole model), fsdp (each a part), or auto (ddp if it fits)."""
    lora: LoraAdapters | None = None
    """Low-rank adapters to train; null to train all weights."""
    base_weights: Literal["full", "nf4"] = "full"
    """How the weights below adapters are held: full (32 bits), or nf4 (4 bits in the decoder's linear layers; QLoRA,
    arXiv 2305.14314), which needs the extra qlora."""

    @model_validator(mode="after")
    def _quantizes_what_is_not_trained(self) -> Self:
        if self.base_weights == "nf4" and self.lora is None:
            raise wrong(("base_weights",), "nf4", "full, as all weights are trained; or set training.lora")
        if self.base_weights == "nf4" and self.sharding == "fsdp":
            raise wrong(("sharding",), "fsdp", "ddp or auto: weights of 4 bits are not shared out")
        return self

    @model_validator(mode="after")
    def _weights_what_is_not_smoothed(self) -> Self:
        if is_smoothed(self.token_weight, self.label_smoothing):
            raise wrong(("token_weight",), SMOOTHED)
        return self

    @model_validator(mode="after")
    def _warms_up_before_it_decays(self) -> Self:
        # 0.7 + 0.3 may be a little above 1 in floating point.
        if self.lr_schedule == "wsd" and self.warmup + self.lr_decay > 1 + 1e-9:
            name, other = ("lr_decay", "warmup") if "lr_decay" in self.model_fields_set else ("warmup", "lr_decay")
            rest = 1 - getattr(self, other)
            raise wrong((name,), shown(getattr(self, name)), f"with wsd, a number of at most {rest:g} (1 - {other})")
        return self


def _with_one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise wrong((), shown(pattern), f"a regular expression ({error})") from None
    if groups != 1:
        allowed = "a regular expression with one (group), the answer; (?:...) does not count as one"
        raise wrong((), f"{shown(pattern)}, which has {groups} groups", allowed)
    return pattern


class Evaluation(Block):
    per_epoch: Count = 1
    """Evaluations in each epoch: an integer of at least 1."""
    high_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the held-out tokens that counts as high-entropy: above 0 and below 1."""
    low_entropy: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the held-out tokens that counts as low-entropy: above 0 and at most 1 - high_entropy."""
    exact_match: WholeNumber = 0
    """Validation documents that are answered at the end of a run, to see how many answers are right: an integer of at
    least 0."""
    max_new_tokens: Count = 256
    """Longest answer, in tokens: an integer of at least 1."""
    answer_pattern: Annotated[str, AfterValidator(_with_one_group)] | None = None
    """Finds the answer in a text: a regular expression with one (group), which in its last match is the answer; null
    for the whole text."""

    @model_validator(mode="after")
    def _groups_do_not_overlap(self) -> Self:
        # 0.7 + 0.3 may be a little above 1 in floating point.
        if self.high_entropy + self.low_entropy > 1 + 1e-9:
            name, other = ("low_entropy", "high_entropy")
            if name not in self.model_fields_set:
                name, other = other, name
            rest = 1 - getattr(self, other)
            raise wrong((name,), shown(getattr(self, name)), f"a number of at most {rest:g} (1 - {other})")
        return self
