"""GPUs by name: their memory and their greatest speeds, from their data sheets."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

# Of the greatest speed, what training reaches with models of this size.
UTILISATION = 0.4


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, and floating-point operations in a second.

    Attributes:
        bf16: with dense matrices, on tensor cores.
        fp32: outside of tensor cores, as torch multiplies by default: without TF32.
    """

    memory: float
    bf16: float
    fp32: float

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32

    def seconds(self, operations: float, precision: str) -> float:
        return operations / (self.peak(precision) * UTILISATION)


# Data sheets of NVIDIA; of the H100 and H200 for SXM, of the B200 as in an HGX B200, of the A10G the one for AWS.
GPUS = {
    "A100-40GB": Gpu(40e9, 312e12, 19.5e12),
    "A100": Gpu(80e9, 312e12, 19.5e12),
    "H100": Gpu(80e9, 989e12, 67e12),
    "H200": Gpu(141e9, 989e12, 67e12),
    "B200": Gpu(180e9, 2250e12, 75e12),
    "A10": Gpu(24e9, 125e12, 31.2e12),
    "A10G": Gpu(24e9, 70e12, 35e12),
    "L4": Gpu(24e9, 121e12, 30.3e12),
    "L40S": Gpu(48e9, 362e12, 91.6e12),
    "RTX3090": Gpu(24e9, 71e12, 35.6e12),
    "RTX4090": Gpu(24e9, 165e12, 82.6e12),
}


def described(text: str) -> tuple[int, Gpu]:
    """How many GPUs, and of which kind, as in 8xH100.

    Raises:
        ValueError: not of this form, or an unknown GPU; it says what is allowed.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x(.+)", text)
    name = match[2] if match else text
    if match is None or name not in GPUS:
        close = get_close_matches(name.upper(), GPUS, n=1)
        nearest = f"; did you mean '{match[1] if match else 1}x{close[0]}'?" if close else ""
        raise ValueError(f"a number, x and one of {', '.join(GPUS)}, as in 8xH100{nearest}")
    return int(match[1]), GPUS[name]


def named(name: str, memory: float) -> Gpu | None:
    """The kind of a GPU, from what its driver calls it, as in "NVIDIA H100 80GB HBM3"; None if it is unknown.

    Args:
        memory: its bytes, which tell one of two kinds of the same name.
    """
    words = re.sub(r"[^A-Z0-9]+", " ", name.upper()).replace("RTX ", "RTX").split()
    found = [gpu for kind, gpu in GPUS.items() if kind.partition("-")[0] in words]
    return min(found, key=lambda gpu: abs(gpu.memory - memory), default=None)
