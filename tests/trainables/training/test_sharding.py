"""How a model is shared out to ranks, without the other ranks."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests import tiny
from trainables.errors import DataError
from trainables.forward import Forward
from trainables.models.loading import load_model
from trainables.preparation.prepared import Prepared
from trainables.settings import ExactMatch, ModelSettings
from trainables.training.sharding import distribute
from trainables.training.warm_model import WarmModel


@pytest.fixture
def _two_ranks() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_two_ranks")
def test_a_model_on_cpus_stays_there_where_there_are_gpus(prepared: Prepared) -> None:
    forward = Forward(load_model(prepared.folder, tiny.CPU))
    with mock.patch("torch._C._get_accelerator", return_value=torch.device("cuda")):
        shared = distribute(forward, "fsdp")
    for parameter in shared.parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.device_mesh.device_type == "cpu"


@pytest.mark.usefixtures("_two_ranks")
def test_answers_are_refused_of_a_model_that_no_rank_has_whole(prepared: Prepared) -> None:
    how = ModelSettings(exact_match=ExactMatch(3))
    with (
        mock.patch("trainables.training.warm_model.device_bytes", return_value=1000),
        pytest.raises(DataError, match=r"evaluation.exact_match: given 3; allowed: 0 where 2 workers share tiny out"),
    ):
        WarmModel(prepared, tiny.CPU, how)
    # On CPUs each rank has the whole.
    with mock.patch("trainables.training.warm_model.distribute", side_effect=lambda forward, _: forward):
        assert WarmModel(prepared, tiny.CPU, how).how is how
