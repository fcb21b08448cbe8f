"""Entropies computed by several processes are those of one."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from search.scheduling import entropy_scoring
from tests import tiny
from tests.clusters import ray_of_a_search
from trainables.forward import ROWS
from trainables.preparation.scoring import score_folder

pytestmark = pytest.mark.cluster


@pytest.fixture
def _ray(tmp_path: Path) -> Iterator[None]:
    with ray_of_a_search(tmp_path / "output"):
        yield


@pytest.mark.usefixtures("_ray")
def test_two_processes_score_like_one(tmp_path: Path) -> None:
    packed = tiny.prepared(tmp_path, layout="padded").packed("train")
    batches = -(-len(packed.token_RT) // ROWS)
    assert batches > 2
    folder = tiny.folder("tiny", tmp_path)
    shares: list[float] = []
    with mock.patch.object(entropy_scoring, "_WORTH_SPREADING", 0.0):
        entropy_RT, loss_RT = entropy_scoring.score_on_all_devices(
            folder, packed, True, shares.append, gpus=False, source=None, cache=tmp_path
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(entropy_scoring.THREADS)
    expected = score_folder(folder, packed, True)
    torch.set_num_threads(threads)
    assert torch.equal(entropy_RT, expected[0])
    assert torch.equal(loss_RT, expected[1])
    assert shares == [(n + 1) / batches for n in range(batches)]
