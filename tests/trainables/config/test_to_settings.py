"""From a configuration to what the trainer takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.configs import MINIMAL
from trainables.config.fields import FloatRange, is_searched
from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.config.to_settings import choose, fix_values, model_settings_of, preparation_of, settings_of, splits_of
from trainables.curriculum import Linear, Sigmoid, Spline, Step
from trainables.data.documents import Splits
from trainables.settings import EntroDrop, ExactMatch, Lora, ModelSettings, Settings
from trainables.token_weight import Eaft, Mile

FIXED = """\
schedule:
  entropy_threshold: {nats: 1.5}
  mask_ratio: [0.4]
  tokens: random
  presentation: input_mask_token
  curriculum: {shape: step, at: 0.3}
  refresh_epochs: 2
  reference: builtin/micro
  mask_token: "<mask>"
"""


def config(write: Any, text: str = "", *overrides: str) -> RunConfig:
    return load(write(MINIMAL + text), overrides, RunConfig).config


def upper(name: str, setting: Any) -> Any:
    """Chooses the last or the greatest value."""
    if isinstance(setting, FloatRange):
        return setting.high
    return setting[-1] if isinstance(setting, list) else setting


def test_a_fixed_schedule_is_the_trainers(write: Any) -> None:
    settings = settings_of(config(write, FIXED, "training.neftune_alpha=5", "training.lr_schedule=wsd", "seed=3"))
    assert settings.entrodrop == EntroDrop(
        mask_ratio=0.4,
        curriculum=Step(0.3),
        nats=1.5,
        tokens="random",
        presentation="input_mask_token",
        refresh_epochs=2,
    )
    assert (settings.neftune_alpha, settings.lr_schedule, settings.epochs, settings.seed) == (5.0, "wsd", 12, 3)
    assert settings_of(config(write, "schedule: null\n")).entrodrop is None


def test_choosing_fixes_all_that_is_searched(write: Any) -> None:
    searched = config(
        write,
        "schedule: {tokens: [low_entropy, random], refresh_epochs: [0, 4], redraw: [epoch, never], curriculum: [{"
        "shape: linear}, {shape: sigmoid}]}\ntraining: {label_smoothing: {low: 0, high: 0.2}, hidden_dropout: [0.1], "
        "attention_dropout: 0.3, token_weight: {kind: eaft, alpha: {low: 0.3, high: 1}}}\n",
    )
    parameters = choose(searched, upper)
    assert parameters == {
        "entropy_threshold": {"quantile": 0.9},
        "mask_ratio": 0.9,
        "presentation": "input",
        "curriculum": {"shape": "sigmoid", "midpoint": 0.8, "steepness": 30.0},
        "tokens": "random",
        "refresh_epochs": 4,
        "redraw": "never",
        "learning_rate": 0.003,
        "weight_decay": 0.01,
        "label_smoothing": 0.2,
        "token_weight": {"kind": "eaft", "k": 20, "alpha": 1.0},
    }
    chosen = fix_values(searched, parameters)
    assert chosen.schedule is not None
    assert not any(is_searched(value) for block in (chosen.schedule, chosen.training) for _, value in block)
    settings = settings_of(chosen)
    assert settings.entrodrop == EntroDrop(
        0.9, Sigmoid(0.8, 30.0), 0.9, tokens="random", refresh_epochs=4, redraw="never"
    )
    assert settings.token_weight == Eaft(20, 1.0)
    assert (settings.label_smoothing, settings.hidden_dropout, settings.attention_dropout) == (0.2, 0.1, 0.3)
    # What is chosen can be written down and read again.
    assert RunConfig.model_validate(chosen.model_dump()) == chosen


def test_a_linear_rise_may_end_early(write: Any) -> None:
    searched = config(write, "schedule: {curriculum: {shape: linear, until: {low: 0.3, high: 0.66}}}\n")
    parameters = choose(searched, upper)
    assert parameters["curriculum"] == {"shape": "linear", "until": 0.66}
    entrodrop = settings_of(fix_values(searched, parameters)).entrodrop
    assert entrodrop is not None
    assert entrodrop.curriculum == Linear(0.66)
    plain = config(write, "schedule: {curriculum: {shape: linear}}\n")
    assert choose(plain, upper)["curriculum"] == {"shape": "linear"}


def test_a_fixed_token_weight_is_the_trainers(write: Any) -> None:
    weighted = config(write, "", "training.token_weight={kind: mile, gamma: [2]}")
    parameters = choose(weighted, upper)
    assert parameters["token_weight"] == {"kind": "mile", "gamma": 2.0}
    assert settings_of(fix_values(weighted, parameters)).token_weight == Mile(2.0)
    assert settings_of(weighted.model_copy(update={"schedule": None})).token_weight == Mile(2.0)


def test_searched_adapters_are_each_trials_own(write: Any) -> None:
    lora = "{rank: [4, 8], alpha: 16, dropout: {low: 0, high: 0.1}, target_modules: [[v_proj], [q_proj, k_proj]]}"
    searched = config(write, "", f"training.lora={lora}")
    # A slot must have room for any of them.
    assert model_settings_of(searched).lora == Lora(8, 16.0, 0.1, ("k_proj", "q_proj", "v_proj"))
    parameters = choose(searched, lambda name, setting: upper(name, setting) if name != "lora.rank" else setting[0])
    assert parameters["lora"] == {"rank": 4, "alpha": 16.0, "dropout": 0.1, "target_modules": "q_proj k_proj"}
    chosen = fix_values(searched, parameters)
    assert RunConfig.model_validate(chosen.model_dump()) == chosen
    own = Lora(4, 16.0, 0.1, ("k_proj", "q_proj"))
    assert (settings_of(chosen).lora, model_settings_of(chosen).lora) == (own, own)
    assert Settings.from_json(json.loads(json.dumps(settings_of(chosen).to_json()))).lora == own
    plain = config(write, "", "training.lora={rank: 4, alpha: 8}")
    assert "lora" not in choose(plain, upper)
    assert settings_of(plain.model_copy(update={"schedule": None})).lora == Lora(4, 8.0)


def test_a_spline_is_searched_by_its_rises(write: Any) -> None:
    names = []

    def value(name: str, setting: Any) -> Any:
        names.append(name)
        return upper(name, setting)

    searched = config(write, "schedule: {curriculum: {shape: spline, knots: 2}}\n")
    parameters = choose(searched, value)
    assert parameters["curriculum"] == {"shape": "spline", "rises": [1.0, 1.0, 1.0]}
    assert [name for name in names if "rise" in name] == [f"curriculum.spline.rise_{i}" for i in (1, 2, 3)]
    settings = settings_of(fix_values(searched, parameters))
    assert settings.entrodrop is not None
    assert settings.entrodrop.curriculum == Spline((1.0, 1.0, 1.0))
    given = config(write, "schedule: {curriculum: {shape: spline, rises: [0, 1]}}\n")
    assert choose(given, upper)["curriculum"] == {"shape": "spline", "rises": [0.0, 1.0]}
    entrodrop = settings_of(fix_values(given, choose(given, upper))).entrodrop
    assert entrodrop is not None
    assert entrodrop.curriculum == Spline((0.0, 1.0))


def test_model_settings(write: Any) -> None:
    assert model_settings_of(config(write)) == ModelSettings()
    overrides = [
        "training.lora={rank: 8, alpha: 16}",
        "training.compile=true",
        "training.gradient_checkpointing=true",
        "training.sharding=ddp",
        "evaluation={exact_match: 4, max_new_tokens: 9, answer_pattern: '(.)'}",
    ]
    expected = ModelSettings(Lora(8, 16.0), True, True, "ddp", ExactMatch(4, 9, "(.)"))
    assert model_settings_of(config(write, "", *overrides)) == expected


def test_what_is_to_be_prepared(write: Any, tmp_path: Path) -> None:
    splits = Splits((), (), ())
    what = preparation_of(config(write, FIXED, "data.train_on_prompt=false"), splits, tmp_path)
    assert (what.layout, what.train_on_prompt, what.reference) == ("packed", False, "builtin/micro")
    assert (what.mask_token, what.needs_mask_token) == ("<mask>", True)
    what = preparation_of(config(write, "schedule: null\n", "training.layout=padded"), splits, tmp_path)
    assert (what.layout, what.reference, what.needs_mask_token) == ("padded", None, False)


def test_general_documents_are_of_another_source(write: Any) -> None:
    text = "general: {source: builtin, task: letter_counting, documents: 5}\n"
    splits = splits_of(config(write, text))
    assert [len(part) for part in (splits.train, splits.validation, splits.test, splits.general)] == [24, 20, 20, 5]
    assert not {d.text for d in splits.general} & {d.text for d in splits.train}


@pytest.mark.parametrize("name", ["search.session", "trainables.config.run", "trainables.slots.worker_group"])
def test_a_search_and_its_slots_begin_without_what_is_slow_to_load(name: str) -> None:
    import subprocess
    import sys

    code = f"import sys, {name}; print({{'torch', 'matplotlib', 'plotly', 'scipy.stats'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
