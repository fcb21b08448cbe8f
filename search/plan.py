"""What a search will do, before it does it: `python -m search.run SPACE --dry-run`."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from search.curricula import curriculum_name
from search.record import flat
from search.space import Budget, Space, check_tokens
from search.studies.arms import needs_mask_token
from search.studies.confirmation import Confirmation
from search.studies.size import SizeStudy
from trainables.builtin import ARCHITECTURES, unweighted
from trainables.cache import default_root
from trainables.config.data import split_sizes
from trainables.documents import Splits
from trainables.entropy import check_words
from trainables.forward import PRECISIONS, Forward
from trainables.models import embeddings_of, load_model, load_tokenizer
from trainables.packing import Packed, pack
from trainables.prepare import check_length, mask_token_of
from trainables.weights import model_folder

# Seconds that processes take to start, measured with two slots on two cores; LOG.md has the command.
_START_S = 45.0
# The baseline, the first guess, and three that the sampler draws.
_SAMPLES = 5


@dataclass(frozen=True)
class _Cost:
    """Tokens, and device seconds."""

    tokens: int
    device_s: float

    def times(self, runs: int) -> "_Cost":
        return _Cost(self.tokens * runs, self.device_s * runs)

    def plus(self, other: "_Cost") -> "_Cost":
        return _Cost(self.tokens + other.tokens, self.device_s + other.device_s)

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, about {_duration(self.device_s)} of device time"


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
    if limits := _limits(space.budget):
        lines.append(f"limits    {limits}; what runs then runs on")
    total = _Cost(0, 0.0)
    for model in space.models:
        own, most = _size(model, space, splits)
        lines += ["", *own]
        total = total.plus(most)
    minutes = (_START_S + total.device_s / resources.slots / resources.devices) / 60
    timed = "timed on a CPU; " if resources.gpus_per_worker else ""
    return [
        *lines,
        "",
        f"in all    {total} at most",
        f"expected  about {minutes:.1f} minutes at most, {timed}base weights not included",
    ]


def _limits(budget: Budget) -> str:
    named = {
        "tokens in each arm": budget.tokens,
        "hours": budget.hours,
        "device hours": budget.device_hours,
    }
    given = [f"{limit:,} {what}" for what, limit in named.items() if limit is not None]
    return f"{', '.join(given)} for the search of each model" if given else ""


def _size(model: str, space: Space, splits: Splits) -> tuple[list[str], _Cost]:
    """The plan of one model size, and the most that it can cost."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "plan.journal"
        study = SizeStudy(journal, model, space)
        train, trial_s = _measure(model, space, splits)
        trial = _Cost(train.tokens * space.budget.epochs, trial_s * space.resources.devices)
        if space.budget.tokens is not None:
            check_tokens(space.budget.tokens, trial.tokens, model)
        most = _most(space, study, trial)
        lines = [f"{model}: {study.planned} trials of {space.budget.epochs} epochs"]
        if space.arms is not None:
            lines.append(f"  arms    {', '.join(f'{arm.name} {arm.trials}' for arm in study.arms.values())}")
        lines += [
            f"  a trial {train.tokens:,} tokens an epoch; {trial}, less where it is stopped early",
            f"  search  {most} at most",
        ]
        if space.confirmation is not None:
            runs = Confirmation(journal, study, space).planned
            lines.append(f"  confirm {runs} runs; {trial.times(runs)}")
            most = most.plus(trial.times(runs))
        return [*lines, "  samples", *_samples(study, trial.tokens)], most


def _most(space: Space, study: SizeStudy, trial: _Cost) -> _Cost:
    """The most that the search of a size can cost, with the limits of its budget, which are looked at before a trial
    begins. Limits of time are not made limits of tokens: the speed is only estimated."""
    budget, slots = space.budget, space.resources.slots
    trials = [arm.trials * trial.tokens for arm in study.arms.values()]
    tokens = sum(trials if budget.tokens is None else (min(each, budget.tokens + trial.tokens) for each in trials))
    device_s = [trial.device_s * tokens / trial.tokens]
    if budget.hours is not None:
        device_s.append(slots * (3600 * budget.hours * space.resources.devices + trial.device_s))
    if budget.device_hours is not None:
        device_s.append(3600 * budget.device_hours + slots * trial.device_s)
    return _Cost(tokens, min(device_s))


def _samples(study: SizeStudy, full_tokens: int) -> list[str]:
    """The first trials, a line each; not those that wait for others to end."""
    lines: list[str] = []
    study.prepared(full_tokens)
    while len(lines) < _SAMPLES and (candidate := study.ask()) is not None:
        settings = ", ".join(f"{name}={_short(value)}" for name, value in flat(candidate.parameters).items())
        arm = curriculum_name(candidate.arm, candidate.parameters)
        lines.append(f"    {candidate.number}: {arm} ({settings})")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


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
    if space.schedule is not None:
        mask_token_of(tokenizer, space.schedule.mask_token, needs_mask_token(space))
    training = space.training
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    check_length(training.sequence_length, longest, model)
    how: dict[str, Any] = {"layout": training.layout, "train_on_prompt": space.data.train_on_prompt}
    train, _ = pack(splits.train, tokenizer, training.sequence_length, **how)
    held_out, _ = pack(splits.validation, tokenizer, training.sequence_length, **how)
    for packed in (train, held_out):
        check_words(packed, embeddings_of(network), model)
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
