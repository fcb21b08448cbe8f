"""liger-kernel against a dense loss: on a GPU, or in Triton's interpreter where that is installed."""

import os
import subprocess
import sys

import pytest
import torch

from trainables import liger

PARITY = """\
import torch
from trainables import liger
for dtype, tolerance in liger.TOLERANCE.items():
    for label_smoothing in (0.0, 0.1):
        error = liger.parity(torch.device("cpu"), dtype, label_smoothing)
        assert error <= tolerance, (dtype, label_smoothing, error)
hidden_ND, output_VD = torch.eye(4), 3 * torch.eye(4)
loss_N, correct_N = liger.fused_loss(hidden_ND, output_VD, torch.tensor([0, 2, -100, 3]), 0.0)
assert correct_N.tolist() == [True, False, False, True]
assert loss_N[2] == 0
"""


def test_nothing_is_fused_on_a_cpu() -> None:
    assert not liger.usable(torch.zeros(1, 1))


@pytest.mark.faults
def test_the_kernels_agree_in_the_interpreter() -> None:
    pytest.importorskip("liger_kernel", reason='pip install -e ".[cuda]"')
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PARITY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", liger.TOLERANCE)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_kernels_agree_on_a_gpu(dtype: torch.dtype, label_smoothing: float) -> None:
    pytest.importorskip("liger_kernel")
    assert liger.parity(torch.device("cuda"), dtype, label_smoothing) <= liger.TOLERANCE[dtype]
    assert liger.usable(torch.zeros(1, 1, dtype=dtype, device="cuda"))
