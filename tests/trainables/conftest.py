"""Fixtures that the tests of `trainables` share."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from trainables.preparation.prepared import Prepared
from trainables.training.warm_model import WarmModel

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def prepared(cache: Path) -> Prepared:
    return tiny.prepared(cache)


@pytest.fixture(scope="session")
def warm(prepared: Prepared) -> WarmModel:
    """Each run resets it, so that all tests can share it."""
    return WarmModel(prepared, tiny.CPU)
