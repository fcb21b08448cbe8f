"""Causal language models: loading them, the parts of their forward pass, adapters, and writing them.

Shapes: B rows, T positions, D hidden width, V vocabulary.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    masking_utils,
)
from transformers.utils import logging

from trainables.errors import ModelError, nearest_word, one_line
from trainables.loss import Logits
from trainables.settings import Lora


def _documents(position_ids: Tensor) -> Tensor:
    """The index of each token's document in its row, by positions that do not follow one another."""
    return torch.diff(position_ids, prepend=position_ids[:, :1] - 1).ne(1).cumsum(-1)


# transformers' own asks the device whether any row has more than one, and would wait in each forward pass for all that
# the device still has to do. pyproject.toml holds transformers to the versions that this was tested with.
masking_utils.find_packed_sequence_indices = _documents

# The folder of the adapters in that of the model that they are merged into.
ADAPTER = "adapter"
# Files of a tokenizer.
_TOKENIZER = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken")
# What changes a tokenizer, beside its own files.
_TOKENS = ("added_tokens.json", "special_tokens_map.json")
# What a model is used with, beside its weights, its configuration and its tokenizer.
_USE = ("generation_config.json", "chat_template*", "additional_chat_templates/*")
_CHAT_TEMPLATE = "chat_template.jinja"
# Characters of what a reader of transformers says.
_LONGEST_REASON = 200


