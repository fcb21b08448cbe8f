"""A Trainer with a schedule trains as this project does."""

import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.multiprocessing
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    Gemma2Config,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    Trainer,
)
from transformers.models.auto import AutoModelForCausalLM

from tests import tiny
from tests.trainers import arguments, dataset_of, our_training, packed_like, sft_trainer, trainer, values_of
from trainables.curriculum import Constant, Linear, Sigmoid
from trainables.errors import ConfigError, DataError
from trainables.forward import Forward
from trainables.models.loading import load_model
from trainables.parallel import leave_group
from trainables.preparation.dataset_scoring import score_under_model
from trainables.preparation.prepare import prepare
from trainables.preparation.prepared import Prepared
from trainables.settings import EntroDrop
from trainables.trainer import COLUMN, EntroDropTrainer
from trainables.training.warm_model import WarmModel

LINEAR = tiny.entrodrop(Linear())
# Changes of the settings.
RUNS: dict[str, dict[str, Any]] = {
    "none": {},
    "input": {"entrodrop": tiny.entrodrop(Sigmoid(0.3, 8.0))},
    "mask token": {"entrodrop": tiny.entrodrop(Linear(), presentation="input_mask_token")},
    "random token": {"entrodrop": tiny.entrodrop(Linear(), presentation="input_random_token")},
    "loss, accumulated": {"entrodrop": tiny.entrodrop(Linear(), presentation="loss"), "accumulation": 2},
    "smoothed": {"entrodrop": LINEAR, "label_smoothing": 0.1},
    "random, a last batch that is not full": {"entrodrop": replace(LINEAR, tokens="random"), "batch_size": 5},
    "high entropy, another seed": {"entrodrop": replace(LINEAR, tokens="high_entropy"), "seed": 7},
}
each_run = pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs TRL: pip install trl")


@pytest.fixture(scope="module")
def padded(cache: Path) -> WarmModel:
    return WarmModel(tiny.prepared(cache, layout="padded"), tiny.CPU)


@pytest.fixture(scope="module")
def expected(padded: WarmModel) -> Any:
    return our_training(padded, tiny.settings(entrodrop=LINEAR))


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(cache))


def tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    tokenizer = tiny.tokenizer()
    for name, value in {"pad_token": "<end>", **changes}.items():
        setattr(tokenizer, name, value)
    return tokenizer


def made(warm: WarmModel, folder: Path, **values: Any) -> Any:
    """A trainer of the model of `warm` on its training rows."""
    settings = values.pop("settings", tiny.settings(entrodrop=LINEAR))
    values = {"model": load_model(warm.prepared.folder, tiny.CPU), "tokenizer": tokenizer(), **values}
    return trainer(warm, settings, folder, **values)


def sft(warm: WarmModel, folder: Path, data: Dataset, **values: Any) -> Any:
    kind, config = sft_trainer()
    changes = {"kind": config, "max_length": 48, "bf16": False, **values.pop("changes", {})}
    return made(warm, folder, data=data, kind=kind, changes=changes, **values)


def texts() -> Dataset:
    return Dataset.from_list([{"text": document.text} for document in tiny.splits().train])


def trains_as(theirs: Any, expected: Any) -> None:
    theirs.train()
    losses, dropped = expected
    assert theirs.dropped == dropped
    assert theirs.losses == pytest.approx(losses, abs=1e-5)


@each_run
@pytest.mark.faults
def test_a_trainer_trains_as_we_do(changes: dict[str, Any], padded: WarmModel, tmp_path: Path) -> None:
    settings = tiny.settings(**changes)
    losses, dropped = our_training(padded, settings)
    assert not settings.entrodrop or sum(map(len, dropped)) > 100
    trains_as(made(padded, tmp_path, settings=settings), (losses, dropped or [set()] * len(losses)))


@needs_trl
@pytest.mark.faults
@each_run
def test_an_sft_trainer_trains_as_we_do(changes: dict[str, Any], padded: WarmModel, tmp_path: Path) -> None:
    settings = tiny.settings(**changes)
    losses, dropped = our_training(padded, settings)
    trains_as(sft(padded, tmp_path, texts(), settings=settings), (losses, dropped or [set()] * len(losses)))


