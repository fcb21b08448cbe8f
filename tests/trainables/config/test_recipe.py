"""One setting, from the file that a search leaves behind."""

from pathlib import Path
from typing import Any

import pytest

from tests.configs import FILES, MINIMAL, failure
from trainables.config.recipe import RecipeConfig, load_recipe
from trainables.config.to_settings import model_settings_of, preparation_of, settings_of
from trainables.curriculum import Step
from trainables.data.documents import Splits
from trainables.errors import ConfigError
from trainables.settings import EntroDrop, ExactMatch, Lora

SCHEDULE = """\
schedule:
  entropy_threshold: {quantile: 0.5}
  mask_ratio: 0.4
  curriculum: [{shape: step, at: 0.3}]
"""
SEARCH = """\
objective: best
early_stopping: {pruner: rungs}
sampler: {name: tpe}
resources: {slots: 64, workers: 3}
tracking: {uri: null}
"""


def test_a_recipe_has_all_that_a_run_needs(write: Any) -> None:
    more = """\
budget: {trials: 2, epochs: 5}
training: {learning_rate: [0.01], lora: {rank: 4, alpha: 8}, layout: padded, sequence_length: 64}
evaluation: {exact_match: 3, high_entropy: 0.1}
general: {source: reasoning_gym, task: chain_sum, documents: 7}
"""
    path = write(MINIMAL + SCHEDULE + SEARCH + more, "best.yaml")
    config = load_recipe(path, ["seed=4", "schedule.reference=builtin/micro"]).config
    assert (config.name, config.seed, config.models) == ("best", 4, ["builtin/nano"])
    settings, how = settings_of(config), model_settings_of(config)
    assert settings.entrodrop == EntroDrop(0.4, Step(0.3), quantile=0.5)
    assert (settings.epochs, settings.learning_rate, settings.seed) == (5, 0.01, 4)
    assert (how.lora, how.exact_match) == (Lora(4, 8.0), ExactMatch(3))
    what = preparation_of(config, Splits((), (), ()), Path("cache"))
    assert (what.sequence_length, what.layout, what.train_on_prompt) == (64, "padded", True)
    assert (what.high_entropy, what.low_entropy) == (0.1, 0.5)
    assert (what.reference, what.mask_token, what.needs_mask_token) == ("builtin/micro", None, False)


def test_without_a_schedule_nothing_is_dropped(write: Any) -> None:
    assert settings_of(load_recipe(write(MINIMAL + "schedule: null\n")).config).entrodrop is None


def test_a_later_error_finds_its_line(write: Any) -> None:
    path = write(MINIMAL + SCHEDULE)
    told = str(load_recipe(path).error("data.task", "'x'", "a task of reasoning-gym"))
    assert told == f"{path}:4: data.task: given 'x'; allowed: a task of reasoning-gym"


ALLOWED = "allowed: one value; python -m search.run searches"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("schedule.mask_ratio={low: 0, high: 1}", 'schedule.mask_ratio: given {"low": 0.0, "high": 1.0, "log": false}'),
        ("schedule.entropy_threshold.quantile=[0.1, 0.2]", "schedule.entropy_threshold.quantile: given [0.1, 0.2]"),
        ("schedule.tokens=[random, low_entropy]", "schedule.tokens: given [random, low_entropy]"),
        ("schedule.presentation=[input, loss]", "schedule.presentation: given [input, loss]"),
        ("schedule.refresh_epochs=[0, 1]", "schedule.refresh_epochs: given [0, 1]"),
        ("schedule.curriculum=[{shape: linear}, {shape: step, at: 0.1}]", "schedule.curriculum: given [linear, step]"),
        ("schedule.curriculum.0.at=[0.1, 0.2]", "schedule.curriculum.0.at: given [0.1, 0.2]"),
        ("schedule.curriculum.0={shape: step}", "schedule.curriculum.0.at: given nothing, which stands for {"),
        ("schedule.curriculum.0={shape: spline}", "schedule.curriculum.0.rises: given nothing, which stands for null"),
        ("training.learning_rate=[0.1, 0.2]", "training.learning_rate: given [0.1, 0.2]"),
        ("schedule.redraw=[epoch, never]", "schedule.redraw: given [epoch, never]"),
        ("schedule.curriculum.0={shape: linear, until: [0.5, 1]}", "schedule.curriculum.0.until: given [0.5, 1.0]"),
        ("training.token_weight={kind: power, exponent: [1, 2]}", "training.token_weight.exponent: given [1.0, 2.0]"),
        ("training.lora={rank: [4, 8], alpha: 8}", "training.lora.rank: given [4, 8]"),
        (
            "training.lora={rank: 4, alpha: 8, target_modules: [[a], [b]]}",
            "training.lora.target_modules: given [['a'], ",
        ),
        ("training.hidden_dropout={low: 0, high: 0.1}", 'training.hidden_dropout: given {"low": 0.0, "high": 0.1'),
    ],
)
def test_what_is_searched_is_told(write: Any, override: str, told: str) -> None:
    line = failure(write(MINIMAL + SCHEDULE), override, schema=RecipeConfig)
    assert told in line
    assert line.endswith(ALLOWED)


def test_a_schedule_that_is_not_given_is_searched(write: Any) -> None:
    line = failure(write(MINIMAL), schema=RecipeConfig)
    assert "schedule.entropy_threshold.quantile: given " in line
    assert line.endswith(ALLOWED)


def test_a_recipe_has_one_model(write: Any) -> None:
    line = failure(write(MINIMAL + SCHEDULE), "models=[builtin/nano, builtin/micro]", schema=RecipeConfig)
    assert "models: given [" in line
    assert "allowed: one model; python -m search.run searches" in line


def test_wrong_recipes_are_told(write: Any, tmp_path: Path) -> None:
    assert "samplers: given an unknown key" in failure(write(MINIMAL + "samplers: 3\n"), schema=RecipeConfig)
    told = failure(write(MINIMAL + SCHEDULE), "training.accumulation=3", schema=RecipeConfig)
    assert "training.batch_size: given 4; allowed: a multiple of training.accumulation (3)" in told
    with pytest.raises(ConfigError, match="there is no such file"):
        load_recipe(tmp_path / "best_schedule.yaml")


def test_a_files_recipe_reads_beside_itself(write: Any, tmp_path: Path) -> None:
    data = load_recipe(write(FILES + SCHEDULE)).config.data
    assert data.source == "files"
    assert data.path == str(tmp_path / "my.jsonl")
