"""The settings of one run, and how its model is built."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainables.curriculum import Curriculum, curriculum_from, curriculum_spec

if TYPE_CHECKING:
    # It imports torch, which takes seconds; the process of a search has settings without it.
    from trainables.token_weight import TokenWeight


@dataclass(frozen=True)
class EntroDrop:
    """Which tokens are dropped, how, and with what strength.

    Attributes:
        mask_ratio: probability of dropping a candidate at full strength, in [0, 1].
        curriculum: the strength, in [0, 1], by progress.
        quantile: tau as a quantile of the training tokens' entropies, in [0, 1]; None if `nats` says it.
        nats: tau in nats.
        tokens: the candidates. "low_entropy": the method. Two controls: "random" (as many tokens, whatever their
            entropy) and "high_entropy" (as large a quantile, from above).
        presentation: "input" (zero embedding, label stays), "input_mask_token" and "input_random_token" (that token's
            embedding instead), or "loss" (label ignored, input stays).
        refresh_epochs: the entropies are computed anew, from the model in training, every so many epochs; 0: never.
        redraw: "epoch" draws the tokens to drop anew in each epoch; "never" drops the same ones in every epoch, and
            more of them as the strength rises.
    """

    mask_ratio: float
    curriculum: Curriculum
    quantile: float | None = None
    nats: float | None = None
    tokens: str = "low_entropy"
    presentation: str = "input"
    refresh_epochs: int = 0
    redraw: str = "epoch"

    def draw(self, epoch: int) -> int:
        """The number of the draw whose tokens are dropped in an epoch."""
        return epoch if self.redraw == "epoch" else 0


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    Attributes:
        entrodrop: None trains without dropping tokens.
        learning_rate: AdamW's peak.
        warmup: share of all optimizer steps over which the learning rate rises linearly from zero.
        batch_size: rows in an optimizer step, over all ranks and micro-batches.
        accumulation: micro-batches in an optimizer step.
        gradient_clip: largest norm of the gradient.
        precision: "fp32", or "bf16" for autocast with float32 master weights.
        evaluations_per_epoch: evenly spaced; the last one stands at the epoch's end.
        seed: of the data order, of the dropped tokens and of all other noise.
        lr_schedule: after warm-up, of the full budget: "constant", "cosine" (to zero), or "wsd" (constant, then linear
            to zero).
        lr_decay: share of all optimizer steps that the decay of "wsd" takes.
        label_smoothing: share of each label that is spread evenly over the vocabulary, in [0, 1).
        hidden_dropout: dropout of what each attention and each feed-forward block adds, in [0, 1).
        attention_dropout: dropout of attention weights, in [0, 1).
        neftune_alpha: strength of the uniform noise on embeddings (NEFTune, arXiv 2310.05914); 0: none.
        token_weight: how much each label's loss counts; None: all the same.
        lora: the adapters that are trained; None: those that its model was built with, if any.
    """

    entrodrop: EntroDrop | None
    learning_rate: float
    weight_decay: float
    warmup: float
    batch_size: int
    accumulation: int
    gradient_clip: float
    precision: str
    epochs: int
    evaluations_per_epoch: int
    seed: int
    lr_schedule: str = "constant"
    lr_decay: float = 0.2
    label_smoothing: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    neftune_alpha: float = 0.0
    token_weight: "TokenWeight | None" = None
    lora: "Lora | None" = None

    @property
    def evaluations(self) -> int:
        """Evaluations of the full budget."""
        return self.epochs * self.evaluations_per_epoch

    def to_json(self) -> dict[str, Any]:
        # A checkpoint knows its run by this: what an earlier version did not have is left out where it changes nothing.
        apart = ("entrodrop", "token_weight", "lora")
        values = {name: value for name, value in self.__dict__.items() if name not in apart}
        if self.token_weight is not None:
            from trainables.token_weight import token_weight_spec

            values["token_weight"] = token_weight_spec(self.token_weight)
        if self.lora is not None:
            values["lora"] = self.lora.to_json()
        if self.entrodrop is None:
            return {**values, "entrodrop": None}
        entrodrop = {**asdict(self.entrodrop), "curriculum": curriculum_spec(self.entrodrop.curriculum)}
        if self.entrodrop.redraw == "epoch":
            del entrodrop["redraw"]
        return {**values, "entrodrop": entrodrop}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        entrodrop = values["entrodrop"]
        if entrodrop is not None:
            entrodrop = EntroDrop(**{**entrodrop, "curriculum": curriculum_from(entrodrop["curriculum"])})
        weight = values.get("token_weight")
        if weight is not None:
            from trainables.token_weight import token_weight_from

            weight = token_weight_from(weight)
        lora = Lora.from_json(values["lora"]) if values.get("lora") is not None else None
        return cls(**{**values, "entrodrop": entrodrop, "token_weight": weight, "lora": lora})


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on linear layers of the decoder (arXiv 2106.09685); the base weights stay as they are.

    Attributes:
        rank: of each adapter.
        alpha: the adapters' output is scaled by alpha / rank.
        dropout: of what goes into the adapters, in [0, 1).
        target_modules: the last parts of the layers' names; None: all linear layers.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        # As for `Settings.to_json`.
        new = {"dropout": self.dropout or None, "target_modules": self.target_modules and list(self.target_modules)}
        return {"rank": self.rank, "alpha": self.alpha} | {n: value for n, value in new.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Lora":
        targets = values.get("target_modules")
        return cls(**{**values, "target_modules": None if targets is None else tuple(targets)})


@dataclass(frozen=True)
class ExactMatch:
    """How answers are generated and compared, at a run's last evaluation.

    Attributes:
        questions: validation documents that are asked.
        max_new_tokens: of an answer.
        pattern: finds the answer in a text; None: the whole text.
    """

    questions: int
    max_new_tokens: int = 256
    pattern: str | None = None


@dataclass(frozen=True)
class ModelSettings:
    """How a slot builds and measures its model; the same for all runs of a search.

    Attributes:
        lora: None trains all weights; a run that has other adapters needs another model.
        gradient_checkpointing: activations are computed again in the backward pass, to save memory.
        compile: torch.compile.
        sharding: "ddp" (each rank has the whole model), "fsdp" (FSDP2: each rank has a part), or "auto" (ddp if the
            model, its gradients and its optimizer fit on the device).
        exact_match: None: nothing is generated.
        test_answers: whether what reads the test split answers its questions too.
        base_weights: of the decoder's linear layers below adapters: "full" (float32) or "nf4" (4 bits).
    """

    lora: Lora | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    sharding: str = "auto"
    exact_match: ExactMatch | None = None
    test_answers: bool = False
    base_weights: str = "full"

    def identity(self) -> dict[str, Any]:
        """What of this a run's result depends on, as JSON."""
        identity = {
            "lora": self.lora and self.lora.to_json(),
            "exact_match": self.exact_match and asdict(self.exact_match),
        }
        # As for `Settings.to_json`.
        return identity if self.base_weights == "full" else identity | {"base_weights": self.base_weights}
