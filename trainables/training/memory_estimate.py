"""The memory that a run takes, before there is any of it: from a configuration, without weights and without a GPU.

Shapes: N tokens of a micro-batch, D hidden width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trainables.forward import ROWS
from trainables.loss import chunk_bytes_of
from trainables.models.loading import (
    add_lora,
    decoder_layers,
    embed,
    hidden_states,
    logits_of,
    quantizable,
    remove_dropout,
)
from trainables.settings import ModelSettings

_FP32, _BF16 = 4, 2
# Half a byte, and scales: 8 bits for each 64 numbers, and 32 bits for 256 of these.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# What a process takes of a GPU outside of torch's allocator: CUDA's context, kernels and libraries. An assumption: the
# context alone has about 0.5 GB.
CONTEXT_BYTES = 0.6e9
# Of a device, what the state of a run may take under sharding "auto"; the rest is for activations.
_SHARE_FOR_STATE = 0.7


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds at the moment of a run, training or evaluation, at which it holds most; data and what
    the libraries take for themselves apart.

    Attributes:
        weights: in float32, or in 4 bits where they are held so; whole or this rank's part.
        base_copy: of the weights that are trained, from which the next run starts.
        best_copy: the same of the best evaluation, which a confirmation keeps.
        moments: AdamW's two.
        gradients: of weights.
        activations: what the backward pass needs, and what a layer works with in it.
        casts: weights in bfloat16, and one of 4 bits as it is worked with.
        loss: a chunk of the logits, and gradients of the hidden states and of the output matrix.
        communication: whole weights and gradients that FSDP gathers, or the buckets that DDP exchanges gradients in.
    """

    weights: int
    base_copy: int
    best_copy: int
    moments: int
    gradients: int
    activations: int
    casts: int
    loss: int
    communication: int

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Network:
    """What a model's memory depends on.

    Attributes:
        parameters, trained: counts; tied weights count once.
        quantized: of the parameters, those that are held in 4 bits.
        linear: of these, those of the largest layer; 0 where there are none.
        embedding, output: parameters of the two matrices; 0 where one is frozen.
        root: parameters outside of the decoder layers.
        layer: parameters of the largest layer.
        tied: whether the two matrices are one.
        words, width: V and D.
        context: the longest sequence that the model was made for, in tokens; None if it does not say.
        capped: whether its logits are capped.
        attended: the width of the queries of a layer, of all layers together.
    """

    parameters: int
    trained: int
    quantized: int
    linear: int
    embedding: int
    output: int
    root: int
    layer: int
    tied: bool
    words: int
    width: int
    context: int | None
    capped: bool
    attended: int

    def forward_operations(self, sequence_length: int) -> int:
        """Floating-point operations of a forward pass, for each token: two for each parameter, and as many for each
        number of a query with each key and with each value of the row, which a mask hides but does not spare."""
        return 2 * self.parameters + 4 * sequence_length * self.attended


@dataclass(frozen=True)
class _Saved:
    """What autograd keeps of a forward pass for the backward pass, in bytes.

    Attributes:
        layers: for each decoder layer, without `casts`.
        outside: of the layers.
        casts: for each layer, weights in bfloat16.
        widest: of the largest tensor of a layer that has a gradient.
    """

    layers: list[int]
    outside: int
    casts: list[int]
    widest: int


def bytes_for_torch(share: float, device_bytes: float) -> float:
    """Of a GPU with so many bytes, what torch's allocator may take in a process that has a share of it; 0 or less where
    the share is too small for CUDA itself."""
    return share * device_bytes - CONTEXT_BYTES


def state_bytes(parameters: int, trained: int, ranks: int = 1, keep_best: bool = True, quantized: int = 0) -> int:
    """Bytes that do not depend on the data, each rank with the whole model: weights, their base copy, for a
    confirmation the best ones, AdamW's two moments, gradients, and with several ranks the buckets of their exchange."""
    copies = 4 + keep_best + (ranks > 1)
    return _weight_bytes(parameters, quantized) + _FP32 * copies * trained


def _weight_bytes(parameters: int, quantized: int) -> int:
    return _FP32 * (parameters - quantized) + int(_NF4 * quantized)


def checkpoint_bytes(trained: int, keep_best: bool) -> int:
    """Bytes of a run's checkpoint: of the weights that are trained, AdamW's two moments, and for a confirmation the
    best ones; entropies that are computed anew apart."""
    return _FP32 * (4 if keep_best else 3) * trained


def fits_whole(parameters: int, trained: int, device_bytes: float, ranks: int) -> bool:
    """Whether each rank can hold the whole model, and activations: what sharding "auto" goes by."""
    return state_bytes(parameters, trained, ranks) < _SHARE_FOR_STATE * device_bytes


