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