def padded_before(warm: WarmModel, left: bool) -> Dataset:
    def row(values: dict[str, Any]) -> dict[str, Any]:
        missing = 48 - len(values["input_ids"])
        mask = [1] * len(values["input_ids"])
        columns = {
            "input_ids": (values["input_ids"], 0),
            "labels": (values["labels"], -100),
            "attention_mask": (mask, 0),
        }
        return {n: [fill] * missing + v if left else v + [fill] * missing for n, (v, fill) in columns.items()}

    return dataset_of(warm.prepared.packed("train")).map(row)


WAYS: dict[str, Any] = {
    "padded on the left": lambda _: {"tokenizer": tokenizer(padding_side="left")},
    "samples in one row": lambda _: {"data_collator": DataCollatorWithFlattening()},
    "two workers": lambda _: {"changes": {"dataloader_num_workers": 2}},
    "all columns": lambda _: {"changes": {"remove_unused_columns": False}},
    "padded before": lambda warm: {"data": padded_before(warm, left=False)},
    "padded before, on the left": lambda warm: {"data": padded_before(warm, left=True)},
    "tensors": lambda warm: {"data": dataset_of(warm.prepared.packed("train")).with_format("torch")},
    "activation checkpointing": lambda _: {"changes": {"activation_checkpointing": True}},
    "evaluated": lambda warm: {
        "changes": {"eval_strategy": "steps", "eval_steps": 1},
        "eval_dataset": dataset_of(warm.prepared.packed("validation")),
    },
}


@pytest.mark.faults
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_how_batches_are_made_changes_nothing(way: Any, padded: WarmModel, expected: Any, tmp_path: Path) -> None:
    trains_as(made(padded, tmp_path, **way(padded)), expected)


@needs_trl
@pytest.mark.faults
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_rows_that_trl_packs(strategy: str, padded: WarmModel, cache: Path, tmp_path: Path) -> None:
    theirs = sft(padded, tmp_path, texts(), changes={"packing": True, "packing_strategy": strategy})
    if strategy == "wrapped":
        assert all(row[COLUMN][0] == -1 for row in theirs.train_dataset)
        theirs.train()
        assert all(map(math.isfinite, theirs.losses))
        return
    with packed_like(theirs.train_dataset, dataset_of(padded.prepared.packed("train"))):
        warm = WarmModel(tiny.prepared(cache / strategy), tiny.CPU)
    assert warm.rows == len(theirs.train_dataset) < padded.rows
    # Fewer rows are fewer steps of the learning rate.
    theirs = sft(warm, tmp_path, texts(), changes={"packing": True, "packing_strategy": strategy})
    trains_as(theirs, our_training(warm, tiny.settings(entrodrop=LINEAR)))


@needs_trl
@pytest.mark.faults
def test_samples_that_are_longer_than_a_row_are_cut(cache: Path, tmp_path: Path) -> None:
    warm = WarmModel(tiny.prepared(cache, layout="padded", sequence_length=10), tiny.CPU)
    assert warm.prepared.cut["train"]
    theirs = sft(warm, tmp_path, texts(), changes={"max_length": 10})
    trains_as(theirs, our_training(warm, tiny.settings(entrodrop=LINEAR)))


@needs_trl
@pytest.mark.faults
def test_the_first_token_of_a_part_of_a_sample_is_not_dropped(padded: WarmModel, tmp_path: Path) -> None:
    changes = {"packing": True, "packing_strategy": "bfd_split", "max_length": 7}
    settings = tiny.settings(entrodrop=EntroDrop(1.0, Constant(), quantile=1.0))
    theirs = sft(padded, tmp_path, texts(), settings=settings, changes=changes)
    for row in theirs.train_dataset:
        starts = [0, *torch.tensor(row["seq_lengths"]).cumsum(0).tolist()[:-1]]
        assert all(row[COLUMN][start] == -1 for start in starts)
    theirs.train()
    assert all(map(math.isfinite, theirs.losses))


@needs_trl
@pytest.mark.faults
def test_only_completions_are_dropped(cache: Path, tmp_path: Path) -> None:
    splits = tiny.splits()
    halves = [document.text.split(" . ", 1) for document in splits.train]
    with_prompts = replace(
        splits,
        train=tuple(
            replace(document, prompt=f"{first} . ", text=rest)
            for document, (first, rest) in zip(splits.train, halves, strict=True)
        ),
    )
    warm = WarmModel(tiny.prepared(cache, layout="padded", splits=with_prompts, train_on_prompt=False), tiny.CPU)
    expected = our_training(warm, tiny.settings(entrodrop=LINEAR))
    data = Dataset.from_list([{"prompt": f"{first} . ", "completion": rest} for first, rest in halves])
    trains_as(sft(warm, tmp_path / "trl", data), expected)
    trains_as(made(warm, tmp_path / "trainer"), expected)


TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }} <end>{% endgeneration %}{% else %}{{ message.content }}{% endif %} {% endfor %}"
)


@needs_trl
@pytest.mark.faults
def test_only_the_assistant_is_dropped(padded: WarmModel, tmp_path: Path) -> None:
    turns = [text.split(" . ", 1) for text in texts()["text"]]
    messages = [
        [{"role": "user", "content": first}, {"role": "assistant", "content": rest}] * 2 for first, rest in turns
    ]
    settings = tiny.settings(entrodrop=EntroDrop(1.0, Constant(), quantile=1.0), epochs=1)
    data = Dataset.from_dict({"messages": messages})
    changes = {"assistant_only_loss": True, "max_length": 96}
    theirs = sft(
        padded, tmp_path, data, settings=settings, changes=changes, tokenizer=tokenizer(chat_template=TEMPLATE)
    )
    theirs.train()
    learned = {
        (sample, place)
        for sample, row in enumerate(theirs.train_dataset)
        for place, label in enumerate(row["labels"])
        if label not in (-100, 0)
    }
    assert set().union(*theirs.dropped) == learned


def test_a_packed_row_is_scored_by_its_documents(prepared: Any, warm: WarmModel) -> None:
    packed = prepared.packed("train")
    rows = [
        {"input_ids": packed.token_RT[r][real].tolist(), "position_ids": packed.position_RT[r][real].tolist()}
        for r, real in enumerate(packed.document_RT >= 0)
    ]
    special = tiny.tokenizer().all_special_ids
    found, _ = score_under_model(Dataset.from_list(rows), load_model(prepared.folder, tiny.CPU), special)
    for row, entropy_T, droppable_T in zip(found, prepared.entropy("train"), packed.droppable_RT, strict=True):
        length = len(row["entropy"])
        entropy = torch.tensor(row["entropy"])
        assert torch.equal(entropy.isnan(), ~droppable_T[:length])
        assert torch.allclose(entropy[~entropy.isnan()], entropy_T[:length][droppable_T[:length]], atol=2e-3)
        assert row["place"] == list(range(length))


def test_evaluation_drops_nothing(padded: WarmModel, tmp_path: Path) -> None:
    validation = dataset_of(padded.prepared.packed("validation"))
    settings = tiny.settings(entrodrop=EntroDrop(1.0, Constant(), quantile=1.0), epochs=1)
    theirs = made(padded, tmp_path, settings=settings, eval_dataset=validation)
    theirs.train()
    plain = Trainer(theirs.model, arguments(settings, tmp_path), DataCollatorForSeq2Seq(tokenizer()))
    assert theirs.evaluate()["eval_loss"] == plain.evaluate(validation)["eval_loss"]
    own = theirs.evaluate(theirs.train_dataset)["eval_loss"]
    assert own == plain.evaluate(dataset_of(padded.prepared.packed("train")))["eval_loss"]


