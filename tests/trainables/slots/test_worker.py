from unittest import mock

import pytest
import torch

from trainables.slots.mailbox import Failure
from trainables.slots.worker import _classify, _keep_to


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
