"""A run from evaluation to evaluation: exact, and the same each time."""

import json
import math
from dataclasses import replace
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedConfig, Qwen3Config

from tests import tiny
from tests.trainables.test_token_weight import WEIGHTS, Reference
from tests.trainables.training.runs import (
    VARIANTS,
    Weights,
    close,
    each_variant,
    finish,
    same,
    trained,
    untimed,
    weights,
)
from trainables import forward
from trainables.curriculum import Constant, Cosine, Curriculum, Linear, Sigmoid, Spline, Step
from trainables.entropy import threshold
from trainables.errors import ModelError
from trainables.forward import PRECISIONS
from trainables.masking import uniforms
from trainables.models.loading import load_model
from trainables.preparation.prepared import Prepared
from trainables.preparation.scoring import score
from trainables.settings import EntroDrop, Lora, ModelSettings, Settings
from trainables.token_weight import KINDS, Dft, Mile, Selective, Stm, TokenWeight
from trainables.training.checkpoint import CheckpointError
from trainables.training.evaluate import HeldOut, evaluate
from trainables.training.memory_estimate import network_of
from trainables.training.run import NonFiniteLossError, Run
from trainables.training.token_dropout import TokenDropout
from trainables.training.warm_model import WarmModel

EVERY_ENTRODROP = [
    None,
    tiny.entrodrop(Sigmoid(0.3, 8.0), presentation="input"),
    tiny.entrodrop(Linear(), presentation="loss"),
]
each_entrodrop = pytest.mark.parametrize("entrodrop", EVERY_ENTRODROP, ids=["none", "input", "loss"])


@pytest.mark.parametrize(
    "entrodrop",
    [
        *EVERY_ENTRODROP,
        tiny.entrodrop(Step(0.5)),
        tiny.entrodrop(Cosine()),
        tiny.entrodrop(Spline((0.5, 0.1))),
        EntroDrop(0.1, Constant(), nats=0.5, tokens="random", presentation="loss", refresh_epochs=3, redraw="never"),
    ],
)
@pytest.mark.parametrize("token_weight", [None, Mile(2.0)])
def test_settings_survive_json(entrodrop: EntroDrop | None, token_weight: TokenWeight | None) -> None:
    settings = tiny.settings(entrodrop=entrodrop, evaluations_per_epoch=2, token_weight=token_weight)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.evaluations == 6


