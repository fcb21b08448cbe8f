"""How many workers and slots each model gets on described GPUs."""

from pathlib import Path
from typing import Any

import pytest

from search.hardware import GPUS, ClusterResources, find_gpu, parse_gpus
from search.scheduling.allocation import Allocation, allocate, group_by_allocation, with_allocation
from search.scheduling.model_memory import estimate_memory, network, usable_bytes
from search.space import Space
from trainables.config.training import Evaluation
from trainables.errors import DataError, ModelError

GPU_BYTES = GPUS["H100"].memory


def space(workers: Any = "auto", slots: Any = "auto", gpus: float = 1, **training: Any) -> Space:
    values = {
        "models": ["hub:Qwen/Qwen3-0.6B", "hub:Qwen/Qwen3-8B"],
        "data": {"source": "builtin", "task": "word_problems", "train": 4, "validation": 4, "test": 6},
        "training": {
            "batch_size": 8,
            "sequence_length": 512,
            "precision": "bf16",
            "gradient_checkpointing": True,
            **training,
        },
        "resources": {"workers": workers, "slots": slots, "gpus_per_worker": gpus},
    }
    return Space.model_validate(values, context={"folder": Path()})


def on_gpus(space: Space, model: str, count: int) -> Allocation:
    return allocate(space, model, ClusterResources.of_gpus(count, GPUS["H100"]))


SMALL, LARGE = "hub:Qwen/Qwen3-0.6B", "hub:Qwen/Qwen3-8B"


