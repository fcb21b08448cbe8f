import pytest
import torch

from trainables.worker import _reason


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert _reason(caught.value) == "out of memory"
    assert _reason(torch.OutOfMemoryError("CUDA out of memory")) == "out of memory"
    assert _reason(MemoryError()) == "out of memory"
    assert _reason(ValueError("shape")) == "error"


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_cuda_itself_does_not_get_is_told_from_other_errors(text: str) -> None:
    assert _reason(RuntimeError(text)) == "out of memory"
    assert _reason(RuntimeError("CUDA error: device-side assert triggered")) == "error"
