"""Token weights: how much the loss of each label counts in training.

A token weight is a frozen dataclass that is called with what is known of the labels of some rows and returns a weight
of at least 0 for each. Weights have no gradient. With losses l and weights w, the loss of an optimizer step with N
labels is sum(w l) / N, or sum(w l) / sum(w) where the class says `weighted_mean`.

Shapes: B rows, T positions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

# Finer differences between losses are rounding.
_STEPS_PER_NAT = 1000


@dataclass(frozen=True)
class Labels:
    """What is known of labels; all without gradient, and of no meaning where there is no label.

    Attributes:
        there_BT: whether there is a label.
        loss_BT: cross-entropy under the model in training, in nats.
        entropy_BT: of the prediction, or of its likeliest tokens (see `TokenWeight.likeliest`), in nats.
        base_BT: cross-entropy under the model before training, in nats.
    """

    there_BT: Tensor
    loss_BT: Tensor
    entropy_BT: Tensor
    base_BT: Tensor | None = None


@dataclass(frozen=True)
class TokenWeight(ABC):
    """What all token weights share.

    Attributes:
        weighted_mean: whether the loss is divided by the sum of the weights, which is then at least 1 or 0.
        entropy: whether the entropies are needed.
        base: whether the base model's losses are needed.
        probability: whether the loss must be -ln p of the label, which it is not with label smoothing.
    """

    weighted_mean: ClassVar[bool] = False
    entropy: ClassVar[bool] = False
    base: ClassVar[bool] = False
    probability: ClassVar[bool] = False

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens the entropy is of, renormalised; None: of all."""
        return None

    def __call__(self, labels: Labels) -> Tensor:
        """The weight of each label, float32 of shape BT; 0 where there is none."""
        return torch.where(labels.there_BT, self._weights(labels), 0.0)

    @abstractmethod
    def _weights(self, labels: Labels) -> Tensor:
        """What `__call__` returns, of whatever value where there is no label."""


@dataclass(frozen=True)
class Eaft(TokenWeight):
    """w = (H / ln k)^alpha, H the entropy of the k likeliest tokens (arXiv 2601.02151)."""

    k: int = 20
    alpha: float = 1.0
    entropy = True

    @property
    def likeliest(self) -> int:
        return self.k

    def _weights(self, labels: Labels) -> Tensor:
        return (labels.entropy_BT / math.log(self.k)).clamp(0, 1) ** self.alpha


@dataclass(frozen=True)
class Dft(TokenWeight):
    """w = p, the probability of the label (arXiv 2508.05629)."""

    probability = True

    def _weights(self, labels: Labels) -> Tensor:
        return (-labels.loss_BT).exp()


@dataclass(frozen=True)
class Power(TokenWeight):
    """w = p^exponent: the gradient of (1 - p^exponent) / exponent (arXiv 2510.00526)."""

    exponent: float
    probability = True

    def _weights(self, labels: Labels) -> Tensor:
        return (-self.exponent * labels.loss_BT).exp()


@dataclass(frozen=True)
class Focal(TokenWeight):
    """w = (1 - p)^gamma (arXiv 1708.02002, which also takes the gradient of the weight)."""

    gamma: float = 2.0
    probability = True

    def _weights(self, labels: Labels) -> Tensor:
        return (-torch.expm1(-labels.loss_BT)).clamp(min=0) ** self.gamma


@dataclass(frozen=True)
class Mile(TokenWeight):
    """w = (1 + H)^gamma, H the entropy of the prediction (MiLe loss, arXiv 2310.19531)."""

    gamma: float = 1.0
    weighted_mean = True
    entropy = True

    def _weights(self, labels: Labels) -> Tensor:
        return (1 + labels.entropy_BT.clamp(min=0)) ** self.gamma


@dataclass(frozen=True)
class Stm(TokenWeight):
    """Learns only labels whose perplexity under the base model is at most `perplexity` (selective token masking, arXiv
    2501.14315)."""

    perplexity: float = 2.5
    weighted_mean = True
    base = True

    def _weights(self, labels: Labels) -> Tensor:
        assert labels.base_BT is not None
        return (labels.base_BT <= math.log(self.perplexity)).float()


@dataclass(frozen=True)
class Selective(TokenWeight):
    """Learns only the `share` of each row's labels with the largest loss in excess of the base model's (selective
    language modeling, Rho-1, arXiv 2404.07965; there of each batch, which depends on how a batch is shared out)."""

    share: float = 0.6
    weighted_mean = True
    base = True
    probability = True

    def _weights(self, labels: Labels) -> Tensor:
        assert labels.base_BT is not None
        # Before the first step all excess is rounding, which differs with the batch: the base loss then decides.
        excess_BT = ((labels.loss_BT - labels.base_BT) * _STEPS_PER_NAT).round()
        order_BT = labels.base_BT.argsort(dim=1, descending=True, stable=True)
        excess_BT = excess_BT.masked_fill(~labels.there_BT, -torch.inf).gather(1, order_BT)
        order_BT = order_BT.gather(1, excess_BT.argsort(dim=1, descending=True, stable=True))
        # 0.6 of 5 labels may be a little above 3 in floating point.
        kept_B = (labels.there_BT.sum(dim=1) * self.share - 1e-6).ceil()
        first_BT = torch.arange(order_BT.shape[1], device=order_BT.device) < kept_B.unsqueeze(1)
        return torch.zeros_like(labels.base_BT).scatter(1, order_BT, first_BT.float())


KINDS: Mapping[str, Callable[..., TokenWeight]] = {
    "eaft": Eaft,
    "dft": Dft,
    "power": Power,
    "focal": Focal,
    "mile": Mile,
    "stm": Stm,
    "selective": Selective,
}


def token_weight_from(spec: Mapping[str, Any]) -> TokenWeight:
    """The token weight that a mapping such as {"kind": "focal", "gamma": 2.0} describes.

    Raises:
        KeyError: an unknown kind.
        TypeError: a number that the kind does not have, or one that is missing.
    """
    return KINDS[spec["kind"]](**{name: value for name, value in spec.items() if name != "kind"})


def token_weight_spec(weight: TokenWeight) -> dict[str, Any]:
    """The inverse of `token_weight_from`."""
    kind = next(name for name, kind in KINDS.items() if kind is type(weight))
    return {"kind": kind, **asdict(weight)}
