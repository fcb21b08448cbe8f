"""The learning rate over the full budget: it depends on the step and on nothing that stops a run early."""

import math

from trainables.settings import Settings


def learning_rate(settings: Settings, step: int, total: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total`.

    A linear warm-up to the peak over the first `warmup` share of the steps; then "constant"; "cosine": half a cosine
    wave to zero (arXiv 1608.03983, without restarts); or "wsd": constant, then linear to zero over the last `lr_decay`
    share (warmup, stable, decay; arXiv 2404.06395).
    """
    warmup = math.ceil(settings.warmup * total)
    peak = settings.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    match settings.lr_schedule:
        case "constant":
            return peak
        case "cosine":
            return peak * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
        case "wsd":
            return peak * min(1.0, (total - step) / max(math.ceil(settings.lr_decay * total), 1))
    raise ValueError(f"lr_schedule {settings.lr_schedule!r}")
