"""The sizes of the built-in models. Nothing here imports torch, which takes seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Qwen3 model and of its pretraining; the embeddings are tied to the output."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    pretrain_tokens: int
    vocabulary: int = 2048
    context: int = 1024
    head_dim: int = 32

    @property
    def parameters(self) -> int:
        """Parameters of the model: of embeddings, of each layer, and of the last norm."""
        # Queries and outputs have all heads, keys and values half of them.
        attention = 3 * self.hidden_size * self.heads * self.head_dim + 2 * self.head_dim
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return self.vocabulary * self.hidden_size + self.layers * layer + self.hidden_size


ARCHITECTURES = {
    "builtin/nano": Architecture(64, 3, 4, 192, pretrain_tokens=300_000),
    "builtin/micro": Architecture(128, 4, 4, 384, pretrain_tokens=300_000),
}
