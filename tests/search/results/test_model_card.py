"""The card of a confirmed model, as the hub reads it."""

from pathlib import Path
from unittest import mock

import pytest
import yaml
from huggingface_hub import ModelCard

from search.results.model_card import render_card
from search.results.model_result import ModelResult
from search.space import Space
from tests.search import fed as made_up
from tests.search.fed import fed, space


def searched(tmp_path: Path, asked: Space, effect: float) -> ModelResult:
    with mock.patch.dict(made_up.EFFECTS, {"entrodrop": effect}):
        return fed(tmp_path, asked)


@pytest.mark.parametrize(("effect", "arm"), [(-3.0, "entrodrop"), (3.0, "no dropout")])
def test_a_card_tells_the_verdict_and_how_to_train_it_again(tmp_path: Path, effect: float, arm: str) -> None:
    asked = space()
    result = searched(tmp_path, asked, effect)
    card = ModelCard(render_card(result, asked))
    assert card.data.library_name == "transformers"
    assert card.data.tags == (["entrodrop"] if arm == "entrodrop" else [])
    # A model of this package's own is on no hub.
    assert card.data.base_model is None
    assert f"fine-tuned with {arm}" in card.text
    assert f"says: use {'trial 3 of ' if arm == 'entrodrop' else ''}{arm}" in card.text
    best = result.verdict["best"]
    if arm == "entrodrop":
        assert f"{best.mean:+.4f} ({best.low:+.4f} to {best.high:+.4f})" in card.text
    schedule = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert schedule["models"] == ["builtin/nano"]


def test_a_card_names_what_is_on_the_hub(tmp_path: Path) -> None:
    asked = space()
    result = searched(tmp_path, asked, -3.0)
    data = {"source": "hub", "path": "openai/gsm8k", "template": "{question}", "train": 4, "validation": 3, "test": 6}
    of_hub = Space.model_validate(asked.model_dump() | {"data": data, "models": ["hub:Qwen/Qwen3-0.6B@main"]})
    with mock.patch.object(ModelResult, "model", "hub:Qwen/Qwen3-0.6B@main"):
        card = ModelCard(render_card(result, of_hub))
    assert card.data.base_model == "Qwen/Qwen3-0.6B"
    assert card.data.datasets == ["openai/gsm8k"]