def load_model(folder: Path, device: torch.device) -> PreTrainedModel:
    """The model in `folder`, in float32, without running code from it, and without any dropout of its own.

    Raises:
        ModelError: it cannot be read, or some of its weights are missing.
    """
    logging.disable_progress_bar()
    # What it warns of is refused here.
    logging.set_verbosity_error()
    _refuse_kernels(folder)
    with readable(folder, "a folder with a causal language model that transformers can read"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model: PreTrainedModel
    model, report = loaded
    unread = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if unread:
        given = f"{folder}, where {len(unread)} weights are missing or have another shape"
        raise ModelError("models", given, f"a folder with all weights of its config.json ({unread[0]} among them)")
    if packed := next((n for n, p in model.named_parameters() if p.dtype != torch.float32), None):
        raise ModelError("models", str(folder), f"a model whose weights are not quantized ({packed} is)")
    model.to(device)  # type: ignore[arg-type]
    if device.type == "cpu":
        # Until then they are read from the file when they are used, and it may have changed.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    remove_dropout(model)
    return model


def remove_dropout(model: PreTrainedModel) -> None:
    """Sets all dropout of the model's own to 0."""
    set_attention_dropout(model, 0.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _refuse_kernels(folder: Path) -> None:
    with readable(folder, "a folder with a causal language model that transformers can read"):
        kernels = _kernels(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if kernels:
        allowed = f"a model without attention kernels of the hub, which are code (config.json names {kernels[0]})"
        raise ModelError("models", str(folder), allowed)


def _kernels(config: Any) -> list[str]:
    """The hub's kernels, as in owner/name, that a configuration wants attention to be computed with: transformers would
    download and run them."""
    if not isinstance(config, dict):
        return []
    own = [json.dumps(value) for key, value in config.items() if "attn_implementation" in key and "/" in str(value)]
    return own + [name for value in config.values() for name in _kernels(value)]


@contextlib.contextmanager
def readable(model: object, allowed: str) -> Iterator[None]:
    """Turns what transformers raises of a model, by its name or its folder, into one line."""
    try:
        yield
    except ModelError:
        raise
    # The readers of configurations, weights and tokenizers raise what they like: KeyError, SafetensorError ...
    except Exception as error:
        reason = _cure(model, error) or one_line(" ".join(str(error).split()), _LONGEST_REASON)
        raise ModelError("models", str(model), f"{allowed} ({reason or type(error).__name__})") from error


def _cure(model: object, error: Exception) -> str | None:
    """What is wrong with a model, where what transformers advises cannot be done here; None if that is not known."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run; name a model whose code is in transformers"
    config: Any = None
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((Path(str(model)) / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return None
    if quantized := config.get("quantization_config"):
        how = quantized.get("quant_method") if isinstance(quantized, dict) else None
        with_what = f", with {one_line(str(how))}" if how else ""
        return f"its weights are quantized{with_what}; name the model that was quantized"
    if isinstance(kind := config.get("model_type"), str) and kind not in CONFIG_MAPPING:
        return f"transformers {version('transformers')} knows no model_type {one_line(kind)}; name another model"
    return None


def set_attention_dropout(model: PreTrainedModel, share: float) -> int:
    """Sets the dropout of attention weights. Returns how many attention modules have one."""
    found = 0
    for module in model.modules():
        # GPT-2 and its like have a module for it, Llama and its like a number.
        if isinstance(dropout := getattr(module, "attn_dropout", None), nn.Dropout):
            dropout.p = share
            found += 1
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share  # type: ignore[assignment]
            found += 1
    return found


def add_lora(model: PreTrainedModel, lora: Lora) -> None:
    """Puts low-rank adapters on linear layers of the decoder, in place; only they are trained.

    An adapter begins as the zero map, from the same random numbers in every process. Its dropout is left to
    trainables.noise.

    Raises:
        ModelError: the decoder has no linear layers of these names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rpartition(".")[2] for name, m in model.base_model.named_modules() if _is_linear(m)}
    for name in lora.target_modules or ():
        if name not in names:
            allowed = f"linear layers of the decoder of {model.config.model_type}: {', '.join(sorted(names))}"
            raise ModelError("training.lora.target_modules", f"'{name}'", allowed, nearest_word(name, names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(
            r=lora.rank,
            # peft divides it by the rank: it need not be an integer.
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=sorted(lora.target_modules or names),
            task_type="CAUSAL_LM",
            fan_in_fan_out=model.config.model_type == "gpt2",
        )
        inject_adapter_in_model(config, model)
    # For whoever trains the saved adapters on; here trainables.noise does it.
    config.lora_dropout = lora.dropout
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def quantizable(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of the decoder, by name.

    Raises:
        ModelError: there is none, or the package that quantizes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        install = "pip install -c constraints.txt -e '.[qlora]'"
        problem = f"nf4 needs the package bitsandbytes, which is not installed; run {install}"
        raise ModelError("training.base_weights", problem)
    decoder = set(model.base_model.modules())
    found = {name: m for name, m in model.named_modules() if m in decoder and isinstance(m, nn.Linear)}
    if not found:
        allowed = f"full: {model.config.model_type} has no linear layers of torch"
        raise ModelError("training.base_weights", "nf4", allowed)
    return found


def quantize(model: PreTrainedModel, device: torch.device) -> None:
    """Holds the weights of the decoder's linear layers in 4 bits, in place, and moves the model to the device.

    The numbers are NF4's, in blocks of 64 whose scales have 8 bits (double quantization, arXiv 2305.14314). Each is
    quantized on the device, so that never more than one layer is there in float32.
    """
    linears = quantizable(model)
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, linear in linears.items():
        held = Linear4bit(linear.in_features, linear.out_features, quant_type="nf4", device="meta")
        held.bias = linear.bias
        held.weight = Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4").to(device)
        model.set_submodule(name, held)
    model.to(device)  # type: ignore[arg-type]


def _dequantize(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state with the weights of 4 bits as they are worked with, in float32."""
    held = {f"{n}.weight": m.weight for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    if not held:
        return weights
    from bitsandbytes.functional import dequantize_4bit

    full = {name: dequantize_4bit(weight.data, weight.quant_state).cpu() for name, weight in held.items()}
    # Their scales stand beside them, as in a.weight.absmax.
    return {n: x for n, x in weights.items() if f"{n.partition('.weight.')[0]}.weight" not in full} | full


def _is_linear(module: nn.Module) -> bool:
    # GPT-2 calls its linear layers Conv1D.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that make the tokenizer in a model's folder."""
    return sorted({path for pattern in (*_TOKENIZER, *_TOKENS) for path in folder.glob(pattern) if path.is_file()})


def chat_templates(folder: Path) -> list[Path]:
    """The files of chat templates in a model's folder; its tokenizer may have one within."""
    return sorted(path for pattern in _USE[1:] for path in folder.glob(pattern) if path.is_file())


def copy_what_is_used_with(base: Path, folder: Path) -> None:
    """Copies what the model in `base` is used with, such as stop tokens and chat templates, as it stands there."""
    for path in [*tokenizer_files(base), *(path for pattern in _USE for path in base.glob(pattern) if path.is_file())]:
        target = folder / path.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def save_model(
    model: PreTrainedModel,
    weights: dict[str, Tensor],
    base: Path,
    folder: Path,
    chat_template: str | None = None,
    published: str | None = None,
) -> None:
    """Writes a model folder that AutoModelForCausalLM.from_pretrained loads.

    Args:
        weights: the model's state; adapters are merged into the layers that they belong to, and also written alone,
            into the folder `adapter` in it, as peft.PeftModel.from_pretrained loads them.
        base: the folder that the model was loaded from; what it is used with is kept.
        chat_template: the one that the model was trained with, if it is not that of `base`.
        published: the base model on the hub, as in owner/name@revision, for whoever loads the adapters; None: the
            folder.
    """
    weights = _dequantize(model, weights)
    merged = {name: tensor for name, tensor in weights.items() if "lora_" not in name}
    for name, down in weights.items():
        if "lora_A" not in name:
            continue
        layer = name.partition(".lora_A")[0]
        up = weights[name.replace("lora_A", "lora_B")]
        module = model.get_submodule(layer)
        product = module.scaling["default"] * up @ down  # type: ignore[index]
        merged[f"{layer}.base_layer.weight"] = weights[f"{layer}.base_layer.weight"] + (
            product.T if getattr(module, "fan_in_fan_out", False) else product
        )
    state = {name.replace(".base_layer", ""): tensor.detach().cpu().contiguous() for name, tensor in merged.items()}
    empty = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    empty.load_state_dict(state)
    empty.save_pretrained(folder)
    copy_what_is_used_with(base, folder)
    if chat_template is not None:
        # transformers takes it before what the tokenizer's own files say.
        (folder / _CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
    if len(merged) < len(weights):
        _save_adapters(model, weights, published or str(base), folder / ADAPTER)


def _save_adapters(model: PreTrainedModel, weights: dict[str, Tensor], base: str, folder: Path) -> None:
    from peft import LoraConfig

    config: Any = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    repository, _, revision = base.partition("@")
    saved = replace(config, base_model_name_or_path=repository, revision=revision or None, inference_mode=True)
    saved.save_pretrained(str(folder))
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items() if "lora_" in name}
    # As peft calls them: below its own model, without the adapter's name.
    named = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in own.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, without running code from it.

    Raises:
        ModelError: there is none, or it has no end-of-sequence token.
    """
    # Without any file of one, transformers makes up a tokenizer that knows no text.
    if not any(path for pattern in _TOKENIZER for path in folder.glob(pattern)):
        raise ModelError("models", f"{folder} has no tokenizer; name a folder with one")
    for path in chat_templates(folder):
        with readable(folder, f"a folder with a tokenizer whose {path.name} is UTF-8 text"):
            path.read_text(encoding="utf-8")
    with readable(folder, "a folder with a tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        # Some settings are looked at when it is used.
        tokenizer(["a b"])
    # A token of another text is the unknown one, in the place of none.
    end = tokenizer.eos_token_id
    if end is None or tokenizer.convert_ids_to_tokens(end) != tokenizer.eos_token:
        raise ModelError(
            "models", f"the tokenizer of {folder} has no end-of-sequence token; name a model whose has one"
        )
    return tokenizer


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the model in `folder`, without running code from it.

    Raises:
        ModelError: it cannot be read, or needs code.
    """
    with readable(folder, "a folder with the configuration of a model that transformers can read"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    _refuse_kernels(folder)
    return config


def context_length(folder: Path) -> int | None:
    """The longest sequence that the model in `folder` was made for, in tokens; None if it does not say.

    Raises:
        ModelError: its configuration cannot be read, or needs code.
    """
    length: int | None = getattr(read_config(folder).get_text_config(), "max_position_embeddings", None)
    return length


def words_of(folder: Path) -> int | None:
    """How many tokens the model in `folder` has embeddings of; None if its configuration does not say.

    Raises:
        ModelError: its configuration cannot be read, or needs code.
    """
    words: int | None = getattr(read_config(folder).get_text_config(), "vocab_size", None)
    return words


def embed(model: PreTrainedModel, token_BT: Tensor) -> Tensor:
    """Input embeddings, BTD."""
    embeddings: Tensor = model.get_input_embeddings()(token_BT)
    return embeddings


def embeddings_of(model: PreTrainedModel) -> int:
    """How many tokens the model has embeddings of."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return len(weight)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of the decoder: the longest list of modules."""
    return max((m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)), key=len)


def output_matrix(model: PreTrainedModel) -> Tensor:
    """The unembedding matrix, VD."""
    output = model.get_output_embeddings()
    assert isinstance(output, nn.Linear)
    return output.weight


def logits_of(model: PreTrainedModel) -> Logits:
    """How the model makes logits of its hidden states and the output matrix."""
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Logits(scale=float(scale), soft_cap=getattr(config, "final_logit_softcapping", None))


def hidden_states(
    model: PreTrainedModel, embedding_BTD: Tensor, position_BT: Tensor, documents: Tensor | None = None
) -> Tensor:
    """Final hidden states, BTD, where each token attends only to its own document's tokens up to itself.

    Args:
        position_BT: each token's index in its document; transformers takes a position that is not one more than the one
            before it for the start of another document.
        documents: for a model that attends by document, as `models.document_attention` makes it.
    """
    output: Tensor = model.base_model(
        inputs_embeds=embedding_BTD, position_ids=position_BT, attention_mask=documents, use_cache=False
    ).last_hidden_state
    return output


@torch.no_grad()
def check_forward(model: PreTrainedModel, packed: bool) -> None:
    """Compares `hidden_states` and the output matrix with the model's own logits on a few tokens.

    Args:
        packed: whether documents will share rows.

    Raises:
        ModelError: the architecture makes its logits in another way, or looks across the documents of a packed row.
    """
    kind, device = model.config.model_type, next(model.parameters()).device
    training = model.training
    model.eval()
    words = min(model.config.get_text_config().vocab_size, 1000)
    token_1T = (torch.arange(12, device=device) * 37 % words).unsqueeze(0)
    matrix, how = None, Logits()
    with contextlib.suppress(AssertionError):
        matrix, how = output_matrix(model), logits_of(model)
    if matrix is None:
        raise ModelError("models", f"the architecture {kind}", "one with a linear output layer")

    def ours(position_1T: Tensor) -> Tensor:
        # Two rows: attention kernels may know the documents of a single one alone.
        hidden_2TD = hidden_states(model, embed(model, token_1T.expand(2, -1)), position_1T.expand(2, -1))
        logit_2TV = (hidden_2TD @ matrix.T).float() * how.scale
        return logit_2TV if how.soft_cap is None else how.soft_cap * torch.tanh(logit_2TV / how.soft_cap)

    def theirs(part: slice) -> Tensor:
        logit_TV: Tensor = model(input_ids=token_1T[:, part], use_cache=False).logits[0].float()
        return logit_TV

    index_T = torch.arange(12, device=device)
    expected = theirs(slice(None))
    # A model that is loaded in half precision makes its logits in it.
    tolerance = (1e-3 if matrix.dtype == torch.float32 else 3e-2) * float(expected.abs().max())
    if float((ours(index_T.unsqueeze(0)) - expected).abs().max()) > tolerance:
        raise ModelError("models", f"the architecture {kind}", "one whose logits are hidden states times a matrix")
    if packed:
        both = torch.cat([theirs(slice(0, 5)), theirs(slice(5, 12))])
        restarted_1T = torch.where(index_T < 5, index_T, index_T - 5).unsqueeze(0)
        if float((ours(restarted_1T) - both).abs().max()) > tolerance:
            given = f"packed, with the architecture {kind}, which looks across documents"
            raise ModelError("training.layout", given, "padded")
    model.train(training)
