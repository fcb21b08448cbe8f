import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests import tiny
from trainables.settings import Lora, ModelSettings
from trainables.slots.mailbox import Failure, RunSpec
from trainables.slots.worker import _classify, _keep_to, _NodeUse, _start
from trainables.training.warm_model import WarmModel


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert _classify(caught.value) == Failure.OUT_OF_MEMORY
    assert _classify(torch.OutOfMemoryError("CUDA out of memory")) == Failure.OUT_OF_MEMORY
    assert _classify(MemoryError()) == Failure.OUT_OF_MEMORY
    assert _classify(ValueError("shape")) == Failure.ERROR


def test_a_worker_keeps_to_its_share_of_a_gpu_with_what_cuda_itself_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = mock.Mock()
    cuda.get_device_properties.return_value.total_memory = 24e9
    monkeypatch.setattr("torch.cuda", cuda)
    gpu = torch.device("cuda", 0)
    for share, device in ((0.0, gpu), (1.0, gpu), (0.25, torch.device("cpu"))):
        _keep_to(share, device)
    cuda.set_per_process_memory_fraction.assert_not_called()
    _keep_to(0.25, gpu)
    # 6 GB less 0.6 GB.
    cuda.set_per_process_memory_fraction.assert_called_once_with(pytest.approx(5.4 / 24), gpu)


def test_the_use_of_the_gpu_is_its_mean_since_the_last_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    cuda = mock.Mock()
    cuda.mem_get_info.return_value = (60e9, 80e9)
    cuda.utilization.side_effect = [90, 30, 70, NVMLError("not supported")]
    monkeypatch.setattr("torch.cuda", cuda)
    monkeypatch.setitem(sys.modules, "pynvml", mock.Mock(NVMLError=NVMLError))
    assert not any("gpu" in name for name in _NodeUse(torch.device("cpu")).measure())
    use = _NodeUse(torch.device("cuda", 0))
    use.look()
    use.look()
    measured = use.measure()
    assert measured["system/gpu_0_utilization_percentage"] == 60
    assert measured["system/gpu_0_memory_usage_percentage"] == 25
    # An evaluation that comes within a second.
    assert use.measure()["system/gpu_0_utilization_percentage"] == 70
    # A driver that does not tell it, and a machine without NVML's bindings.
    assert "system/gpu_0_utilization_percentage" not in use.measure()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "system/gpu_0_utilization_percentage" not in use.measure()


def test_a_run_with_other_adapters_gets_another_model(tmp_path: Path) -> None:
    warm: dict[str, WarmModel] = {}
    prepared = tiny.prepared(tmp_path / "cache")
    built = []
    for lora in (Lora(4, 8.0), Lora(4, 8.0), Lora(2, 8.0, 0.1, ("q_proj",)), None):
        settings = json.loads(json.dumps(tiny.settings(lora=lora).to_json()))
        run_spec = RunSpec("tiny/0", None, settings, str(tmp_path / "run"))
        run = _start(run_spec, prepared, ModelSettings(lora=Lora(8, 8.0)), warm, tiny.CPU, mock.Mock())
        assert run.settings.lora == lora
        assert warm["tiny"] is run.warm
        assert run.warm.prepared is prepared
        built.append(run.warm)
    assert [model.how.lora for model in built] == [Lora(4, 8.0)] * 2 + [Lora(2, 8.0, 0.1, ("q_proj",)), Lora(8, 8.0)]
    assert built[0] is built[1]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_cuda_itself_does_not_get_is_told_from_other_errors(text: str) -> None:
    assert _classify(RuntimeError(text)) == Failure.OUT_OF_MEMORY
    assert _classify(RuntimeError("CUDA error: device-side assert triggered")) == Failure.ERROR
