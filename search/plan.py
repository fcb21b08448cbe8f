"""What a search will do, before it does it: `python -m search.run SPACE --dry-run`."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from search.record import curriculum_name, flat
from search.space import Space
from search.study import BASELINE, SizeStudy
from trainables.builtin import ARCHITECTURES, unweighted
from trainables.cache import default_root
from trainables.config.data import split_sizes
from trainables.documents import Splits
from trainables.forward import Forward
from trainables.models import load_model, load_tokenizer, model_folder
from trainables.packing import Packed, pack
from trainables.settings import PRECISIONS

# Seconds that processes take to start, measured with two slots on two cores; LOG.md has the command.
_START_S = 45.0
# The baseline, the first guess, and three that the sampler draws.
_SAMPLES = 5


def plan(space: Space, splits: Splits, cluster: dict[str, float]) -> list[str]:
    """The plan as lines for a person.

    Args:
        cluster: the resources there are, as Ray counts them.
    """
    lines = [f"search {space.name}: {', '.join(space.models)}; seed {space.seed}", ""]
    resources = space.resources
    workers = resources.slots * resources.workers
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        if each:
            lines.append(f"{kind}s      {workers * each} of {cluster.get(kind, 0):g} ({resources.slots} slots)")
    sizes = split_sizes(space.data)
    lines.append(f"documents {sizes.train} train, {sizes.validation} validation, {sizes.test} test")
    total_s = _START_S
    for model in space.models:
        with tempfile.TemporaryDirectory() as folder:
            study = SizeStudy(Path(folder) / "plan.journal", model, space)
            train, per_trial_s = _measure(model, space, splits)
            total_s += study.planned * per_trial_s / resources.slots
            tokens = train.tokens * space.budget.epochs
            lines += [
                "",
                f"{model}: {study.planned} trials of {space.budget.epochs} epochs",
                f"  tokens  {train.tokens:,} an epoch, {tokens:,} a trial, {tokens * study.planned:,} at most",
                f"  time    about {per_trial_s:.0f} s a trial, less where trials are stopped early",
                "  samples",
            ]
            study.prepared(train.tokens)
            for _ in range(min(_SAMPLES, study.planned)):
                candidate = study.ask()
                assert candidate is not None
                settings = ", ".join(f"{name}={_short(value)}" for name, value in flat(candidate.parameters).items())
                arm = "no dropout" if candidate.arm == BASELINE else curriculum_name(candidate)
                lines.append(f"    {candidate.number}: {arm} ({settings})")
    lines += ["", f"expected  about {total_s / 60:.1f} minutes at most, base weights not included"]
    return lines


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _network(model: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if model in ARCHITECTURES:
        return unweighted(model)
    folder = model_folder(model, default_root())
    return load_model(folder, torch.device("cpu")), load_tokenizer(folder)


def _measure(model: str, space: Space, splits: Splits) -> tuple[Packed, float]:
    """The packed training split, and the seconds of a full trial by one timed step."""
    network, tokenizer = _network(model)
    training = space.training
    how: dict[str, Any] = {"layout": training.layout, "train_on_prompt": space.data.train_on_prompt}
    train, _ = pack(splits.train, tokenizer, training.sequence_length, **how)
    held_out, _ = pack(splits.validation, tokenizer, training.sequence_length, **how)
    rows = slice(0, min(len(train.token_RT), max(1, training.batch_size // space.resources.workers)))
    part, forward = train[rows], Forward(network)
    threads = torch.get_num_threads()
    torch.set_num_threads(space.resources.cpus_per_worker)
    try:
        # The first step also loads kernels; the second one is timed.
        for _ in range(2):
            began = time.perf_counter()
            result = forward(part, part.label_RT, PRECISIONS[training.precision])
            result.loss_N.mean().backward()
            seconds = time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
    per_token = seconds / part.tokens / space.resources.workers
    # A forward pass is about a third of a training step.
    documents = len(splits.validation) + len(splits.general)
    evaluated = held_out.tokens * documents / len(splits.validation) * space.evaluation.per_epoch / 3
    return train, per_token * space.budget.epochs * (train.tokens + evaluated)
