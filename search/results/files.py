"""The files that a search leaves behind: summary.json, best_schedule.<model>.yaml, figures; and its last words."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.arms import BASELINE
from search.results.model_result import ModelResult, recommend_arm, recommend_trial
from search.space import EXACT, HIGH, Space, to_store
from search.studies.comparison import LABELS, POINTS, describe_other_point, point_of, sentence
from search.studies.search_study import SearchStudy
from search.studies.study import TrialStudy, describe_reason, losses_of, reason_of
from trainables.config.data import count_setting
from trainables.config.fields import LONGEST_NAME
from trainables.config.to_settings import fix_values
from trainables.config.yaml_values import to_yaml
from trainables.storage.files import write_atomic

# Characters of a schedule's name that tell which model it is of.
_LONGEST_SUFFIX = 60


def describe_result(result: ModelResult, space: Space) -> str:
    """What to use; then what the same runs say of the other weights that one may keep."""
    study = result.searched
    if result.chosen is not None and result.confirmed is not None:
        assert space.confirmation is not None
        point = point_of(space)
        other = next(each for each in POINTS if each != point)
        comparison = result.comparisons[result.chosen]
        text = sentence(
            result.chosen,
            comparison,
            point,
            space.measure,
            result.confirmed.among,
            space.confirmation.confidence,
            count_setting(space.data),
            space.constraints.general_loss,
        )
        return f"{text}. {describe_other_point(other, comparison, space.measure)}"
    best, baseline = study.best(), study.baseline()
    if best is None:
        outcome = "no trial ran to its end" if baseline is None else "no trial but the baseline ran to its end"
        return f"{outcome}{_describe_failures(study)}"
    shown = _describe_trial(study, best)
    if baseline is None:
        return f"trial {best.number}, {shown}; there is no baseline to compare with{_describe_failures(study)}"
    if study.limit is not None:
        own, most = study.general_loss(best.number), study.limit
        shown += f", general loss {own:.4f}, {'above' if study.breaks(best) else 'within'} the {most:.4f} allowed"
    shown += f"; without dropout {_describe_trial(study, baseline)}"
    text = f"trial {best.number}, {shown}"
    if result.is_unconfirmable and result.confirmed is not None:
        return f"use no dropout: nothing came out of the confirmation{_describe_failures(result.confirmed)} ({text})"
    if result.confirmed is not None:
        return f"{text}; not confirmed{_describe_failures(result.confirmed)}"
    if recommend_trial(result) is not baseline:
        return f"use trial {best.number}, which looks better and is not confirmed ({shown})"
    reason = "no setting kept the constraint" if study.breaks(best) else "no setting did better"
    return f"use no dropout: {reason} ({text})"


def _describe_trial(study: SearchStudy, trial: FrozenTrial) -> str:
    if study.measure == EXACT:
        return f"{study.told(study.value(trial.number)):.1%} right answers at the end"
    losses = losses_of(trial)
    last = "at the end" if trial.state == TrialState.COMPLETE else "when it was stopped"
    return f"high-entropy loss {min(losses):.4f} at its best, {losses[-1]:.4f} {last}"


def _describe_failures(study: TrialStudy) -> str:
    """Why trials of a study failed, as the end of a sentence; nothing if none did."""
    reasons = Counter(reason_of(t) for t in study.trials(TrialState.FAIL))
    failures = ", ".join(f"{describe_reason(reason or 'error')} ({count})" for reason, count in reasons.items())
    return f"; failed: {failures}" if failures else ""


def choose_space(result: ModelResult, space: Space) -> Space | None:
    """The space with the setting that did best, in which nothing is searched; None if no trial has an objective.

    After a confirmation that is the setting that it found better than no dropout, or the baseline; without one see
    `recommend_trial`.
    """
    study = result.searched
    if (arm := recommend_arm(result, space)) is not None:
        contestant = result.comparisons[arm].contestant
        return fix_values(study.arms[contestant.arm].space, contestant.parameters)
    return study.space_of(trial) if (trial := recommend_trial(result)) is not None else None


def format_best_schedule(result: ModelResult, space: Space) -> str | None:
    """The space of `choose_space` as YAML."""
    study = result.searched
    if (best_space := choose_space(result, space)) is None:
        return None
    baseline_value: float | None
    if (arm := recommend_arm(result, space)) is not None:
        comparison = result.comparisons[arm]
        number = comparison.contestant.trial
        value, baseline_value = comparison.validation, result.comparisons[BASELINE].validation
        mean = ", mean over the seeds of the confirmation"
    else:
        trial = recommend_trial(result)
        assert trial is not None
        number, value, mean = trial.number, study.told(study.values(trial)[0]), ""
        baseline = study.baseline()
        baseline_value = study.told(study.values(baseline)[0]) if baseline is not None else None
    resolved = best_space.model_dump(mode="json")
    # First what one looks for.
    resolved = {name: resolved[name] for name in ("name", "models", "schedule", "training", *resolved)}
    resolved["models"] = [study.model]
    suffix = f"-best-{study.slug}"[:_LONGEST_SUFFIX]
    resolved["name"] = space.name[: LONGEST_NAME - len(suffix)] + suffix
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
    setting = f"Trial {number}" if number is not None else "No dropout, with the best trial's learning rate,"
    without = f"; without dropout {baseline_value:.4f}" if baseline_value is not None else ""
    words = describe_result(result, space)
    name, unit = f"{space.objective.capitalize()} validation high-entropy loss", " nats"
    if space.measure == EXACT:
        name, unit = "Share of right validation answers", ""
    comment = [
        f"# {setting} of {study.model} in the search {space.name}.",
        f"# {name} {value:.4f}{unit}{mean}{without}.",
        f"# {words[0].upper()}{words[1:]}." if arm is not None else "# It has not been confirmed.",
    ]
    return "\n".join([*comment, to_yaml(resolved)])


def tabulate_comparison(results: Sequence[ModelResult], space: Space, measure: str = HIGH) -> Any:
    """Arms by models: a measure on the test split or on general documents, and the difference to no dropout with its
    interval."""
    from rich.table import Table

    point = point_of(space)
    unit = "" if measure == EXACT else " in nats"
    table = Table(title=f"{LABELS[measure]}{unit}, and the difference to no dropout with its interval")
    table.add_column("arm")
    for result in results:
        table.add_column(result.model)
    for arm in results[0].searched.arms:
        cells = []
        for result in results:
            comparison = result.comparisons.get(arm)
            if comparison is None or measure not in comparison.losses[point]:
                cells.append("-")
                continue
            loss = f"{comparison.losses[point][measure]:.4f}"
            if arm != BASELINE and measure in comparison.differences[point]:
                difference = comparison.differences[point][measure]
                loss += f"  {difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
            cells.append(loss)
        table.add_row(arm, *cells)
    return table


def write_results(output: Path, space: Space, results: Sequence[ModelResult], summary: dict[str, Any]) -> list[Path]:
    """Writes the result files. Returns their paths."""
    from search.results.figures import write_figures

    written = [output / "summary.json"]
    write_atomic(written[0], json.dumps(summary, indent=2) + "\n")
    for result in results:
        if (text := format_best_schedule(result, space)) is not None:
            path = output / f"best_schedule.{result.searched.slug}.yaml"
            write_atomic(path, text)
            written.append(path)
    return [*written, *write_figures(output, space, results)]
