"""The blocks training and evaluation."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from trainables.config.fields import Block, Count, NotNegative, Positive, Searchable, ShareBelowOne, WholeNumber
from trainables.config.validation_messages import shown, wrong

# Settings of a training that hold a model back, each off at 0.
REGULARIZERS = ("label_smoothing", "hidden_dropout", "attention_dropout", "neftune_alpha")
# Settings of a training that can be searched.
SEARCHABLE = ("learning_rate", "weight_decay", *REGULARIZERS)


class LoraAdapters(Block):
    """Low-rank adapters on all linear layers; the base weights stay as they are."""

    rank: Count
    """Rank of each adapter: an integer of at least 1."""
    alpha: Positive
    """The adapters' output is scaled by alpha / rank: above 0."""


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
