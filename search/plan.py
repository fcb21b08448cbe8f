"""What a search will do, before it does it: `python -m search.run SPACE --dry-run`."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from optuna.storages import InMemoryStorage
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from search.arms import curriculum_name, flatten
from search.hardware import UTILISATION, ClusterResources
from search.learned_text import describe_split, legend
from search.scheduling.allocation import allocate, with_allocation
from search.scheduling.model_memory import estimate_memory, network, usable_bytes
from search.space import EXACT, Budget, ConfirmationBlock, Space, check_tokens
from search.studies.arm_spaces import needs_mask_token
from search.studies.comparison import point_of
from search.studies.confirmation import Confirmation
from search.studies.search_study import SearchStudy
from search.studies.storage import StudyStorage
from search.studies.verdict import CHANGED, expect_detectable
from trainables.config.data import stated_count
from trainables.config.to_settings import chat_template_of
from trainables.data.chat_tokens import ChatTokenizer
from trainables.data.documents import Splits, number_groups
from trainables.data.packing import Packed, pack
from trainables.errors import ModelError
from trainables.forward import PRECISIONS, Forward
from trainables.models.architectures import ARCHITECTURES
from trainables.models.builtin import unweighted
from trainables.models.loading import check_forward, load_model, load_tokenizer
from trainables.models.resolve import is_at_hand, model_folder
from trainables.preparation.checks import (
    check_evaluations,
    check_length,
    mask_token_of,
    of_reference,
    other_tokenizer,
)
from trainables.preparation.prepare import SPLITS, pack_splits
from trainables.preparation.scoring import check_finite, check_words
from trainables.storage.cache import default_root
from trainables.training.memory_estimate import checkpoint_bytes

# Seconds that processes take to start, measured with two slots on two cores; LOG.md has the command.
_START_S = 45.0
# Tokens that a training step is timed on, and seconds beyond which a single row of it stands for all.
_TIMED_TOKENS, _LONG_STEP_S = 1024, 2.0
# The largest model that is loaded to be looked at only: in float32 it takes four bytes for each.
_CHECKED_PARAMETERS = 1e9
# The baseline, the first guess, and three that the sampler draws.
_SAMPLES = 5


@dataclass(frozen=True)
class _Cost:
    """Tokens, and device seconds; None where nothing tells them.

    Attributes:
        on_gpus: whether a device is a GPU.
    """

    tokens: int
    device_s: float | None
    on_gpus: bool

    def times(self, runs: int) -> "_Cost":
        return replace(self, tokens=self.tokens * runs, device_s=self.device_s and self.device_s * runs)

    def plus(self, other: "_Cost") -> "_Cost":
        known = self.device_s is not None and other.device_s is not None
        device_s = (self.device_s or 0.0) + (other.device_s or 0.0) if known else None
        return replace(self, tokens=self.tokens + other.tokens, device_s=device_s)

    def __str__(self) -> str:
        if self.device_s is None:
            return f"{self.tokens:,} tokens"
        took = (
            f"{self.device_s / 3600:,.2f} GPU hours" if self.on_gpus else f"{_duration(self.device_s)} of device time"
        )
        return f"{self.tokens:,} tokens, about {took}"


@dataclass(frozen=True)
class _Tokens:
    """Tokens of an epoch and of an evaluation.

    Attributes:
        bound: whether they are the most there can be, as the data or the tokenizer is not here.
        train: the packed training split, if it is.
        notices: what a person should know of the documents, a line each.
        about: lines about the documents of each split.
    """

    epoch: int
    evaluation: int
    bound: bool
    train: Packed | None
    notices: tuple[str, ...] = ()
    about: tuple[Text, ...] = ()


def plan(space: Space, splits: Splits | None, cluster: ClusterResources, coloured: bool = False) -> list[str | Text]:
    """The plan as lines for a person.

    Args:
        splits: None if the data is not here.
        coloured: whether colours tell what is learned, or marks.

    Raises:
        DataError: what only the data, the tokenizer or the memory of the GPUs could tell.
    """
    lines: list[str | Text] = [f"search {space.name}: {', '.join(space.models)}; seed {space.seed}", ""]
    resources, on_gpus = space.resources, space.resources.gpus_per_worker > 0
    if not resources.automatic:
        workers, slots = resources.counts
        for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
            if each and (there := cluster.resources.get(kind, 0)) != float("inf"):
                lines.append(f"{kind}s      {workers * slots * each:g} of {there:g} ({slots} slots)")
    sizes = _sizes(space, splits)
    lines.append(f"documents {', '.join(f'{count} {split}' for split, count in sizes.items())}")
    lines += [f"          {note}" for note in splits.notes] if splits is not None else []
    if space.confirmation is not None and "test" in sizes:
        groups = len(set(number_groups(splits.test))) if splits is not None else sizes["test"]
        lines.append(f"tells     {_describe_detectable(space, space.confirmation, groups)}")
    if (allowed := space.constraints.general_loss) is not None:
        lines.append(f"keeps     a general loss of at most {allowed:g} nats above that without dropout")
    if limits := _limits(space.budget):
        lines.append(f"limits    {limits}; what runs then runs on")
    total, wall_s = _Cost(0, 0.0, on_gpus), _START_S
    for model in space.models:
        own = with_allocation(space, allocate(space, model, cluster))
        tokens = _tokens(model, own, splits, coloured)
        told, most = _size(model, own, tokens, cluster)
        lines += ["", *told, *(f"  noticed {notice}" for notice in tokens.notices)]
        # Models that share a tokenizer have the same documents.
        if not all(line in lines for line in tokens.about):
            lines += ["", *tokens.about]
        total = total.plus(most)
        wall_s += (most.device_s or 0.0) / own.resources.counts[1] / own.resources.devices
    lines += ["", f"in all    {total} at most"]
    if on_gpus and cluster.gpu is not None:
        peak = cluster.gpu.peak(space.training.precision)
        how = f"at {UTILISATION:.0%} of {peak / 1e12:g} TFLOP/s; "
    else:
        how = "timed on a CPU; " if on_gpus else ""
    if total.device_s is None:
        return [*lines, "expected  no time can be told: the weights, or the kind of GPU, are not known here"]
    return [*lines, f"expected  about {_minutes(wall_s)} at most, {how}base weights not included"]


def _sizes(space: Space, splits: Splits | None) -> dict[str, int]:
    """The documents of each split: those that were read, or what the space states."""
    if splits is not None:
        return {split: len(getattr(splits, split)) for split in SPLITS}
    stated = {split: stated_count(getattr(space.data, split)) for split in SPLITS}
    return {split: count for split, count in stated.items() if count is not None}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _limits(budget: Budget) -> str:
    named = {
        "tokens in each arm": budget.tokens,
        "hours": budget.hours,
        "device hours": budget.device_hours,
    }
    given = [f"{limit:,} {what}" for what, limit in named.items() if limit is not None]
    return f"{', '.join(given)} for the search of each model" if given else ""


def _size(model: str, space: Space, tokens: _Tokens, cluster: ClusterResources) -> tuple[list[str], _Cost]:
    """The plan of one model size, and the most that it can cost."""
    studies = StudyStorage(InMemoryStorage())
    study = SearchStudy(studies, model, space)
    trial = _trial(model, space, tokens, cluster)
    if space.budget.tokens is not None and not tokens.bound:
        check_tokens(space.budget.tokens, trial.tokens, model)
    most = _limit_cost(space, study, trial)
    lines = [f"{model}: {study.planned} trials of {space.budget.epochs} epochs"]
    if space.arms is not None:
        lines.append(f"  arms    {', '.join(f'{arm.name} {arm.trials}' for arm in study.arms.values())}")
    if space.resources.gpus_per_worker:
        lines += _devices(model, space, cluster)
    least = "at most " if tokens.bound else ""
    lines.append(f"  a trial {least}{tokens.epoch:,} tokens an epoch; {trial}, less where it is stopped early")
    if tokens.bound:
        length = space.training.sequence_length
        lines.append(f"          not read here: each document counts as {length:,} tokens, the most there can be")
    lines.append(f"  search  {most} at most")
    if space.confirmation is not None:
        runs = Confirmation(studies, study, space).planned
        most_runs = "at most " if space.confirmation.in_rounds else ""
        lines.append(f"  confirm {most_runs}{runs} runs; {trial.times(runs)}")
        most = most.plus(trial.times(runs))
        if space.confirmation.keep_models:
            weights = _size_of(4 * network(space, model).parameters)
            lines.append(f"  models  {most_runs}{runs}, of {weights} each")
    lines.append(f"  kept    {_checkpoints(model, space)}")
    return [*lines, "  samples", *_samples(study, trial.tokens)], most


def _describe_detectable(space: Space, confirmation: ConfirmationBlock, groups: int) -> str:
    """The smallest difference that the confirmation can be expected to show."""
    point = point_of(space)
    answers = space.measure == EXACT
    contestants = confirmation.best * (1 if space.arms is None else max(1, len(space.arms) - 1))
    nats = expect_detectable(
        point, groups, confirmation.most_seeds, confirmation.confidence, answers, contestants, confirmation.in_rounds
    )
    if answers:
        right = f"differences from about {nats:.2g} in the share of right answers"
        return f"{right}, if {CHANGED:.0%} of the questions are answered differently"
    return f"differences from about {nats:.2g} nats at the {point} evaluation, if it varies as in the default search"


def _devices(model: str, space: Space, cluster: ClusterResources) -> list[str]:
    """Who trains, and what each GPU holds."""
    workers, slots = space.resources.counts
    memory, sharding = estimate_memory(space, model, workers, cluster.gpu_bytes)
    shared = f" ({sharding})" if workers > 1 else ""
    parts = ", ".join(
        f"{name.replace('_', ' ')} {size / 1e9:.1f}" for name, size in memory.parts().items() if size >= 5e7
    )
    share = space.resources.gpus_per_worker
    there = "" if share == 1 else f", {share:g} of it for a worker"
    if cluster.gpu_bytes is not None:
        usable = usable_bytes(space, cluster.gpu_bytes)
        fits = "" if memory.total <= usable else f", more than the {usable / cluster.gpu_bytes:.0%} that may be used"
        there = f" of {cluster.gpu_bytes / 1e9:.0f} GB{there}{fits}"
    return [
        f"  slots   {slots} of {workers} worker{'s' if workers > 1 else ''}{shared}",
        f"  memory  {memory.total / 1e9:.1f} GB of each GPU{there}: {parts}",
    ]


def _checkpoints(model: str, space: Space) -> str:
    """What those of a slot take of the storage."""
    trained = network(space, model).trained
    # The old one stays until the new one is whole.
    search, confirmation = (_size_of(2 * checkpoint_bytes(trained, keep_best)) for keep_best in (False, True))
    confirming = "" if space.confirmation is None else f", {confirmation} in the confirmation"
    return f"at most {search} of checkpoints for each slot{confirming}: the last one, and the next until it is whole"


def _limit_cost(space: Space, study: SearchStudy, trial: _Cost) -> _Cost:
    """The most that the search of a size can cost, with the limits of its budget, which are looked at before a trial
    begins. Limits of time are not made limits of tokens: the speed is only estimated."""
    budget, slots = space.budget, space.resources.counts[1]
    trials = [arm.trials * trial.tokens for arm in study.arms.values()]
    tokens = sum(trials if budget.tokens is None else (min(each, budget.tokens + trial.tokens) for each in trials))
    if trial.device_s is None:
        return replace(trial, tokens=tokens)
    device_s = [trial.device_s * tokens / trial.tokens]
    if budget.hours is not None:
        device_s.append(slots * (3600 * budget.hours * space.resources.devices + trial.device_s))
    if budget.device_hours is not None:
        device_s.append(3600 * budget.device_hours + slots * trial.device_s)
    return replace(trial, tokens=tokens, device_s=min(device_s))


def _samples(study: SearchStudy, full_tokens: int) -> list[str]:
    """The first trials, a line each; not those that wait for others to end."""
    lines: list[str] = []
    study.set_full_tokens(full_tokens)
    while len(lines) < _SAMPLES and (candidate := study.ask()) is not None:
        settings = ", ".join(f"{name}={_abbreviate(value)}" for name, value in flatten(candidate.parameters).items())
        arm = curriculum_name(candidate.arm, candidate.parameters)
        lines.append(f"    {candidate.number}: {arm} ({settings})")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _size_of(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _abbreviate(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_abbreviate, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _network(model: str) -> PreTrainedModel:
    if model in ARCHITECTURES:
        return unweighted(model)[0]
    return load_model(model_folder(model, default_root()), torch.device("cpu"))


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    return unweighted(model)[1] if model in ARCHITECTURES else load_tokenizer(model_folder(model, default_root()))


def _tokens(model: str, space: Space, splits: Splits | None, coloured: bool) -> _Tokens:
    training = space.training
    counts = network(space, model)
    check_length(training.sequence_length, counts.context, model)
    general = space.general.documents if space.general is not None else 0
    if splits is None or not is_at_hand(model):
        length = training.sequence_length
        sizes = _sizes(space, splits)
        return _Tokens(sizes["train"] * length, (sizes["validation"] + general) * length, True, None)
    tokenizer = _tokenizer(model)
    if space.schedule is not None:
        mask_token_of(tokenizer, space.schedule.mask_token, needs_mask_token(space), counts.words)
    how: dict[str, Any] = {"layout": training.layout, "train_on_prompt": space.data.learns_prompts}
    chats = ChatTokenizer(tokenizer, chat_template_of(space), model)
    packed, cut = pack_splits(splits, tokenizer, training.sequence_length, chats=chats, **how)
    for rows in packed.values():
        check_words(rows, counts.words, model, tokenizer)
    train, held_out = packed["train"], packed["validation"]
    _check_reference(model, space, splits, train, how)
    check_evaluations(space.evaluation.per_epoch, len(train.token_RT), training.batch_size, model)
    evaluation = held_out.tokens * (len(splits.validation) + general) // len(splits.validation)
    about = [legend(coloured)]
    for split, rows in packed.items():
        drops = split == "train" and space.schedule is not None
        about += describe_split(split, rows, cut[split], tokenizer, coloured, drops)
    return _Tokens(train.tokens, evaluation, False, train, tuple(chats.notices()), tuple(about))


def _check_reference(model: str, space: Space, splits: Splits, train: Packed, how: dict[str, Any]) -> None:
    reference = space.schedule.reference if space.schedule is not None else None
    if reference is None or not is_at_hand(reference):
        return
    try:
        tokenizer = _tokenizer(reference)
        chats = ChatTokenizer(tokenizer, chat_template_of(space), reference)
        own, _ = pack(splits.train, tokenizer, space.training.sequence_length, chats=chats, **how)
        if not torch.equal(own.token_RT, train.token_RT):
            raise other_tokenizer(reference, model)
    except ModelError as error:
        raise of_reference(error) from None


def _trial(model: str, space: Space, tokens: _Tokens, cluster: ClusterResources) -> _Cost:
    """A trial that is not stopped early."""
    epochs, on_gpus = space.budget.epochs, space.resources.gpus_per_worker > 0
    evaluated = tokens.evaluation * space.evaluation.per_epoch
    trial = _Cost(tokens.epoch * epochs, None, on_gpus)
    if on_gpus and cluster.gpu is not None:
        training = space.training
        if tokens.train is not None and network(space, model).parameters <= _CHECKED_PARAMETERS:
            _checked_network(model, space)
        # A backward pass has twice the operations of a forward pass.
        passes = 4 if training.gradient_checkpointing else 3
        operations = network(space, model).forward_operations(training.sequence_length) * (
            passes * tokens.epoch + evaluated
        )
        return replace(trial, device_s=cluster.gpu.seconds(epochs * operations, training.precision))
    if tokens.train is None:
        return trial
    # A forward pass is about a third of a training step.
    per_token = _time_step(model, space, tokens.train) / space.resources.counts[0]
    device_s = per_token * epochs * (tokens.epoch + evaluated / 3) * space.resources.devices
    return replace(trial, device_s=device_s)


def _checked_network(model: str, space: Space) -> PreTrainedModel:
    """The model with its weights.

    Raises:
        ModelError: they are not whole or not finite, or it is not one that can be trained here.
    """
    loaded = _network(model)
    check_forward(loaded, space.training.layout == "packed")
    check_finite(torch.stack([parameter.detach().sum() for parameter in loaded.parameters()]), model)
    return loaded


def _time_step(model: str, space: Space, train: Packed) -> float:
    """Seconds of a training step on this machine's CPU, for each token."""
    training, (workers, _) = space.training, space.resources.counts
    most = max(1, _TIMED_TOKENS // training.sequence_length)
    batch = min(len(train.token_RT), max(1, training.batch_size // workers), most)
    forward = Forward(_checked_network(model, space))
    threads = torch.get_num_threads()
    torch.set_num_threads(space.resources.cpus_per_worker)
    try:
        # The first row also loads kernels, which does not matter where it takes long.
        for part in (train[:1], train[:batch]):
            began = time.perf_counter()
            result = forward(part, part.label_RT, PRECISIONS[training.precision])
            result.loss_N.mean().backward()
            seconds = time.perf_counter() - began
            if seconds * batch > _LONG_STEP_S:
                break
    finally:
        torch.set_num_threads(threads)
    check_finite(result.loss_N, model)
    return seconds / part.tokens
