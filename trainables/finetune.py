"""One run without a search: trains with the settings in a file, and keeps the best weights.

    python -m trainables.finetune runs/math/best_schedule.builtin-nano.yaml
    torchrun --nproc-per-node 2 -m trainables.finetune runs/math/best_schedule.builtin-nano.yaml

The output folder gets `model/` (weights of the best evaluation and the tokenizer, for
AutoModelForCausalLM.from_pretrained), `losses.json`, `losses.png`, `resolved.yaml`, and, until the run has ended,
`checkpoint/`.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config.command_line import CommandLine, configured, invocation, show_any_character
from trainables.config.loader import ConfigFile
from trainables.config.recipe import RecipeConfig, load_recipe
from trainables.config.yaml_values import to_yaml
from trainables.errors import ConfigError, one_line
from trainables.storage.files import is_url, write_atomic

if TYPE_CHECKING:
    # torch takes seconds to import: what is wrong with a file is told before that.
    import torch
    from rich.console import Console

    from trainables.preparation.prepared import Prepared
    from trainables.training.run import Run

# Ranks wait this long for the one that prepares the data.
_PATIENCE = timedelta(days=1)


def main(arguments: Sequence[str] | None = None) -> int:
    description = "Fine-tunes once, with the settings in a file."
    parser = argparse.ArgumentParser(prog=invocation("trainables.finetune"), description=description)
    options = configured(parser, "FILE", "such as best_schedule.<model>.yaml of a search", "finetuned").parse_args(
        arguments
    )
    show_any_character()
    try:
        recipe = load_recipe(options.file, options.set)
        if options.output is not None and is_url(options.output):
            raise ConfigError(f"--output: given {one_line(options.output)}; allowed: a folder")
        output = Path(options.output or f"finetuned/{recipe.config.name}")
        _check_output(output, options.resume)
        with _Ranks() as ranks:
            return _finetune(recipe, output, options.resume and _has_evaluated(output), ranks.device)
    except ConfigError as error:
        code, told = 2, str(error)
    except OSError as error:
        code, told = 1, f"the run cannot go on: {error}; then go on with: {_resume_command(options)}"
    except KeyboardInterrupt:
        code, told = 130, f"interrupted; go on with: {_resume_command(options)}"
    # A file system can fail one rank alone.
    if _rank() == 0 or code == 1:
        print(told, file=sys.stderr)
    return code


def _resume_command(options: argparse.Namespace) -> str:
    return CommandLine.of(options, "trainables.finetune").resumed()


def _rank() -> int:
    """This process's rank, as torchrun says it."""
    return int(os.environ.get("RANK", "0"))


