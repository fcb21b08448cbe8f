"""What came out of a search, as summary.json has it."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.arms import flatten
from search.results.costs import sum_costs, sum_savings, tabulate_trials
from search.results.model_result import ModelResult, verdict_of
from search.results.size_trend import fit_size_trend
from search.results.stopping_audit import audit_stopping
from search.space import EXACT, Space
from search.studies.search_study import SearchStudy
from search.studies.study import losses_of, reason_of

# Trials of an arm that importances are computed from.
_FEWEST_FOR_IMPORTANCES = 6


def summarize(
    results: Sequence[ModelResult],
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
    summary = {
        "models": {result.model: _summarize_model(result, space, run_id) for result in results},
        "timing": timing,
    }
    summary["trend"] = fit_size_trend(
        [
            (count, _collect_numbers(result.searched, best))
            for result in results
            if (best := result.searched.best()) is not None and (count := parameters[result.model]) is not None
        ]
    )
    return summary


def _collect_numbers(study: SearchStudy, trial: FrozenTrial) -> dict[str, float]:
    """The numbers among a trial's searched settings, with the middle of the curriculum's rise, whatever its shape."""
    parameters = study.parameters(trial)
    searched = [name.removeprefix(f"{trial.user_attrs['arm']}.") for name in trial.params]
    numbers = {
        name: value
        for name, value in flatten(parameters).items()
        if name in searched and isinstance(value, float) and not name.startswith("curriculum.")
    }
    if any(name.startswith("curriculum.") for name in searched):
        from trainables.curriculum import curriculum_from

        rise = curriculum_from(parameters["curriculum"])
        numbers["curriculum.half_strength"] = next(i / 100 for i in range(101) if rise(i / 100) >= 0.5 - 1e-9)
    return numbers


def _summarize_model(result: ModelResult, space: Space, run_id: Callable[[str, int], str | None]) -> dict[str, Any]:
    study = result.searched

    def describe(trial: FrozenTrial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        losses = losses_of(trial)
        return {
            "trial": trial.number,
            "arm": trial.user_attrs["arm"],
            "params": study.parameters(trial),
            "high_entropy_loss": study.loss(trial),
            "best_high_entropy_loss": min(losses),
            # One that was stopped early has no last epoch.
            "final_high_entropy_loss": losses[-1] if trial.state == TrialState.COMPLETE else None,
            **({"exact_match": study.told(study.values(trial)[0])} if study.measure == EXACT else {}),
            **({"general_loss": general} if (general := study.general_loss(trial.number)) is not None else {}),
            "mlflow_run_id": run_id(study.name, trial.number),
        }

    pruned, failed = study.trials(TrialState.PRUNED), study.trials(TrialState.FAIL)
    complete, running = study.trials(TrialState.COMPLETE), study.trials(TrialState.RUNNING)
    cost, saving = sum_costs(study), sum_savings(study)
    stopping = space.early_stopping
    summary = {
        "baseline": describe(study.baseline()),
        "best": describe(study.best()),
        "trials": {
            "complete": len(complete),
            "pruned": len(pruned),
            "failed": len(failed),
            "running": len(running),
        },
        "stopped": dict(Counter(reason_of(t) for t in pruned)),
        "failures": {str(t.number): reason_of(t) for t in failed},
        "audit": audit_stopping(study, stopping.first_rung, stopping.reduction_factor),
        "importances": compute_importances(study),
        "tokens": {"trained": cost["tokens"], "saved": saving["tokens"]},
        "device_s": cost["device_s"],
        "discarded": cost["discarded"],
        "saved_device_s": saving["device_s"],
        "trials_table": tabulate_trials(study),
    }
    if len(space.objectives) > 1:
        summary["pareto_front"] = [
            {**(describe(trial) or {}), **dict(zip(space.objectives, study.values(trial), strict=True))}
            for trial in study.pareto_front()
        ]
    if result.confirmed is not None and (confirming := sum_costs(result.confirmed))["runs"]:
        summary["confirmation"] = {
            "chosen": result.chosen,
            "verdict": verdict_of(result, space),
            "difference": {point: difference.to_json() for point, difference in result.verdict.items()},
            "among": result.confirmed.among,
            "arms": {arm: comparison.to_json() for arm, comparison in result.comparisons.items()},
            "failures": {str(t.number): reason_of(t) for t in result.confirmed.trials(TrialState.FAIL)},
            **confirming,
        }
    return summary


def compute_importances(study: SearchStudy) -> dict[str, dict[str, float]]:
    """For each arm, the share of each searched setting in what tells its better trials from the others (PED-ANOVA,
    arXiv 2304.10255); arms with too few trials are left out."""
    importances = {}
    for arm in study.arms:
        ranked = study.ranked(arm)
        common = list_common_parameters(ranked)
        if len(ranked) >= _FEWEST_FOR_IMPORTANCES and common:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            plain = as_plain_study(study, ranked)
            importances[arm] = optuna.importance.get_param_importances(plain, evaluator=evaluator, params=common)
    return importances


def as_plain_study(study: SearchStudy, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study of its own with these trials, each complete and with its objective, for what Optuna makes of studies."""
    plain = optuna.create_study()
    plain.add_trials(
        [
            optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=study.values(t)[0])
            for t in trials
        ]
    )
    return plain


def list_common_parameters(trials: Sequence[FrozenTrial]) -> list[str]:
    """The searched settings that all trials have."""
    return [name for name in (trials[0].params if trials else ()) if all(name in t.params for t in trials)]


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
