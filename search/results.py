"""What a search leaves behind: summary.json, best_schedule.<model>.yaml, and the last words."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from search.arms import BASELINE, flatten
from search.audit import audit
from search.costs import saved, spent, trials_table
from search.outcome import Size, recommended, verdict_of
from search.pictures import write_pictures
from search.space import Space, to_store
from search.studies.confirmation import point_of, sentence
from search.studies.search_study import SearchStudy
from search.studies.study import TrialStudy, losses_of
from search.trend import trend
from trainables.config.fields import LONGEST_NAME
from trainables.config.to_settings import fixed
from trainables.storage.files import write_atomic

# Characters of a schedule's name that tell which size it is of.
_LONGEST_SUFFIX = 60


def summarize(
    sizes: Sequence[Size],
    space: Space,
    parameters: Mapping[str, int | None],
    timing: dict[str, float | None],
    run_id: Callable[[str, int], str | None],
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        parameters: how many each model has, where that is known.
        run_id: the MLflow run of a study's trial; None if MLflow has not named it yet.
    """
    summary = {"models": {size.model: _summary_of(size, space, run_id) for size in sizes}, "timing": timing}
    summary["trend"] = trend(
        [
            (count, _numbers(size.searched, best))
            for size in sizes
            if (best := size.searched.best()) is not None and (count := parameters[size.model]) is not None
        ]
    )
    return summary


def _numbers(study: SearchStudy, trial: FrozenTrial) -> dict[str, float]:
    """The numbers among a trial's searched settings, with the middle of the curriculum's rise, whatever its shape."""
    parameters = study.parameters(trial)
    searched = [name.removeprefix(f"{trial.user_attrs['arm']}.") for name in trial.params]
    found = {
        name: value
        for name, value in flatten(parameters).items()
        if name in searched and isinstance(value, float) and not name.startswith("curriculum.")
    }
    if any(name.startswith("curriculum.") for name in searched):
        from trainables.curriculum import curriculum_from

        rise = curriculum_from(parameters["curriculum"])
        found["curriculum.half_strength"] = next(i / 100 for i in range(101) if rise(i / 100) >= 0.5)
    return found


def _summary_of(size: Size, space: Space, run_id: Callable[[str, int], str | None]) -> dict[str, Any]:
    study = size.searched

    def entry(trial: FrozenTrial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        losses = losses_of(trial)
        return {
            "trial": trial.number,
            "arm": trial.user_attrs["arm"],
            "params": study.parameters(trial),
            "high_entropy_loss": study.values(trial)[0],
            "best_high_entropy_loss": min(losses),
            "final_high_entropy_loss": losses[-1],
            "mlflow_run_id": run_id(study.name, trial.number),
        }

    pruned, failed = study.trials(TrialState.PRUNED), study.trials(TrialState.FAIL)
    complete = study.trials(TrialState.COMPLETE)
    cost, spared = spent(study), saved(study)
    stopping = space.early_stopping
    summary = {
        "baseline": entry(study.baseline()),
        "best": entry(study.best()),
        "trials": {"complete": len(complete), "pruned": len(pruned), "failed": len(failed)},
        "stopped": dict(Counter(t.user_attrs.get("reason") for t in pruned)),
        "failures": {str(t.number): t.user_attrs.get("reason") for t in failed},
        "audit": audit(study, stopping.first_rung, stopping.reduction_factor),
        "importances": importances(study),
        "tokens": {"trained": cost["tokens"], "saved": spared["tokens"]},
        "device_s": cost["device_s"],
        "saved_device_s": spared["device_s"],
        "trials_table": trials_table(study),
    }
    if len(space.objectives) > 1:
        summary["pareto_front"] = [
            {**(entry(trial) or {}), **dict(zip(space.objectives, study.values(trial), strict=True))}
            for trial in study.pareto_front()
        ]
    if size.confirmed is not None and (confirming := spent(size.confirmed))["runs"]:
        summary["confirmation"] = {
            "chosen": size.chosen,
            "verdict": verdict_of(size, space),
            "difference": {point: asdict(found) for point, found in size.verdict.items()},
            "among": size.confirmed.among,
            "arms": {arm: comparison.to_json() for arm, comparison in size.comparisons.items()},
            "failures": {str(t.number): t.user_attrs.get("reason") for t in size.confirmed.trials(TrialState.FAIL)},
            **confirming,
        }
    return summary


def importances(study: SearchStudy) -> dict[str, dict[str, float]]:
    """For each arm, the share of each searched setting in what tells its better trials from the others (PED-ANOVA,
    arXiv 2304.10255); arms with too few trials are left out."""
    found = {}
    for arm in study.arms:
        ranked = study.ranked(arm)
        common = common_parameters(ranked)
        if len(ranked) >= _FEWEST_FOR_IMPORTANCES and common:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            shown = shown_study(study, ranked)
            found[arm] = optuna.importance.get_param_importances(shown, evaluator=evaluator, params=common)
    return found


def shown_study(study: SearchStudy, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study of its own with these trials, each complete and with its objective, for what Optuna makes of studies."""
    shown = optuna.create_study()
    shown.add_trials(
        [
            optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=study.values(t)[0])
            for t in trials
        ]
    )
    return shown


def common_parameters(trials: Sequence[FrozenTrial]) -> list[str]:
    """The searched settings that all trials have."""
    return [name for name in (trials[0].params if trials else ()) if all(name in t.params for t in trials)]


_FEWEST_FOR_IMPORTANCES = 6


def last_words(size: Size, space: Space) -> str:
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


def best_schedule(size: Size, space: Space) -> str | None:
    """A space, as YAML, in which every setting has the value that did best; None if no trial has an objective.

    After a confirmation that is the setting that it chose, or, if that was worse, the baseline that beat it.
    """
    study = size.searched
    against: float | None
    if (arm := recommended(size, space)) is not None:
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
    words = last_words(size, space)
    comment = [
        f"# {what} of {study.model} in the search {space.name}.",
        f"# {space.objective.capitalize()} validation high-entropy loss {value:.4f} nats{of}{without}.",
        f"# {words[0].upper()}{words[1:]}." if arm is not None else "# It has not been confirmed.",
    ]
    return "\n".join([*comment, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)])


def comparison_table(sizes: Sequence[Size], space: Space) -> Any:
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


def write_results(output: Path, space: Space, sizes: Sequence[Size], summary: dict[str, Any]) -> list[Path]:
    """Writes the result files. Returns their paths."""
    written = [output / "summary.json"]
    write_atomic(written[0], json.dumps(summary, indent=2) + "\n")
    for size in sizes:
        if (text := best_schedule(size, space)) is not None:
            path = output / f"best_schedule.{size.searched.slug}.yaml"
            write_atomic(path, text)
            written.append(path)
    return [*written, *write_pictures(output, space, sizes, summary.get("trend"))]


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