@pytest.mark.faults
@pytest.mark.parametrize("step", [2, 5, 6])
def test_a_resumed_training_goes_on(step: int, padded: WarmModel, tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    settings = tiny.settings(entrodrop=tiny.entrodrop(Linear(), mask_ratio=0.9), batch_size=4, accumulation=2, epochs=2)

    def started(name: str) -> Any:
        return made(padded, tmp_path / name, settings=settings, kind=EntroDropTrainer, changes=changes)

    whole, resumed = started("whole"), started("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    logged = ("loss", "curriculum_strength", "mask_rate", "step")
    one, two = (
        [[entry[name] for name in logged] for entry in one.state.log_history if "loss" in entry]
        for one in (whole, resumed)
    )
    assert one == two
    assert one[-1][1] > 0.8


@pytest.mark.faults
def test_another_model_cannot_go_on(padded: WarmModel, cache: Path, tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    made(padded, tmp_path, changes=changes).train()
    other = made(padded, tmp_path, model=load_model(tiny.folder("other", cache), tiny.CPU))
    with pytest.raises(DataError, match=r"^resume_from_checkpoint: its training began with another model"):
        other.train(resume_from_checkpoint=True)


def test_the_budget_is_max_steps(padded: WarmModel, tmp_path: Path) -> None:
    theirs = made(padded, tmp_path, kind=EntroDropTrainer, changes={"max_steps": 9, "logging_steps": 1})
    theirs.train()
    strengths = [entry["curriculum_strength"] for entry in theirs.state.log_history if "loss" in entry]
    assert strengths == pytest.approx([step / 9 for step in range(9)], abs=0.05)


def test_entropies_are_computed_once(padded: WarmModel, tmp_path: Path) -> None:
    first = made(padded, tmp_path)
    with mock.patch("trainables.preparation.dataset_scoring.score_batch", side_effect=AssertionError):
        again = made(padded, tmp_path)
        assert again.train_dataset[COLUMN] == first.train_dataset[COLUMN]
        other = load_model(tiny.folder("other", padded.prepared.folder.parents[1]), tiny.CPU)
        with torch.no_grad():
            other.get_input_embeddings().weight.add_(1e-3)
        with pytest.raises(AssertionError):
            made(padded, tmp_path, model=other)


def test_scoring_leaves_the_model_its_attention(padded: WarmModel, tmp_path: Path) -> None:
    model = load_model(padded.prepared.folder, tiny.CPU)
    with torch.no_grad():
        # So that its entropies are in no cache.
        model.get_input_embeddings().weight.add_(2e-3)
    before = model.config._attn_implementation
    with mock.patch("trainables.preparation.dataset_scoring.Forward", wraps=Forward) as forward:
        made(padded, tmp_path, model=model)
    assert forward.call_args.args == (model,)
    assert model.config._attn_implementation == before


@pytest.mark.faults
def test_another_model_gives_the_entropies(cache: Path, tmp_path: Path) -> None:
    prepared = tiny.prepared(cache, models=("tiny", "other"), layout="padded", reference="other")
    warm = WarmModel(prepared, tiny.CPU)
    schedule = values_of(LINEAR, reference=str(tiny.folder("other", cache)))
    theirs = made(warm, tmp_path, schedule=schedule)
    trains_as(theirs, our_training(warm, tiny.settings(entrodrop=LINEAR)))


@pytest.mark.faults
@pytest.mark.parametrize("config", [Gemma2Config, Gemma3TextConfig])
def test_embeddings_that_are_scaled(config: Any, cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    words = len(tiny.tokenizer())
    made_up = config(vocab_size=words, head_dim=8, intermediate_size=32, pad_token_id=0, eos_token_id=0, **sizes)
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_config(made_up).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    what = tiny.preparation(cache, layout="padded")
    warm = WarmModel(prepare(str(folder), [str(folder)], what), tiny.CPU)
    settings = tiny.settings(entrodrop=tiny.entrodrop(mask_ratio=0.9), epochs=1)
    trains_as(made(warm, tmp_path / "out", settings=settings), our_training(warm, settings))


@pytest.mark.faults
def test_adapters_leave_the_entropies(padded: WarmModel, tmp_path: Path) -> None:
    plain = made(padded, tmp_path)
    model = load_model(padded.prepared.folder, tiny.CPU)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    settings = tiny.settings(entrodrop=tiny.entrodrop(mask_ratio=0.9), epochs=1)
    theirs = made(padded, tmp_path, model=adapted, settings=settings)
    assert theirs.train_dataset[COLUMN] == plain.train_dataset[COLUMN]
    theirs.train()
    assert all(map(len, theirs.dropped))


@pytest.mark.faults
def test_a_model_in_half_precision(padded: WarmModel, expected: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(padded.prepared.folder, dtype=torch.bfloat16)
    theirs = made(padded, tmp_path, model=model)
    theirs.train()
    assert theirs.losses == pytest.approx(expected[0], abs=0.2)


def test_a_schedule_of_null_drops_nothing(write: Any, padded: WarmModel, tmp_path: Path) -> None:
    theirs = made(padded, tmp_path, schedule=write("schedule: null"))
    assert COLUMN not in theirs.train_dataset.column_names
    losses, _ = our_training(padded, tiny.settings())
    trains_as(theirs, (losses, [set()] * len(losses)))


SCHEDULE = """\
models: [./elsewhere]
schedule:
  entropy_threshold: {quantile: 0.5}
  mask_ratio: 0.5
  curriculum: {shape: linear}
training: {learning_rate: 0.1}
"""


def test_a_file_says_the_schedule(write: Any, padded: WarmModel, expected: Any, tmp_path: Path) -> None:
    trains_as(made(padded, tmp_path, schedule=str(write(SCHEDULE))), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0.5}", "2}"), "{}:3: schedule.entropy_threshold.quantile: given 2; allowed: from 0 to 1"),
        (("mask_ratio", "mask_ration"), "{}:4: schedule.mask_ration: "),
        (("0.5\n", "{low: 0.1, high: 0.5}\n"), '{}:4: schedule.mask_ratio: given {{"low": 0.1'),
        (("schedule:", "plan:"), "{}:1: schedule: given nothing; allowed: the block of a file such as best"),
        (("{shape: linear}", "!!python/object:os.system {}"), "{}:5: schedule.curriculum: "),
    ],
)
def test_a_file_that_is_wrong(change: Any, message: str, write: Any, padded: WarmModel, tmp_path: Path) -> None:
    path = write(SCHEDULE.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        made(padded, tmp_path, schedule=path)
    assert str(caught.value).startswith(message.format(path)), caught.value
    assert str(caught.value).isprintable()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "values": ({"schedule": {"mask_ratio": 3}}, "schedule.mask_ratio: given 3; allowed: from 0 to 1"),
    "refreshed": ({"schedule": values_of(LINEAR, refresh_epochs=2)}, "schedule.refresh_epochs: given 2; allowed: 0"),
    "a list": ({"data": [{"input_ids": [1]}]}, "train_dataset: given list; allowed: a datasets.Dataset"),
    "no tokens": ({"data": Dataset.from_dict({"text": ["a"]})}, "train_dataset: given the columns text; allowed: inp"),
    "no labels": (
        {"data": Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]})},
        "train_dataset: it has no token to drop",
    ),
    "no tokenizer": ({"tokenizer": None, "data_collator": len}, "processing_class: there is none"),
    "no such token": (
        {"schedule": values_of(replace(LINEAR, presentation="input_mask_token"), mask_token="<hole>")},
        "schedule.mask_token: given <hole>; allowed: one token of the model's vocabulary",
    ),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used(values: dict[str, Any], message: str, padded: WarmModel, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        made(padded, tmp_path, **values)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


def test_a_collator_that_changes_tokens(padded: WarmModel, tmp_path: Path) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm=True, mlm_probability=0.9)
    data = dataset_of(padded.prepared.packed("train")).remove_columns("labels")
    with pytest.raises(DataError, match=r"^data_collator: it changes input_ids"):
        made(padded, tmp_path, data=data, data_collator=collator).train()


