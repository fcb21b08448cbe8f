"""What all trials of a model share, computed once: tokens, entropies, the frozen evaluation set.

Everything is cached by content hash and only read by the trials.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.cache import cached, content_digest, digest
from trainables.documents import DataError, Splits
from trainables.entropy import evaluation_groups, score
from trainables.models import load_model, load_tokenizer, model_folder
from trainables.packing import Packed, pack

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Preparation:
    """What is to be prepared.

    Attributes:
        sequence_length: tokens in a packed row.
        high_entropy, low_entropy: shares of the held-out tokens in the two groups.
        cache: folder of the cache.
    """

    splits: Splits
    sequence_length: int
    high_entropy: float
    low_entropy: float
    cache: Path


@dataclass(frozen=True)
class Prepared:
    """Where a model's prepared data lies, and what is known of it.

    Attributes:
        model: its name.
        folder: its base weights and tokenizer.
        tokens, entropies, evaluation: folders in the cache, by content.
        data_hash, evaluation_hash: SHA-256 of the tokens and of the frozen evaluation set.
        train_tokens, train_rows: tokens and packed rows of an epoch.
        base_losses: validation loss before training, in nats: loss, high_entropy_loss, low_entropy_loss.
    """

    model: str
    folder: Path
    tokens: Path
    entropies: Path
    evaluation: Path
    data_hash: str
    evaluation_hash: str
    train_tokens: int
    train_rows: int
    base_losses: dict[str, float]

    def packed(self, split: str) -> Packed:
        return _packed(self.tokens, split)

    def entropy(self, split: str) -> Tensor:
        """Entropy under the model's own base weights, in nats, RT."""
        return load_file(self.entropies / "scores.safetensors")[f"{split}.entropy"]

    def groups(self, split: str) -> tuple[Tensor, Tensor]:
        """Masks (high_RT, low_RT) of a held-out split."""
        masks = load_file(self.evaluation / "groups.safetensors")
        return masks[f"{split}.high"], masks[f"{split}.low"]


def prepare(
    model: str, reference: str, what: Preparation, progress: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Prepares one model's data, from the cache as far as possible.

    Args:
        reference: the model whose entropies fix the evaluation set; the same for all models of a search that share its
            tokenizer.
        progress: called with a line for a person.

    Raises:
        DataError: documents too short to train on.
    """

    def weights(name: str) -> Path:
        return model_folder(name, what.cache, lambda share: progress(f"base weights of {name}: {share:.0%}"))

    folder = weights(model)
    progress(f"tokens and entropies of {model}")
    tokens = _tokens(folder, what)
    entropies = _entropies(folder, tokens, what)
    reference_folder = weights(reference)
    evaluation = _evaluation(_entropies(reference_folder, _tokens(reference_folder, what), what), what)
    train = _packed(tokens, "train")
    scores = load_file(entropies / "scores.safetensors")
    groups = load_file(evaluation / "groups.safetensors")
    loss_RT = scores["validation.loss"].double()
    predicted_RT = torch.isfinite(scores["validation.entropy"])
    return Prepared(
        model=model,
        folder=folder,
        tokens=tokens,
        entropies=entropies,
        evaluation=evaluation,
        data_hash=content_digest(tokens),
        evaluation_hash=content_digest(evaluation),
        train_tokens=train.tokens,
        train_rows=len(train.token_RT),
        base_losses={
            "loss": float(loss_RT[predicted_RT].mean()),
            "high_entropy_loss": float(loss_RT[groups["validation.high"]].mean()),
            "low_entropy_loss": float(loss_RT[groups["validation.low"]].mean()),
        },
    )


def _packed(tokens: Path, split: str) -> Packed:
    tensors = load_file(tokens / "tokens.safetensors")
    return Packed(**{name: tensors[f"{split}.{name}"] for name in Packed.__dataclass_fields__})


def _tokens(folder: Path, what: Preparation) -> Path:
    tokenizer_files = sorted(folder.glob("tokenizer*"))
    key = {
        "tokenizer": digest([path.read_text(encoding="utf-8") for path in tokenizer_files]),
        "documents": digest(asdict(what.splits)),
        "sequence_length": what.sequence_length,
    }

    def build(entry: Path) -> None:
        tokenizer = load_tokenizer(folder)
        tensors: dict[str, Tensor] = {}
        for split in SPLITS:
            packed = pack(getattr(what.splits, split), tokenizer, what.sequence_length)
            if not bool(packed.droppable_RT.any()):
                raise DataError(f"data.{split}", "documents of at most one token", "documents of two tokens or more")
            tensors |= {f"{split}.{name}": tensor for name, tensor in packed.tensors().items()}
        save_file(tensors, entry / "tokens.safetensors")

    return cached(what.cache, "tokens", key, build)


def _entropies(folder: Path, tokens: Path, what: Preparation) -> Path:
    key = {"weights": content_digest(folder), "tokens": content_digest(tokens)}

    def build(entry: Path) -> None:
        model = load_model(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        tensors: dict[str, Tensor] = {}
        for split in SPLITS:
            tensors[f"{split}.entropy"], tensors[f"{split}.loss"] = score(model, _packed(tokens, split))
        save_file(tensors, entry / "scores.safetensors")

    return cached(what.cache, "entropies", key, build)


def _evaluation(reference: Path, what: Preparation) -> Path:
    key = {"entropies": content_digest(reference), "high": what.high_entropy, "low": what.low_entropy}

    def build(entry: Path) -> None:
        scores = load_file(reference / "scores.safetensors")
        tensors: dict[str, Tensor] = {}
        for split in SPLITS[1:]:
            high_RT, low_RT = evaluation_groups(scores[f"{split}.entropy"], what.high_entropy, what.low_entropy)
            tensors |= {f"{split}.high": high_RT, f"{split}.low": low_RT}
        save_file(tensors, entry / "groups.safetensors")

    return cached(what.cache, "evaluation", key, build)
