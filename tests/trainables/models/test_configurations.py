"""Configurations of models without their weights."""

from pathlib import Path
from unittest import mock

import pytest

from trainables.errors import ModelError
from trainables.models.configurations import config_of
from trainables.settings import ModelSettings
from trainables.training.memory_estimate import network_of


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("0.6B", 596_049_920), ("1.7B", 1_720_574_976), ("4B", 4_022_468_096), ("8B", 8_190_735_360)],
)
def test_the_published_ones_have_the_parameters_of_the_models(size: str, parameters: int, tmp_path: Path) -> None:
    with mock.patch("socket.socket.connect", side_effect=OSError("no network")):
        config = config_of(f"hub:Qwen/Qwen3-{size}@main", tmp_path)
    assert network_of(config, ModelSettings()).parameters == parameters


def test_a_model_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with (
        mock.patch(
            "trainables.models.configurations.from_hub", side_effect=ModelError("models", "hub:a/b", "one there is")
        ),
        pytest.raises(ModelError, match="hub:a/b"),
    ):
        config_of("hub:a/b", tmp_path)


def test_the_hub_is_asked_for_nothing_but_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 3}')
    asked: list[tuple[tuple[str, ...], bool]] = []

    def from_hub(_: str, *patterns: str, cached_only: bool = False) -> Path:
        asked.append((patterns, cached_only))
        if cached_only:
            raise ModelError("models", "hub:a/c", "one there is")
        return tmp_path

    with mock.patch("trainables.models.configurations.from_hub", from_hub):
        assert config_of("hub:a/c", tmp_path).num_hidden_layers == 3
    assert asked == [((), True), (("config.json",), False)]