@pytest.mark.faults
def test_a_larger_model_has_more_workers_and_fewer_slots() -> None:
    small, large = on_gpus(space(), SMALL, 8), on_gpus(space(), LARGE, 8)
    assert small == Allocation(1, 8)
    assert large.workers > 1
    assert large.slots == 8 // large.workers
    # The fewest: with half as many it does not fit.
    for workers, fits in ((large.workers, True), (large.workers // 2, False)):
        assert (
            estimate_memory(space(), LARGE, workers, GPU_BYTES)[0].total <= usable_bytes(space(), GPU_BYTES)
        ) is fits


@pytest.mark.faults
def test_slots_are_the_most_where_workers_are_auto_and_a_count_where_not() -> None:
    assert on_gpus(space(slots=3), SMALL, 8) == Allocation(1, 3)
    assert on_gpus(space(slots=3), LARGE, 8).slots == 2
    assert on_gpus(space(workers=2, slots=3), SMALL, 8) == Allocation(2, 3)
    assert on_gpus(space(workers=2), SMALL, 8) == Allocation(2, 4)


@pytest.mark.faults
def test_slots_of_one_worker_share_gpus() -> None:
    assert on_gpus(space(gpus=0.25), SMALL, 2) == Allocation(1, 8)
    assert on_gpus(space(gpus=0.25, slots=3), SMALL, 1) == Allocation(1, 3)
    # A worker is on one GPU: three take 0.9 of it, and nothing else fits on the rest of two.
    assert on_gpus(space(gpus=0.3), SMALL, 2) == Allocation(1, 6)
    with pytest.raises(DataError, match=r"with 1 worker, the most .* and 6\.7 GB may be used \(8% of 80 GB\)"):
        on_gpus(space(gpus=0.1, batch_size=64), SMALL, 8)


def test_of_each_share_of_a_gpu_cuda_itself_takes_its_part() -> None:
    # 90% of what 0.6 GB leave of 20 GB and of 80 GB.
    assert usable_bytes(space(gpus=0.25), 80e9) == pytest.approx(17.46e9)
    assert usable_bytes(space(), 80e9) == pytest.approx(71.46e9)
    for workers in ("auto", 1):
        with pytest.raises(DataError) as refused:
            allocate(space(workers, gpus=0.02), SMALL, ClusterResources.of_gpus(1, GPUS["L4"]))
        assert str(refused.value) == (
            "resources.gpus_per_worker: given 0.02; allowed: 0, or above 0.025: a worker would have 0.5 GB of 24 GB, "
            "and CUDA itself takes about 0.6 GB"
        )


def test_without_gpus_there_is_one_worker_and_a_slot_for_each_cpu() -> None:
    assert allocate(space(gpus=0), SMALL, ClusterResources({"CPU": 5.0})) == Allocation(1, 5)


def test_of_several_kinds_of_gpus_the_one_of_least_memory_counts() -> None:
    cluster = ClusterResources.with_gpus({"GPU": 2.0}, [("NVIDIA H200", 150e9), ("NVIDIA L4", 23.6e9)])
    assert (cluster.gpu, cluster.gpu_bytes) == (GPUS["L4"], 23.6e9)
    # Of an unknown kind the memory is known.
    cluster = ClusterResources.with_gpus({"GPU": 2.0}, [("NVIDIA H200", 150e9), ("Tesla T4", 15.8e9)])
    assert (cluster.gpu, cluster.gpu_bytes) == (None, 15.8e9)


def test_where_the_memory_of_the_gpus_is_not_known_workers_are_not_found() -> None:
    with pytest.raises(DataError) as refused:
        allocate(space(), SMALL, ClusterResources({"CPU": 8.0, "GPU": 8.0}))
    assert str(refused.value) == (
        "resources.workers: the memory of the GPUs is not known; write a number in place of auto"
    )
    assert allocate(space(2), SMALL, ClusterResources({"CPU": 8.0, "GPU": 8.0})) == Allocation(2, 4)


def test_workers_are_counted_as_they_fit_on_the_nodes() -> None:
    nodes = [{"CPU": 6.0}] * 3
    cluster = ClusterResources({"CPU": 18.0}, nodes=nodes)
    wide = space(gpus=0)
    wide = wide.model_copy(update={"resources": wide.resources.model_copy(update={"cpus_per_worker": 4})})
    assert allocate(wide, SMALL, cluster) == Allocation(1, 3)
    # GPUs on a node without CPUs enough serve nobody.
    nodes = [{"CPU": 64.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 8.0}]
    cluster = ClusterResources({"CPU": 65.0, "GPU": 12.0}, GPUS["H100"], GPU_BYTES, nodes)
    assert allocate(space(), SMALL, cluster) == Allocation(1, 5)


@pytest.mark.faults
def test_what_never_fits_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError) as refused:
        on_gpus(space(), LARGE, 1)
    line = str(refused.value)
    assert line.startswith("resources.workers: ")
    for part in (LARGE, "GB of each GPU with 1 worker", "71.5 GB may be used", "89% of 80 GB"):
        assert part in line
    # Two rows cannot be shared out to four workers.
    with pytest.raises(DataError, match="with 2 workers"):
        on_gpus(space(batch_size=2), LARGE, 8)


@pytest.mark.faults
def test_a_model_that_one_gpu_cannot_load_is_refused_with_the_numbers() -> None:
    # Shared out to four workers its training would fit.
    adapted, small = space(lora={"rank": 4, "alpha": 8}), GPUS["L4"]
    assert estimate_memory(adapted, LARGE, 4, small.memory)[0].total < usable_bytes(adapted, small.memory)
    with pytest.raises(
        DataError,
        match=rf"models: {LARGE} does not fit on one GPU.* 32\.8 GB in float32, and 21\.1 GB may be used \(88%",
    ):
        allocate(adapted, LARGE, ClusterResources.of_gpus(8, small))


def test_a_count_with_which_not_even_the_state_fits_is_refused_with_the_numbers() -> None:
    # 8.19e9 parameters of 24 bytes; with FSDP a part of them on each.
    with pytest.raises(DataError) as refused:
        on_gpus(space(1), LARGE, 8)
    assert str(refused.value) == (
        f"resources.workers: {LARGE} does not fit with 1: its weights, their copies and gradients and AdamW's moments "
        "alone take 196.6 GB of each GPU, and 71.5 GB may be used (89% of 80 GB); write auto, or use larger GPUs"
    )
    with pytest.raises(DataError, match=r"alone take 98\.3 GB"):
        on_gpus(space(2), LARGE, 8)
    with pytest.raises(DataError, match=r"alone take 229\.3 GB"):
        on_gpus(space(4, sharding="ddp"), LARGE, 8)
    assert on_gpus(space(4), LARGE, 8) == Allocation(4, 2)
    # The best weights are kept for a confirmation only.
    alone = space(2).model_copy(update={"confirmation": None})
    with pytest.raises(DataError, match=r"alone take 81\.9 GB"):
        on_gpus(alone, LARGE, 8)


@pytest.mark.faults
@pytest.mark.parametrize("workers", ["auto", 4])
def test_answers_are_refused_of_a_model_that_no_worker_has_whole(workers: int | str) -> None:
    asked = space(workers).model_copy(update={"evaluation": Evaluation(exact_match=2)})
    assert on_gpus(asked, SMALL, 8) == on_gpus(space(workers), SMALL, 8)
    with pytest.raises(DataError, match=r"evaluation.exact_match: given 2; allowed: 0 where 4 workers share hub:Qwen"):
        on_gpus(asked, LARGE, 8)


def test_layers_that_one_of_the_choices_names_are_looked_for() -> None:
    for targets in ([["q_proj", "v_proj"], "all-linear"], ["all-linear", ["q_prj"]]):
        lora = {"rank": 4, "alpha": 8.0, "target_modules": targets}
        asked = space(lora=lora).model_copy(update={"models": ["builtin/nano"]})
        if targets[0] == "all-linear":
            with pytest.raises(ModelError, match="'q_prj'"):
                network(asked, "builtin/nano")
        else:
            assert network(asked, "builtin/nano").trained > 0


def test_a_space_takes_the_counts_that_were_found() -> None:
    found = with_allocation(space(), Allocation(4, 2)).resources
    assert (found.counts, found.devices, found.automatic) == ((4, 2), 4, False)


def test_models_that_get_the_same_share_their_slots_where_one_follows_the_other() -> None:
    one, two = Allocation(1, 2), Allocation(2, 1)
    assert group_by_allocation("abc", dict.fromkeys("abc", one)) == [(one, ["a", "b", "c"])]
    assert group_by_allocation("abcd", dict(zip("abcd", (one, one, two, one), strict=True))) == [
        (one, ["a", "b"]),
        (two, ["c"]),
        (one, ["d"]),
    ]


def test_gpus_by_name() -> None:
    assert parse_gpus("8xH100") == (8, GPUS["H100"])
    for name, memory, kind in (
        ("NVIDIA H100 80GB HBM3", 85e9, "H100"),
        ("NVIDIA A100-SXM4-40GB", 42e9, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", 85e9, "A100"),
        ("NVIDIA A10G", 23.6e9, "A10G"),
        ("NVIDIA A10", 23.6e9, "A10"),
        ("NVIDIA GeForce RTX 4090", 25e9, "RTX4090"),
        # Ray's name for it.
        ("GeForce-RTX-4090", 25e9, "RTX4090"),
        ("NVIDIA L40S", 47e9, "L40S"),
    ):
        assert find_gpu(name, memory) is GPUS[kind]
    assert find_gpu("Tesla T4", 16e9) is None
    for wrong, nearest in (("8xh100", "did you mean '8xH100'?"), ("H100", "'1xH100'"), ("0xH100", ""), ("8", "")):
        with pytest.raises(ValueError, match="a number, x and one of A100-40GB") as refused:
            parse_gpus(wrong)
        assert nearest in str(refused.value)
        assert "\n" not in str(refused.value)