@pytest.mark.faults
def test_it_needs_neither_ray_nor_optuna_nor_mlflow() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in ("ray", "optuna", "mlflow", "trl", "search"))
    subprocess.run([sys.executable, "-c", f"import sys; {blocked}import trainables.trainer"], check=True)


RANKED = {
    "input": {"entrodrop": LINEAR},
    "loss, accumulated": {"entrodrop": tiny.entrodrop(Linear(), presentation="loss"), "accumulation": 2},
}


def _rank(rank: int, prepared: Prepared, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ENTRODROP_CACHE": str(folder / "cache")}
    warm: Any = SimpleNamespace(prepared=prepared, rows=prepared.train_rows)
    for name, changes in RANKED.items():
        (folder / f"{name}.{rank}.json").write_text(json.dumps(_train_on_rank(warm, folder, changes)))
    leave_group()


def _train_on_rank(warm: Any, folder: Path, changes: dict[str, Any]) -> tuple[list[float], list[Any]]:
    settings = tiny.settings(**changes)
    rows = settings.batch_size // settings.accumulation // 2
    how = {"per_device_train_batch_size": rows, "ddp_backend": "gloo"}
    theirs = made(warm, folder / "out", settings=settings, changes=how)
    theirs.train()
    return theirs.losses, [sorted(dropped) for dropped in theirs.dropped]


@pytest.mark.cluster
def test_two_processes_train_like_one(padded: WarmModel, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (padded.prepared, tmp_path, port), nprocs=2)
    for name, changes in RANKED.items():
        losses, dropped = our_training(padded, tiny.settings(**changes))
        ranks = [json.loads((tmp_path / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]
        # Each rank's loss is a share of the sum of all labels, times the ranks.
        assert torch.tensor([loss for loss, _ in ranks]).mean(0).tolist() == pytest.approx(losses, abs=1e-5)
        for step, (one, two) in enumerate(zip(*(found for _, found in ranks), strict=True)):
            assert sorted([*map(tuple, one), *map(tuple, two)]) == sorted(dropped[step])
