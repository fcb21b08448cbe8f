"""Entropies of a datasets.Dataset."""

from pathlib import Path

import datasets
import pytest

from tests import tiny
from trainables.models.loading import load_model
from trainables.preparation.dataset_scoring import score_dataset


def test_a_sample_without_tokens_has_no_entropies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    model = load_model(tiny.folder("tiny", tmp_path), tiny.CPU)
    data = datasets.Dataset.from_dict({"input_ids": [[], [5, 6, 7, 8]], "labels": [[], [5, 6, 7, 8]]})
    scored, _ = score_dataset(data, lambda: model, "weights", [])
    assert [len(row["entropy"]) for row in scored] == [0, 4]
    assert [row["place"] for row in scored] == [[], [0, 1, 2, 3]]
