"""The memory that is planned for a run, against what a real one takes on the CPU."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from tests.memory import measured
from trainables.forward import PRECISIONS
from trainables.models.configurations import config_of
from trainables.settings import Lora, ModelSettings
from trainables.training.memory_estimate import Memory, fits_whole, memory_of, network_of, state_bytes

_LLAMA = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
    "max_position_embeddings": 1024,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
QWEN = Qwen3Config(**_LLAMA, head_dim=32, tie_word_embeddings=True)
CONFIGS = {
    "qwen3": QWEN,
    "llama": LlamaConfig(**_LLAMA, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=512, n_embd=64, n_layer=3, n_head=4, n_positions=1024, eos_token_id=0),
}
HOWS = {
    "whole": ModelSettings(),
    "checkpointed": ModelSettings(gradient_checkpointing=True),
    "lora": ModelSettings(lora=Lora(4, 8.0)),
    "lora, checkpointed": ModelSettings(lora=Lora(4, 8.0), gradient_checkpointing=True),
    "lora, nf4": ModelSettings(lora=Lora(4, 8.0), base_weights="nf4"),
}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("model", "built", "precision"),
    [
        *product(["qwen3"], ["whole", "checkpointed"], PRECISIONS),
        *product(["llama", "gpt2"], ["whole"], ["fp32"]),
        *product(["llama", "gpt2"], ["checkpointed"], ["bf16"]),
        ("gpt2", "lora", "bf16"),
        ("qwen3", "lora, checkpointed", "fp32"),
        *(("qwen3", "lora, nf4", precision) for precision in PRECISIONS),
    ],
)
def test_the_plan_is_near_what_a_run_takes(model: str, built: str, precision: str) -> None:
    config, how = CONFIGS[model], HOWS[built]
    if how.base_weights == "nf4":
        pytest.importorskip("bitsandbytes")
    planned = memory_of(
        config, how, rows=2, sequence_length=128, precision=PRECISIONS[precision], keep_best=True, device="cpu"
    )
    assert planned.total == pytest.approx(measured(config, how, 2, 128, precision, keep_best=True), rel=0.2)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("sharding", "built", "precision"), [("ddp", "whole", "bf16"), ("fsdp", "checkpointed", "fp32")]
)
def test_so_is_that_of_two_workers(sharding: str, built: str, precision: str) -> None:
    how = replace(HOWS[built], sharding=sharding)
    shape = {"rows": 2, "sequence_length": 64, "accumulation": 2, "ranks": 2}
    planned = memory_of(QWEN, how, precision=PRECISIONS[precision], sharding=sharding, device="cpu", **shape)
    assert planned.total == pytest.approx(measured(QWEN, how, precision=precision, **shape), rel=0.2)


@pytest.mark.parametrize("length", [16, 512])
def test_the_arithmetic_of_a_forward_pass_is_near_what_torch_counts(length: int) -> None:
    model = AutoModelForCausalLM.from_config(QWEN, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, length, dtype=torch.int64))
    planned = 2 * length * network_of(QWEN, HOWS["whole"]).forward_operations(length)
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.faults
def test_micro_batches_keep_their_gradients() -> None:
    planned = memory_of(
        QWEN, HOWS["whole"], rows=2, sequence_length=128, precision=torch.float32, accumulation=2, device="cpu"
    )
    assert planned.gradients >= 4 * network_of(QWEN, HOWS["whole"]).parameters
    assert planned.total == pytest.approx(measured(QWEN, HOWS["whole"], 2, 128, "fp32", accumulation=2), rel=0.2)


def _shared(sharding: str, ranks: int, rows: int = 1, accumulation: int = 1) -> Memory:
    return memory_of(
        QWEN,
        HOWS["checkpointed"],
        rows=rows,
        sequence_length=64,
        precision=torch.bfloat16,
        accumulation=accumulation,
        ranks=ranks,
        sharding=sharding,
    )


@pytest.mark.faults
def test_fsdp_shares_the_state_and_ddp_does_not() -> None:
    alone, shared, whole = _shared("ddp", 1), _shared("fsdp", 4), _shared("ddp", 4)
    assert (shared.weights, shared.moments) == (alone.weights // 4, alone.moments // 4)
    assert (whole.weights, whole.moments) == (alone.weights, alone.moments)
    # DDP exchanges gradients in buckets of their size.
    assert (alone.communication, whole.communication) == (0, alone.weights)
    assert shared.communication > 0


@pytest.mark.faults
def test_smaller_micro_batches_take_no_more_memory_with_fsdp() -> None:
    one, two = _shared("fsdp", 4, rows=8), _shared("fsdp", 4, rows=4, accumulation=2)
    assert two.total <= one.total
    # Of earlier micro-batches a rank keeps its part alone.
    assert two.gradients <= _shared("fsdp", 4, rows=4).gradients + one.weights


def test_the_state_of_a_run() -> None:
    assert state_bytes(10, 10) == 10 * 24
    assert state_bytes(10, 2) == 10 * 4 + 2 * 20
    assert state_bytes(10, 10, ranks=2) == 10 * 28
    assert state_bytes(10, 10, keep_best=False) == 10 * 20
    assert fits_whole(10, 10, device_bytes=401, ranks=2)
    assert not fits_whole(10, 10, device_bytes=399, ranks=2)


@pytest.mark.faults
def test_a_plan_needs_no_memory_for_a_model_of_eight_billion_parameters(tmp_path: Path) -> None:
    config = config_of("hub:Qwen/Qwen3-8B", tmp_path)
    how = ModelSettings(gradient_checkpointing=True)
    memory = memory_of(config, how, rows=1, sequence_length=2048, precision=torch.bfloat16)
    assert memory.weights == 4 * 8_190_735_360
    assert memory.total == sum(memory.parts().values())