def _check_output(output: Path, resume: bool) -> None:
    try:
        there = output.exists() and (not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise ConfigError(
            f"--output: {one_line(str(output))} cannot be read ({error.strerror}); name another folder"
        ) from None
    # Under torchrun another rank may have begun to write already.
    if there and not resume and _rank() == 0:
        raise ConfigError(
            f"--output: {output} already holds something; name a new folder, or --resume to go on with the run in it"
        )
    is_new = (output / "resolved.yaml").is_file() and not _has_evaluated(output)
    if resume and not is_new and not (output / "checkpoint").is_dir():
        raise ConfigError(f"--resume: {output} holds no run to go on with; name the output folder of one")


def _has_evaluated(output: Path) -> bool:
    """Whether the run in `output` came to its first evaluation; one that did not goes on from its beginning."""
    return (output / "checkpoint" / "manifest.json").is_file() or (output / "losses.json").is_file()


class _Ranks(AbstractContextManager["_Ranks"]):
    """The process group of torchrun, if it has started this process, and the device of this rank."""

    def __enter__(self) -> "_Ranks":
        import torch
        import torch.distributed as dist

        cuda = torch.cuda.is_available()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device(f"cuda:{local}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        from trainables.parallel import leave_group

        leave_group()


def _finetune(recipe: ConfigFile[RecipeConfig], output: Path, resume: bool, device: "torch.device") -> int:
    from rich.console import Console

    from trainables import parallel
    from trainables.config.to_settings import model_settings_of, settings_of
    from trainables.errors import DataError
    from trainables.preparation.checks import check_evaluations
    from trainables.training.checkpoint import CheckpointError
    from trainables.training.run import NonFiniteLossError, Run
    from trainables.training.warm_model import WarmModel

    config = recipe.config
    settings = settings_of(config)
    ranks = parallel.size()
    if settings.batch_size % (settings.accumulation * ranks):
        allowed = f"a multiple of training.accumulation ({settings.accumulation}) * {ranks} processes"
        raise recipe.error("training.batch_size", settings.batch_size, allowed)
    console = Console(quiet=parallel.rank() > 0, markup=False, highlight=False, soft_wrap=True)
    try:
        prepared = _prepare(config, console, device)
        check_evaluations(settings.evaluations_per_epoch, prepared.train_rows, settings.batch_size, prepared.model)
        run = Run(WarmModel(prepared, device, model_settings_of(config)), settings)
        if resume:
            run.restore(output / "checkpoint")
        elif parallel.rank() == 0:
            _begin(output, config)
        _train(run, output, console)
    except DataError as error:
        raise recipe.error(error.field, error.given, error.allowed, error.nearest) from None
    except CheckpointError as error:
        raise ConfigError(f"--resume: {error}; name the folder of a run with the same settings") from None
    except NonFiniteLossError as error:
        console.print(f"failed: {error}; a lower training.learning_rate may help")
        return 1
    best = min(run.history, key=lambda metrics: metrics["high_entropy_loss"])
    console.print(
        f"best at epoch {best['epoch']:g}: high-entropy loss {best['high_entropy_loss']:.4f}, "
        f"before tuning {prepared.base_losses['high_entropy_loss']:.4f}, "
        f"at the end {run.history[-1]['high_entropy_loss']:.4f}"
    )
    console.print(f"results: {output}/ (model, losses.png, losses.json)")
    return 0


def _begin(output: Path, config: RecipeConfig) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        resolved = to_yaml(config.model_dump(mode="json"))
        write_atomic(output / "resolved.yaml", resolved)
    except OSError as error:
        raise ConfigError(f"--output: {output} cannot be written ({error.strerror}); name another folder") from None


def _prepare(config: RecipeConfig, console: "Console", device: "torch.device") -> "Prepared":
    """The prepared data: rank 0 makes it, on its device, and the others wait for it."""
    import torch.distributed as dist

    from trainables import parallel
    from trainables.config.to_settings import preparation_of, splits_of
    from trainables.data.documents import describe_splits
    from trainables.errors import DataError
    from trainables.preparation.prepare import prepare
    from trainables.preparation.prepared import Prepared
    from trainables.preparation.scoring import score_folder
    from trainables.storage.cache import default_root

    told = ""

    def tell(news: str) -> None:
        nonlocal told
        # Shares of the way are shown in place, or not at all.
        subject = news.partition(":")[0]
        if console.is_terminal or subject != told:
            console.print(news, end="\r" if console.is_terminal else "\n")
        told = subject

    made: list[Any] = [None]
    if parallel.rank() == 0:
        try:
            splits = splits_of(config)
            for line in describe_splits(splits):
                console.print(line)
            what = preparation_of(config, splits, default_root())
            made = [prepare(config.models[0], config.models, what, tell, partial(score_folder, device=device))]
        except DataError as error:
            made = [error]
    if parallel.size() > 1:
        dist.broadcast_object_list(made)
    if isinstance(made[0], DataError):
        raise made[0]
    prepared = made[0]
    assert isinstance(prepared, Prepared)
    console.print(f"{prepared.train_tokens:,} tokens an epoch in {prepared.train_rows} rows")
    if prepared.cut:
        counts = ", ".join(f"{count} {split}" for split, count in prepared.cut.items())
        console.print(f"cut at training.sequence_length: {counts} documents")
    for notice in prepared.notices:
        console.print(notice)
    return prepared


def _train(run: "Run", output: Path, console: "Console") -> None:
    """Trains to the end; after each evaluation, what is known so far is on disk."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from trainables import parallel

    if run.history and parallel.rank() == 0:
        # It may have been killed after it had saved an evaluation, and before it wrote it down.
        _record(run, output)
    total = run.settings.evaluations
    began, before = time.perf_counter(), len(run.history)
    columns = BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=1.0)
        while not run.finished:
            metrics = run.advance(lambda: progress.update(bar, completed=run.progress))
            if metrics["high_entropy_loss"] <= min(m["high_entropy_loss"] for m in run.history):
                run.save_model(output / "model")
            run.save(output / "checkpoint")
            if parallel.rank() == 0:
                _record(run, output)
            done = len(run.history) - before
            left = (time.perf_counter() - began) / done * (total - len(run.history))
            progress.console.print(_line(metrics, run.settings.epochs, left))
    if parallel.rank() == 0:
        shutil.rmtree(output / "checkpoint")


def _line(metrics: dict[str, float], epochs: int, left: float) -> str:
    general = f", general {metrics['general_loss']:.4f}" if "general_loss" in metrics else ""
    answers = f", answers {metrics['exact_match']:.1%} right" if "exact_match" in metrics else ""
    return (
        f"epoch {metrics['epoch']:g}/{epochs}: held-out loss {metrics['loss']:.4f}, "
        f"high-entropy {metrics['high_entropy_loss']:.4f}, low-entropy {metrics['low_entropy_loss']:.4f}"
        f"{general}{answers}; training loss {metrics['train_loss']:.4f}, {metrics['mask_rate']:.0%} dropped; "
        f"{metrics['tokens_per_s']:,.0f} tokens/s, {timedelta(seconds=round(left))} left"
    )


def _record(run: "Run", output: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    from trainables.figures import COLOURS, GREY, draw_legend, make_panels, write_png

    base = run.warm.prepared.base_losses
    losses = {"before": base, "evaluations": run.history}
    write_atomic(output / "losses.json", json.dumps(losses, indent=1) + "\n")
    epochs = [0.0, *(metrics["epoch"] for metrics in run.history)]
    figure, (panel,) = make_panels([run.warm.prepared.model])
    for name, label, colour in (
        ("high_entropy_loss", "held out, high-entropy tokens", COLOURS[1]),
        ("loss", "held out, all tokens", GREY),
        ("low_entropy_loss", "held out, low-entropy tokens", COLOURS[2]),
        ("general_loss", "general documents", COLOURS[3]),
    ):
        if name in base:
            panel.plot(epochs, [base[name], *(m[name] for m in run.history)], color=colour, label=label)
    panel.plot(epochs[1:], [m["train_loss"] for m in run.history], color=COLOURS[0], linestyle=":", label="training")
    best = min(run.history, key=lambda metrics: metrics["high_entropy_loss"])
    panel.plot(best["epoch"], best["high_entropy_loss"], "o", color=COLOURS[1], label="weights that are kept")
    panel.set(xlabel="epoch", ylabel="loss (nats)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(panel)
    write_png(output / "losses.png", figure)


if __name__ == "__main__":
    sys.exit(main())