def slow_run(
    prepared: Prepared, settings: Settings, weights: Reference = lambda z, y, b: torch.ones(len(y))
) -> list[dict[str, float]]:
    """train_loss and mask_rate of each epoch, one document at a time, from full logits."""
    base_RT = prepared.base_loss("train").double()
    weighted_mean = settings.token_weight is not None and settings.token_weight.weighted_mean
    model = load_model(prepared.folder, tiny.CPU)
    packed, entropy_RT = prepared.packed("train"), prepared.entropy("train")
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == ndim], "weight_decay": decay}
        for ndim, decay in ((2, settings.weight_decay), (1, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    rows = len(packed.token_RT)
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    step = tokens = 0
    history = []
    for epoch in range(settings.epochs):
        order = torch.randperm(
            rows, generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        ).tolist()
        epoch_loss = epoch_labels = epoch_dropped = 0.0
        for start in range(0, rows, settings.batch_size):
            strength, presentation, tau = 0.0, "", 0.0
            if settings.entrodrop is not None:
                presentation = settings.entrodrop.presentation
                tau = threshold(entropy_RT, packed.droppable_RT, settings.entrodrop.quantile)
                progress = tokens / (settings.epochs * prepared.train_tokens)
                strength = settings.entrodrop.mask_ratio * settings.entrodrop.curriculum(progress)
            loss, labels, weighted, weight_sum = torch.zeros(()), 0, torch.zeros(()), 0.0
            for r in order[start : start + settings.batch_size]:
                logits, targets, bases = [], [], []
                for document in {int(d) for d in packed.document_RT[r] if d >= 0}:
                    here_T = packed.document_RT[r] == document
                    token_T = packed.token_RT[r, here_T]
                    place_1T = torch.arange(len(token_T)).unsqueeze(0)
                    uniform_T = uniforms(settings.seed, epoch, torch.full_like(place_1T, document), place_1T)[0]
                    dropped_T = (entropy_RT[r, here_T] <= tau) & (uniform_T < strength) & (token_T != 0)
                    embedding_TD = model.get_input_embeddings()(token_T)
                    if presentation == "input":
                        embedding_TD = embedding_TD * ~dropped_T.unsqueeze(1)
                    logit_TV = model(inputs_embeds=embedding_TD.unsqueeze(0)).logits[0]
                    label_T = token_T.clone()
                    if presentation == "loss":
                        label_T[dropped_T] = -100
                    kept_T = label_T[1:] >= 0
                    logits.append(logit_TV[:-1][kept_T])
                    targets.append(label_T[1:][kept_T])
                    bases.append(base_RT[r, here_T][1:][kept_T])
                    tokens += len(token_T)
                    epoch_dropped += float(dropped_T.sum())
                if logits:
                    logit_NV, label_N = torch.cat(logits), torch.cat(targets)
                    loss_N = nn.functional.cross_entropy(logit_NV, label_N, reduction="none")
                    weight_N = weights(logit_NV.detach().double(), label_N, torch.cat(bases)).float()
                    loss, weighted = loss + loss_N.sum(), weighted + (weight_N * loss_N).sum()
                    labels, weight_sum = labels + len(label_N), weight_sum + float(weight_N.sum())
            (weighted / (max(weight_sum, 1) if weighted_mean else labels)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * min(1.0, step / math.ceil(settings.warmup * steps))
            optimizer.step()
            optimizer.zero_grad()
            epoch_loss, epoch_labels = epoch_loss + loss.item(), epoch_labels + labels
        history.append({"train_loss": epoch_loss / epoch_labels, "mask_rate": epoch_dropped / prepared.train_tokens})
    return history


@each_entrodrop
def test_a_run_equals_a_slow_one(warm: WarmModel, prepared: Prepared, entrodrop: EntroDrop | None) -> None:
    changes = {"entrodrop": entrodrop, "warmup": 0.5, "seed": 5, "weight_decay": 0.1, "gradient_clip": 0.5}
    history, _ = trained(warm, **changes)
    slow = slow_run(prepared, tiny.settings(**changes))
    assert close([{name: metrics[name] for name in slow[0]} for metrics in history], slow, 1e-4)


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_weighted_run_equals_a_slow_one(warm: WarmModel, prepared: Prepared, kind: type[TokenWeight]) -> None:
    # The last of its kind: with other numbers than the defaults.
    weight, reference = next(each for each in reversed(WEIGHTS) if type(each[0]) is kind and each[0] != Selective(1.0))
    changes = {"token_weight": weight, "entrodrop": EVERY_ENTRODROP[2], "warmup": 0.5, "gradient_clip": 0.5}
    history, _ = trained(warm, **changes, accumulation=2, epochs=2)
    slow = slow_run(prepared, tiny.settings(**changes, epochs=2), reference)
    assert close([{name: metrics[name] for name in slow[0]} for metrics in history], slow, 1e-4)
    plain, _ = trained(warm, **{**changes, "token_weight": None}, epochs=2)
    assert not close([{name: metrics[name] for name in slow[0]} for metrics in plain], slow, 1e-4)


def test_tokens_that_are_not_drawn_anew_are_the_same_in_every_epoch(warm: WarmModel) -> None:
    every_R = torch.arange(warm.rows)

    def dropped(redraw: str, epoch: int, strength: float) -> Tensor:
        dropout = TokenDropout(warm, replace(tiny.entrodrop(presentation="input_random_token"), redraw=redraw), 3)
        presented = dropout.present(every_R, epoch, strength)
        assert not torch.equal(presented.rows.token_RT, warm.train[every_R].token_RT)
        return presented.rows.token_RT.masked_fill(~presented.dropped_BT, -1)

    assert torch.equal(dropped("never", 0, 1.0), dropped("never", 5, 1.0))
    assert torch.equal(dropped("never", 0, 1.0), dropped("epoch", 0, 1.0))
    assert not torch.equal(dropped("epoch", 0, 1.0), dropped("epoch", 5, 1.0))
    few, more = (dropped("never", 2, strength) >= 0 for strength in (0.4, 0.9))
    assert few.sum() < more.sum()
    assert torch.equal(few & more, few)


@each_entrodrop
def test_training_lowers_the_loss(warm: WarmModel, prepared: Prepared, entrodrop: EntroDrop | None) -> None:
    history, _ = trained(warm, entrodrop=entrodrop, epochs=6)
    losses = [metrics["train_loss"] for metrics in history]
    assert losses[-1] < losses[0] - 0.5
    assert history[-1]["loss"] < prepared.base_losses["loss"] - 0.5
    assert history[-1]["epoch"] == 6
    assert history[-1]["tokens"] == 6 * prepared.train_tokens


@each_variant
def test_the_same_seed_gives_the_same_bits(warm: WarmModel, changes: dict[str, Any]) -> None:
    history, first = trained(warm, **changes)
    again, second = trained(warm, **changes)
    other, third = trained(warm, **changes, seed=1)
    assert history == again
    assert same(first, second)
    assert history != other
    assert not same(first, third)


@each_variant
def test_attention_by_document_trains_as_a_mask_does(
    warm: WarmModel, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warm.forward.by_document
    by_document, _ = trained(warm, **changes)
    monkeypatch.setattr(warm.forward, "by_document", False)
    masked, _ = trained(warm, **changes)
    assert close(by_document, masked, 1e-5)


def test_a_used_model_trains_like_a_fresh_one(warm: WarmModel, prepared: Prepared) -> None:
    settings = {"entrodrop": tiny.entrodrop(), "epochs": 2}
    trained(warm, learning_rate=0.3, seed=7, token_weight=Selective())
    history, used = trained(warm, **settings)
    fresh_history, fresh = trained(WarmModel(prepared, tiny.CPU), **settings)
    assert history == fresh_history
    assert same(used, fresh)


def test_a_run_that_broke_off_in_a_step_leaves_no_gradient(warm: WarmModel) -> None:
    history, expected = trained(warm, epochs=1)
    with (
        mock.patch.object(nn.utils, "clip_grad_norm_", side_effect=torch.OutOfMemoryError("out of memory")),
        pytest.raises(torch.OutOfMemoryError),
    ):
        Run(warm, tiny.settings(seed=1)).advance()
    assert trained(warm, epochs=1)[0] == history
    assert same(weights(warm), expected)


def test_the_test_split_is_read_with_the_best_and_the_last_weights(warm: WarmModel, tmp_path: Path) -> None:
    # So fast that it overfits at once.
    run = Run(warm, tiny.settings(learning_rate=0.05, epochs=6), keep_best=True)
    packed, groups = warm.prepared.packed("test"), warm.prepared.groups("test")
    tested = []
    while not run.finished:
        run.advance()
        tested.append(evaluate(warm.forward, HeldOut.on(tiny.CPU, packed, groups), torch.float32))
    losses = [metrics["high_entropy_loss"] for metrics in run.history]
    best = losses.index(min(losses))
    assert best < len(losses) - 1
    written: dict[str, Weights] = {}

    def reading(point: str) -> None:
        run.save_model(tmp_path / point)
        written[point] = weights(warm)

    read = run.test(reading)
    assert list(written) == ["final", "best"]
    assert not same(written["best"], written["final"])
    for point, expected in written.items():
        assert same(dict(load_model(tmp_path / point, tiny.CPU).state_dict()), expected)
    assert read["best"].keys() == {"test"}
    for point, expected in (("best", tested[best]), ("final", tested[-1])):
        for name, by_document in read[point]["test"].items():
            assert sum(by_document["sums"]) / sum(by_document["counts"]) == expected[name]
    # By document: each has the tokens that are its own.
    tokens_K = torch.bincount(packed.document_RT[packed.label_RT >= 0])
    assert read["final"]["test"]["loss"]["counts"] == tokens_K.tolist()


@each_variant
@pytest.mark.faults
def test_accumulation_does_not_matter(warm: WarmModel, changes: dict[str, Any]) -> None:
    whole, _ = trained(warm, **changes)
    for accumulation in (2, 4):
        assert close(trained(warm, **changes, accumulation=accumulation)[0], whole, 1e-5)


def test_entropies_are_computed_anew_from_the_model_in_training(warm: WarmModel) -> None:
    settings = tiny.settings(entrodrop=replace(tiny.entrodrop(), refresh_epochs=2), epochs=5)
    run = Run(warm, settings)
    known = [run._dropout.entropy_RT]
    for _ in range(5):
        before = weights(warm)
        run.advance()
        known.append(run._dropout.entropy_RT)
        if len(run.history) in (3, 5):
            # What was computed at the epoch's start is what its weights say.
            now = weights(warm)
            warm.model.load_state_dict(before)
            rows = warm.rows
            assert torch.equal(score(warm.forward, warm.train[:rows])[0], run._dropout.entropy_RT)
            warm.model.load_state_dict(now)
    changed = [not torch.equal(a, b) for a, b in pairwise(known)]
    assert changed == [False, False, True, False, True]


@pytest.mark.parametrize("how", [{"quantile": 0.3}, {"nats": 3.0}], ids=["quantile", "nats"])
@pytest.mark.faults
def test_the_controls_drop_as_many_tokens(warm: WarmModel, how: dict[str, float]) -> None:
    def run(tokens: str, mask_ratio: float = 0.5) -> Run:
        entrodrop = EntroDrop(mask_ratio, Constant(), **how, tokens=tokens)
        return finish(Run(warm, tiny.settings(entrodrop=entrodrop, epochs=8)))

    runs = {tokens: run(tokens) for tokens in ("low_entropy", "random", "high_entropy")}
    rates = {tokens: sum(m["mask_rate"] for m in run.history) / 8 for tokens, run in runs.items()}
    assert 0.05 < rates["low_entropy"] < 0.45
    deviation = math.sqrt(rates["low_entropy"] / (8 * warm.prepared.train_tokens))
    assert rates["random"] == pytest.approx(rates["low_entropy"], abs=4 * deviation)
    assert rates["high_entropy"] == pytest.approx(rates["low_entropy"], abs=4 * deviation)
    low, high = (run(tokens, 1.0)._dropout._candidate_RT[:-1] for tokens in ("low_entropy", "high_entropy"))
    assert warm.entropy_RT[low].max() < warm.entropy_RT[high].min()
    assert torch.equal(run("random", 1.0)._dropout._candidate_RT[:-1], warm.droppable_RT)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dropout": 0.3},
        {"attention_dropout": 0.3},
        {"neftune_alpha": 10.0},
        {"label_smoothing": 0.2},
        {"weight_decay": 5.0},
        {"token_weight": Dft()},
        {"token_weight": Stm(3.0)},
    ],
)
@pytest.mark.faults
def test_a_regularizer_changes_training_and_not_evaluation(warm: WarmModel, changes: dict[str, Any]) -> None:
    plain = Run(warm, tiny.settings(epochs=6))
    plain_loss = [plain.advance()["train_loss"] for _ in range(6)][-1]
    regularized = Run(warm, tiny.settings(epochs=6, **changes))
    losses = [regularized.advance()["train_loss"] for _ in range(6)]
    assert losses[-1] > plain_loss
    losses = evaluate(warm.forward, warm.validation, torch.float32)
    assert evaluate(warm.forward, warm.validation, torch.float32) == losses
    assert regularized.history[-1]["loss"] == losses["loss"]


def test_gradient_checkpointing_changes_nothing_but_memory(warm: WarmModel, prepared: Prepared) -> None:
    changes = {**VARIANTS["regularized"], "entrodrop": tiny.entrodrop(), "epochs": 2}
    expected, last = trained(warm, **changes)
    checkpointing = WarmModel(prepared, tiny.CPU, ModelSettings(gradient_checkpointing=True))
    begun = []
    for model in (warm, checkpointing):
        count = mock.Mock(return_value=None)
        hook = model.model.base_model.layers[0].self_attn.register_forward_pre_hook(count)
        history, weights_ = trained(model, **changes)
        hook.remove()
        begun.append(count.call_count)
    steps = 2 * math.ceil(warm.rows / 4)
    assert begun[1] == begun[0] + steps, "computed again in the backward pass"
    assert close(history, expected, 1e-6)
    assert all(torch.allclose(weights_[name], last[name], rtol=1e-5, atol=1e-7) for name in last)


def test_a_general_split_is_measured_and_not_trained_on(cache: Path, prepared: Prepared) -> None:
    general = replace(tiny.splits(), general=tiny.splits(3).test)
    warm = WarmModel(tiny.prepared(cache, splits=general), tiny.CPU)
    history, _ = trained(warm)
    assert warm.prepared.base_losses["general_loss"] > history[-1]["general_loss"] > 0
    plain, _ = trained(WarmModel(prepared, tiny.CPU))
    assert [m["train_loss"] for m in history] == [m["train_loss"] for m in plain]


def test_adapters_are_trained_over_frozen_weights(cache: Path, prepared: Prepared, tmp_path: Path) -> None:
    how = ModelSettings(lora=Lora(4, 8.0))
    warm = WarmModel(prepared, tiny.CPU, how)
    expected, last = trained(warm, epochs=2, evaluations_per_epoch=2)
    assert expected[-1]["train_loss"] < expected[0]["train_loss"]
    base = load_model(prepared.folder, tiny.CPU).state_dict()
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in last.items() if "lora_" not in name}
    assert same(kept, dict(base))
    run = Run(warm, tiny.settings(epochs=2, evaluations_per_epoch=2))
    run.advance()
    run.save(tmp_path / "run")
    resumed = Run(WarmModel(prepared, tiny.CPU, how), tiny.settings(epochs=2, evaluations_per_epoch=2))
    resumed.restore(tmp_path / "run")
    assert untimed(finish(resumed)) == expected
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Run(warm, tiny.settings(seed=3)).restore(tmp_path / "run")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_adapters_are_trained_over_weights_of_4_bits(
    precision: str, cache: Path, prepared: Prepared, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    changes = {"epochs": 2, "evaluations_per_epoch": 2, "precision": precision}
    how = ModelSettings(lora=Lora(4, 8.0), base_weights="nf4")
    warm = WarmModel(prepared, tiny.CPU, how)
    full = WarmModel(prepared, tiny.CPU, replace(how, base_weights="full"))
    expected, _ = trained(warm, **changes)
    assert expected[-1]["train_loss"] < expected[0]["train_loss"]
    like = trained(full, **changes)[0]
    assert [m["loss"] for m in expected] == pytest.approx([m["loss"] for m in like], rel=0.05)
    assert _bytes_of(warm) < _bytes_of(full) / 2
    run = Run(warm, tiny.settings(**changes))
    run.advance()
    run.save(tmp_path / "run")
    resumed = Run(WarmModel(prepared, tiny.CPU, how), tiny.settings(**changes))
    resumed.restore(tmp_path / "run")
    assert untimed(finish(resumed)) == expected
    # What is saved is what was trained, in full precision.
    resumed.save_model(tmp_path / "saved")
    saved = load_model(tmp_path / "saved", tiny.CPU)
    token_1T = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        expected_1TV = resumed.warm.model.eval()(token_1T).logits
        assert saved.eval()(token_1T).logits.allclose(expected_1TV, atol=1e-4)
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file()


def _bytes_of(warm: WarmModel) -> int:
    return sum(p.numel() * p.element_size() for p in warm.model.parameters())


@pytest.mark.parametrize(
    ("config", "installed", "told"),
    [
        (Qwen3Config(num_hidden_layers=1, hidden_size=64), False, "run pip install -c constraints.txt -e "),
        (GPT2Config(n_layer=1), True, "gpt2 has no linear layers"),
    ],
)
def test_weights_that_cannot_have_4_bits_are_told(
    config: PreTrainedConfig, installed: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.models.loading.find_spec", lambda _: installed or None)
    with pytest.raises(ModelError, match=rf"training.base_weights: .*{told}"):
        network_of(config, ModelSettings(lora=Lora(4, 8.0), base_weights="nf4"))


@pytest.mark.faults
def test_the_dropout_of_adapters_is_noise_of_the_run(prepared: Prepared) -> None:
    plain, dropped = (WarmModel(prepared, tiny.CPU, ModelSettings(lora=Lora(4, 8.0, share))) for share in (0.0, 0.5))
    expected, _ = trained(plain, epochs=2)
    history, last = trained(dropped, epochs=2, hidden_dropout=0.1)
    assert not close(history, expected, 1e-4)
    assert close(trained(dropped, epochs=2, hidden_dropout=0.1, accumulation=4)[0], history, 1e-5)
    again, weights_ = trained(dropped, epochs=2, hidden_dropout=0.1)
    assert again == history
    assert same(weights_, last)
    # It ends with the run.
    losses = evaluate(dropped.forward, dropped.validation, torch.float32)
    assert evaluate(dropped.forward, dropped.validation, torch.float32) == losses
    assert losses["loss"] == history[-1]["loss"]


@pytest.mark.faults
def test_a_compiled_model_survives_the_next_trial(prepared: Prepared) -> None:
    plain, _ = trained(WarmModel(prepared, tiny.CPU), entrodrop=tiny.entrodrop(), epochs=2)
    compiled = WarmModel(prepared, tiny.CPU, ModelSettings(compile=True))
    history, _ = trained(compiled, entrodrop=tiny.entrodrop(), epochs=2)
    assert close(history, plain, 1e-4)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    assert before > 0
    trained(compiled, entrodrop=tiny.entrodrop(Linear(), presentation="loss"), epochs=1, seed=1, learning_rate=0.02)
    assert counters["unique_graphs"] == before, "compiled again"


@pytest.mark.faults
def test_a_compiled_model_has_the_noise_of_each_run(prepared: Prepared) -> None:
    # Without code generation, which takes minutes; what is traced, and when it is traced again, is the same.
    with mock.patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager")):
        compiled = WarmModel(prepared, tiny.CPU, ModelSettings(compile=True))
    plain = WarmModel(prepared, tiny.CPU)
    noisy = {"hidden_dropout": 0.3, "neftune_alpha": 5.0}
    for noise in ({}, {"hidden_dropout": 0.3}, noisy, {"attention_dropout": 0.3}, {"hidden_dropout": 0.1}, {}):
        history, _ = trained(compiled, **noise, epochs=2)
        assert close(history, trained(plain, **noise, epochs=2)[0], 1e-5), noise


def test_a_batch_that_the_rows_do_not_fill_trains_on_what_there_is(warm: WarmModel, prepared: Prepared) -> None:
    rows = len(prepared.packed("train").token_RT)
    assert rows % 4 != 0, "else the padding is not tested"
    whole, _ = trained(warm, batch_size=rows, epochs=2)
    padded, _ = trained(warm, batch_size=rows + 5, epochs=2)
    assert close(padded, whole, 1e-5)


@pytest.mark.parametrize("presentation", ["input", "loss"])
def test_without_strength_dropout_does_nothing(warm: WarmModel, presentation: str) -> None:
    baseline, expected = trained(warm)
    for entrodrop in (
        tiny.entrodrop(mask_ratio=0.0, presentation=presentation),
        tiny.entrodrop(Step(1.0), presentation=presentation),
    ):
        history, last = trained(warm, entrodrop=entrodrop)
        for metrics in history:
            assert metrics.pop("greatest_dropped_entropy") > 0
            assert metrics.pop("full_mask_rate") == entrodrop.mask_ratio
        assert [metrics | {"curriculum_strength": 0.0} for metrics in history] == baseline
        assert same(last, expected)


def droppable_share(warm: WarmModel, quantile: float) -> float:
    low = warm.entropy_RT[warm.droppable_RT] <= threshold(warm.entropy_RT, warm.droppable_RT, quantile)
    return float(low.sum()) / warm.prepared.train_tokens


@pytest.mark.parametrize(
    ("curriculum", "mean_strength"),
    [(Constant(), 1.0), (Linear(), 0.5), (Cosine(), 0.5), (Step(0.75), 0.25)],
    ids=["constant", "linear", "cosine", "step"],
)
@pytest.mark.parametrize("presentation", ["input", "loss"])
def test_mask_rate_is_as_set(warm: WarmModel, curriculum: Curriculum, mean_strength: float, presentation: str) -> None:
    epochs, ratio, quantile = 8, 0.4, 0.7
    entrodrop = tiny.entrodrop(curriculum, quantile, ratio, presentation)
    history, _ = trained(warm, entrodrop=entrodrop, epochs=epochs)
    rate = sum(metrics["mask_rate"] for metrics in history) / epochs
    low = droppable_share(warm, quantile)
    expected = mean_strength * ratio * low
    deviation = math.sqrt(ratio * (1 - ratio) * low / (epochs * warm.prepared.train_tokens))
    # The strength stands still within a step: with three steps an epoch it lags by half a step.
    lag = ratio * low / (2 * 3 * epochs)
    assert rate == pytest.approx(expected, abs=4 * deviation + lag)


def test_progress_counts_against_the_full_budget(warm: WarmModel) -> None:
    run = Run(warm, tiny.settings(entrodrop=tiny.entrodrop(Step(0.5), mask_ratio=1.0), epochs=4))
    history = [run.advance() for _ in range(4)]
    assert [metrics["mask_rate"] for metrics in history] == [0.0, 0.0, *[pytest.approx(droppable_share(warm, 0.5))] * 2]
    assert [metrics["curriculum_strength"] for metrics in history] == [0.0, 1.0, 1.0, 1.0]


def test_without_dropout_the_curriculum_has_no_strength(warm: WarmModel) -> None:
    assert Run(warm, tiny.settings()).advance()["curriculum_strength"] == 0.0


def test_the_learning_rate_rises_over_the_warm_up_of_the_full_budget(warm: WarmModel) -> None:
    run = Run(warm, tiny.settings(warmup=0.5, epochs=4))
    rates = [run.advance()["learning_rate"] for _ in range(4)]
    assert rates[0] < rates[1] == rates[2] == rates[3] == 0.01


@pytest.mark.parametrize("presentation", ["input", "loss"])
def test_what_the_model_is_shown(warm: WarmModel, presentation: str) -> None:
    """A step at full rate against a step without dropout, at the model's two ends."""

    def shown(entrodrop: EntroDrop | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        run = Run(warm, tiny.settings(entrodrop=entrodrop, batch_size=64))
        with (
            mock.patch.object(forward, "hidden_states", wraps=forward.hidden_states) as into,
            mock.patch.object(forward, "token_loss", wraps=forward.token_loss) as out,
            # Whole rows: attention within documents leaves out what is no token.
            mock.patch.object(warm.forward, "by_document", False),
        ):
            run._optimizer_step()
        _, embedding_BTD, position_BT, _ = into.call_args.args
        document_BT = warm.train.document_RT[run._order[2]]
        return embedding_BTD.detach(), out.call_args.args[2].reshape(document_BT.shape), document_BT, position_BT

    embedding_BTD, label_BT, document_BT, position_BT = shown(None)
    shown_BTD, shown_label_BT, *_ = shown(tiny.entrodrop(mask_ratio=0.6, presentation=presentation))

    tau = threshold(warm.entropy_RT, warm.droppable_RT, 0.5)
    packed = warm.prepared.packed("train")
    low = {
        (int(packed.document_RT[r, t]), int(packed.position_RT[r, t]))
        for r, t in torch.nonzero(warm.droppable_RT & (warm.entropy_RT <= tau)).tolist()
    }
    uniform_BT = uniforms(0, 0, document_BT, position_BT)
    dropped_BT = torch.tensor(
        [
            [(d, p) in low and u < 0.6 for d, p, u in zip(*row, strict=True)]
            for row in zip(document_BT.tolist(), position_BT.tolist(), uniform_BT.tolist(), strict=True)
        ]
    )
    assert 0 < int(dropped_BT.sum()) < len(low)
    if presentation == "input":
        assert torch.equal(shown_label_BT, label_BT)
        assert torch.equal((shown_BTD != embedding_BTD).any(dim=-1), dropped_BT)
        assert (shown_BTD[dropped_BT] == 0).all()
    else:
        assert torch.equal(shown_BTD, embedding_BTD)
        # The label at i is token i + 1.
        assert torch.equal((shown_label_BT != label_BT)[:, :-1], dropped_BT[:, 1:])
        assert (shown_label_BT[:, :-1][dropped_BT[:, 1:]] == -100).all()


def test_evaluations_within_an_epoch(warm: WarmModel, prepared: Prepared) -> None:
    rows = len(prepared.packed("train").token_RT)
    steps = math.ceil(rows / 2)
    history, _ = trained(warm, batch_size=2, epochs=2, evaluations_per_epoch=2)
    half = math.ceil(steps / 2) / steps
    assert [metrics["epoch"] for metrics in history] == pytest.approx([half, 1, 1 + half, 2])
    assert [metrics["tokens"] for metrics in history][1::2] == [prepared.train_tokens, 2 * prepared.train_tokens]
    # An evaluation changes nothing.
    once, _ = trained(warm, batch_size=2, epochs=2)
    assert [m["loss"] for m in history[1::2]] == [m["loss"] for m in once]


def test_a_diverged_run_is_reported(warm: WarmModel) -> None:
    baseline, _ = trained(warm, epochs=1)
    with pytest.raises(NonFiniteLossError, match=r"loss .* after [0-9,]+ tokens"):
        finish(Run(warm, tiny.settings(learning_rate=1e30)))
    assert trained(warm, epochs=1)[0] == baseline, "the next run is not touched"


def test_nan_weights_are_reported(warm: WarmModel) -> None:
    run = Run(warm, tiny.settings())
    with torch.no_grad():
        next(warm.model.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="nan"):
        run.advance()
    assert run.history == []


def test_bfloat16_trains_about_the_same(warm: WarmModel) -> None:
    exact, _ = trained(warm, entrodrop=tiny.entrodrop())
    coarse, last = trained(warm, entrodrop=tiny.entrodrop(), precision="bf16")
    assert [m["loss"] for m in coarse] == pytest.approx([m["loss"] for m in exact], rel=0.02)
    assert [m["mask_rate"] for m in coarse] == [m["mask_rate"] for m in exact]
    assert {tensor.dtype for tensor in last.values()} == {torch.float32}