def network_of(config: PreTrainedConfig, how: ModelSettings) -> Network:
    """Counted on the meta device.

    Raises:
        ModelError: adapters on layers that it does not have, or weights that cannot be held in 4 bits.
    """
    return _network(*_built(config, how))


def _network(model: PreTrainedModel, quantized: Sequence[int]) -> Network:
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert isinstance(embedding, Tensor)
    assert isinstance(output, Tensor)
    layers = [_count(layer) for layer in decoder_layers(model)]
    parameters = _count(model)
    text = model.config.get_text_config()
    return Network(
        parameters=parameters,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        quantized=sum(quantized),
        linear=max(quantized, default=0),
        embedding=embedding.numel() if embedding.requires_grad else 0,
        output=output.numel() if output.requires_grad else 0,
        root=parameters - sum(layers),
        layer=max(layers),
        tied=embedding is output,
        words=output.shape[0],
        width=output.shape[1],
        context=getattr(text, "max_position_embeddings", None),
        capped=logits_of(model).soft_cap is not None,
        attended=len(layers) * _query_width(text),
    )


def _query_width(config: PreTrainedConfig) -> int:
    """Of a layer, all heads together; 0 where the configuration does not tell, as without attention."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return 0
    width = getattr(config, "head_dim", None)
    return heads * width if width else int(config.hidden_size)


def memory_of(
    config: PreTrainedConfig,
    how: ModelSettings,
    *,
    rows: int,
    sequence_length: int,
    precision: torch.dtype,
    accumulation: int = 1,
    ranks: int = 1,
    sharding: str = "ddp",
    keep_best: bool = False,
    device: str = "cuda",
) -> Memory:
    """The memory of one rank of a run.

    Args:
        rows: of a micro-batch on this rank.
        precision: of the forward and backward passes.
        accumulation: micro-batches of this rank in an optimizer step.
        sharding: "ddp" or "fsdp".
        keep_best: as for a confirmation.
        device: the kind of device, "cuda" or "cpu": how large a chunk of the logits is.
    """
    model, quantized = _built(config, how)
    network, saved = _network(model, quantized), _measure_saved(model, rows, sequence_length, precision)
    if quantized:
        # They are made anew in the backward pass.
        saved = replace(saved, casts=[0] * len(saved.casts))
    sharded = sharding == "fsdp" and ranks > 1
    parts = ranks if sharded else 1
    trained = _FP32 * network.trained // parts
    half = precision == torch.bfloat16
    rank = _RankPeaks(network, saved, how, rows, sequence_length, half, accumulation, ranks, sharded, device)
    peak = max((*rank.in_training(), *rank.in_evaluation()), key=lambda held: sum(held.values()))
    return Memory(
        weights=_weight_bytes(network.parameters, network.quantized) // parts,
        base_copy=trained,
        best_copy=trained if keep_best else 0,
        moments=2 * trained,
        **peak,
    )


@dataclass(frozen=True)
class _RankPeaks:
    """What one rank holds for a while, as fields of Memory, at each point of a run that may be that of most memory."""

    network: Network
    saved: _Saved
    how: ModelSettings
    rows: int
    sequence_length: int
    half: bool
    accumulation: int
    ranks: int
    sharded: bool
    device: str

    @property
    def _width(self) -> int:
        return _BF16 if self.half else _FP32

    @property
    def _copies(self) -> int:
        """Of the hidden states, in the loss."""
        return 3 if self.half else 2

    @property
    def _output_cast(self) -> int:
        return _BF16 * self.network.words * self.network.width if self.half else 0

    @property
    def _forward_casts(self) -> int:
        # Autocast keeps the casts of weights that are trained to the end of a forward pass.
        return sum(self.saved.casts) if self.how.lora is None else max(self.saved.casts)

    def in_training(self) -> Iterator[dict[str, int]]:
        network, saved = self.network, self.saved
        hidden = self.rows * self.sequence_length * network.width
        whole = _FP32 * network.trained
        output, embedding = _FP32 * network.output, _FP32 * network.embedding
        # After a micro-batch: with FSDP a rank keeps its part.
        gradients = whole // self.ranks if self.sharded else whole
        earlier = gradients if self.accumulation > 1 else 0
        layer, layer_casts, casts = max(saved.layers), max(saved.casts), sum(saved.casts)
        backward = 2 * _FP32 * hidden + 2 * saved.widest
        if self.how.gradient_checkpointing:
            kept = len(saved.layers) * _FP32 * hidden + saved.outside
            # The end of the forward pass, then the last layer, which is computed again.
            yield self._held(earlier, kept + layer, self._forward_casts)
            yield self._held(earlier + output, kept + layer + backward, layer_casts)
            casts = 0
        else:
            kept = sum(saved.layers) + saved.outside
            yield self._held(earlier + output, kept + 2 * _FP32 * hidden, casts)
        # The loss's backward pass: a chunk of logits, copies and gradient of the hidden states, and the output matrix's
        # gradient, which is converted in the end.
        loss = self._chunk(self.rows * self.sequence_length) + hidden * (_FP32 + self._copies * self._width)
        loss += self._width * network.output
        converted = output + _BF16 * network.output if self.half else 0
        yield self._held(earlier, kept, casts + self._output_cast, max(loss, converted))
        # The first layer's: all gradients. The one of an input embedding is made whole before it is added to another.
        gradients += embedding * ((earlier > 0 and not self.sharded) + network.tied)
        unsharded = _FP32 * (network.root + network.layer) if self.sharded and self.how.lora is None else 0
        yield self._held(gradients, layer + backward, layer_casts, unsharded=unsharded)

    def in_evaluation(self) -> Iterator[dict[str, int]]:
        """A layer, then the loss."""
        positions = ROWS * self.sequence_length
        held_out = positions * self.network.width
        wide = (3 if self.how.lora is None else 5) * self.saved.widest * ROWS // self.rows
        # The mask of attention, of booleans and as it is added.
        mask = positions * self.sequence_length * (1 + self._width)
        yield self._held(0, 2 * _FP32 * held_out + wide + mask, self._forward_casts)
        loss = self._chunk(positions) + held_out * self._copies * self._width
        yield self._held(0, _FP32 * held_out, self._output_cast, loss)

    def _held(
        self, gradients: int, activations: int, casts: int, loss: int = 0, *, unsharded: int = 0
    ) -> dict[str, int]:
        network = self.network
        # Of the layers, the one at work and the next; each comes in a buffer that is copied from.
        gathered = _FP32 * (network.root + 3 * network.layer) if self.sharded else 0
        buckets = _FP32 * network.trained if self.ranks > 1 and not self.sharded else 0
        return {
            "gradients": gradients,
            "activations": activations,
            "casts": casts + (_FP32 + _BF16 * self.half) * network.linear,
            "loss": loss,
            "communication": gathered + buckets + unsharded,
        }

    def _chunk(self, positions: int) -> int:
        """A chunk of the logits, and what is made of it."""
        size, most = chunk_bytes_of(self.device, positions), _FP32 * positions * self.network.words
        size, several = min(size, most), size < most
        one = size + (size // 2 if self.half else 0)
        # The chunk before is there until the next one is made.
        return one * (2 if several else 1) + (size if self.network.capped else 0)


def _built(config: PreTrainedConfig, how: ModelSettings) -> tuple[PreTrainedModel, list[int]]:
    """A model on the meta device, with full weights; and the parameters of each layer whose weights are to have 4
    bits."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        remove_dropout(model)
        held = quantizable(model).values() if how.base_weights == "nf4" else ()
        quantized = [linear.weight.numel() for linear in held]
        if how.lora is not None:
            add_lora(model, how.lora)
    return model, quantized


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _put_on_fake_cpu(model: PreTrainedModel) -> None:
    """In place of the tensors of the meta device, which autocast does not know."""
    fakes: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, tensor in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            fake = nn.Parameter(torch.empty(tensor.shape), tensor.requires_grad)
            module.register_parameter(name, fakes.setdefault(tensor, fake))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _measure_saved(model: PreTrainedModel, rows: int, sequence_length: int, precision: torch.dtype) -> _Saved:
    """Counted in a forward pass on tensors that have sizes but no memory."""
    half = precision == torch.bfloat16
    with FakeTensorMode():
        _put_on_fake_cpu(model.train())
        layers = decoder_layers(model)
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        kept: dict[int, tuple[int, Tensor]] = {}
        at = -1

        def entered(index: int) -> Any:
            def hook(*_: object) -> None:
                nonlocal at
                at = index

            return hook

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()._cdata
            if storage not in own:
                # The tensor is held, so that no other one gets its address.
                kept.setdefault(storage, (at, tensor))
            return tensor

        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(entered(index))
            layer.register_forward_hook(entered(-1))
        token_BT = torch.zeros(rows, sequence_length, dtype=torch.int64)
        position_BT = torch.arange(sequence_length).expand(rows, -1)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=precision, enabled=half),
        ):
            hidden_states(model, embed(model, token_BT), position_BT)
        casts = [sum(_BF16 * p.numel() for p in layer.parameters() if p.ndim > 1) * half for layer in layers]
        sizes = [0] * (len(layers) + 1)
        widest = 0
        for index, tensor in kept.values():
            size = tensor.untyped_storage().nbytes()
            sizes[index] += size
            if index >= 0 and tensor.requires_grad:
                widest = max(widest, size)
    return _Saved([size - cast for size, cast in zip(sizes, casts, strict=False)], sizes[-1], casts, widest)
