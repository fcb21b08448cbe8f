"""The files that a search leaves behind: summary.json, best_schedule.<model>.yaml, figures; and its last words."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.arms import BASELINE
from search.results.figures import write_figures
from search.results.model_result import ModelResult, recommend_arm
from search.space import Space, to_store
from search.studies.confirmation import point_of, sentence
from search.studies.study import TrialStudy, losses_of
from trainables.config.fields import LONGEST_NAME
from trainables.config.to_settings import fixed
from trainables.config.yaml_values import to_yaml
from trainables.storage.files import write_atomic

# Characters of a schedule's name that tell which size it is of.
_LONGEST_SUFFIX = 60


def describe_result(size: ModelResult, space: Space) -> str:
    """One sentence on what to use."""
    study = size.searched
    if size.chosen is not None and size.confirmed is not None:
        assert space.confirmation is not None
        found, how = size.verdict[point_of(space)], space.confirmation
        return sentence(size.chosen, size.comparisons[size.chosen], found, size.confirmed.among, how.confidence)
    best, baseline = study.best(), study.baseline()
    if best is None:
        what = "no trial ran to its end" if baseline is None else "no trial but the baseline ran to its end"
        return f"{what}{_failed(study)}"
    losses = losses_of(best)
    text = f"trial {best.number}, high-entropy loss {min(losses):.4f} at its best, {losses[-1]:.4f} at the end"
    if baseline is None:
        return f"{text}; there is no baseline to compare with{_failed(study)}"
    without = losses_of(baseline)
    why = _failed(size.confirmed) if size.confirmed is not None else ""
    return f"{text}; without dropout {min(without):.4f} and {without[-1]:.4f}; not confirmed{why}"


def _failed(ledger: TrialStudy) -> str:
    """Why trials of a study failed, as the end of a sentence; nothing if none did."""
    reasons = Counter(t.user_attrs.get("reason") for t in ledger.trials(TrialState.FAIL))
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    return f"; failed: {told}" if told else ""


def best_schedule(size: ModelResult, space: Space) -> str | None:
    """A space, as YAML, in which every setting has the value that did best; None if no trial has an objective.

    After a confirmation that is the setting that it chose, or, if that was worse, the baseline that beat it.
    """
    study = size.searched
    against: float | None
    if (arm := recommend_arm(size, space)) is not None:
        comparison = size.comparisons[arm]
        contestant = comparison.contestant
        own, number = fixed(study.arms[contestant.arm].space, contestant.parameters), contestant.trial
        value, against = comparison.validation, size.comparisons[BASELINE].validation
        of = ", mean over the seeds of the confirmation"
    else:
        if (trial := study.best()) is None:
            return None
        own, number, value, of = study.space_of(trial), trial.number, study.values(trial)[0], ""
        baseline = study.baseline()
        against = study.values(baseline)[0] if baseline is not None else None
    resolved = own.model_dump(mode="json")
    resolved["models"] = [study.model]
    size_of = f"-best-{study.slug}"[:_LONGEST_SUFFIX]
    resolved["name"] = space.name[: LONGEST_NAME - len(size_of)] + size_of
    # Trial 0 is always the baseline; trial 1 is this schedule.
    resolved["budget"]["trials"] = 2
    resolved["arms"] = None
    # A file to hand on: where a password is needed, MLFLOW_TRACKING_URI says where to record.
    if to_store(space)["tracking"] != resolved["tracking"]:
        resolved["tracking"]["uri"] = None
    # Its studies are its own.
    resolved["study"] = {"storage": None}
    if resolved["confirmation"] is not None:
        resolved["confirmation"]["best"] = 1
    what = f"Trial {number}" if number is not None else "No dropout, with the best trial's learning rate,"
    without = f"; without dropout {against:.4f}" if against is not None else ""
    words = describe_result(size, space)
    comment = [
        f"# {what} of {study.model} in the search {space.name}.",
        f"# {space.objective.capitalize()} validation high-entropy loss {value:.4f} nats{of}{without}.",
        f"# {words[0].upper()}{words[1:]}." if arm is not None else "# It has not been confirmed.",
    ]
    return "\n".join([*comment, to_yaml(resolved)])


def tabulate_comparison(sizes: Sequence[ModelResult], space: Space) -> Any:
    """Arms by sizes: high-entropy test loss, and the difference to no dropout with its interval."""
    from rich.table import Table

    point = point_of(space)
    table = Table(title="high-entropy test loss in nats, and the difference to no dropout with its interval")
    table.add_column("arm")
    for size in sizes:
        table.add_column(size.model)
    for arm in sizes[0].searched.arms:
        cells = []
        for size in sizes:
            if (comparison := size.comparisons.get(arm)) is None:
                cells.append("-")
                continue
            loss = f"{comparison.losses[point]['high_entropy_loss']:.4f}"
            if arm != BASELINE:
                found = comparison.differences[point]["high_entropy_loss"]
                loss += f"  {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            cells.append(loss)
        table.add_row(arm, *cells)
    return table


def write_results(output: Path, space: Space, sizes: Sequence[ModelResult], summary: dict[str, Any]) -> list[Path]:
    """Writes the result files. Returns their paths."""
    written = [output / "summary.json"]
    write_atomic(written[0], json.dumps(summary, indent=2) + "\n")
    for size in sizes:
        if (text := best_schedule(size, space)) is not None:
            path = output / f"best_schedule.{size.searched.slug}.yaml"
            write_atomic(path, text)
            written.append(path)
    return [*written, *write_figures(output, space, sizes, summary.get("trend"))]
