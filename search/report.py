"""What a search leaves behind: summary.json, best_schedule.<model>.yaml, rebound.png, and the last words."""

import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from optuna.trial import FrozenTrial, TrialState

from search.space import Space
from search.study import SizeStudy
from trainables.config.build import fixed
from trainables.config.models import slug

matplotlib.use("Agg")


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def summarize(
    studies: Sequence[SizeStudy], timing: dict[str, float | None], run_id: Callable[[str, int], str | None]
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        run_id: the MLflow run of a model's trial.
    """
    models = {study.model: _summary_of(study, run_id) for study in studies}
    return {"models": models, "timing": timing}


def _summary_of(study: SizeStudy, run_id: Callable[[str, int], str | None]) -> dict[str, Any]:
    def entry(trial: FrozenTrial | None) -> dict[str, Any] | None:
        if trial is None:
            return None
        losses = study.losses(trial.number)
        return {
            "trial": trial.number,
            "params": study.parameters(trial),
            "high_entropy_loss": trial.value,
            "best_high_entropy_loss": min(losses),
            "final_high_entropy_loss": losses[-1],
            "mlflow_run_id": trial.user_attrs.get("mlflow_run_id") or run_id(study.model, trial.number),
        }

    pruned, failed = study.trials(TrialState.PRUNED), study.trials(TrialState.FAIL)
    complete = study.trials(TrialState.COMPLETE)
    full = study.full_tokens or 0
    return {
        "baseline": entry(study.baseline()),
        "best": entry(study.best()),
        "trials": {"complete": len(complete), "pruned": len(pruned), "failed": len(failed)},
        "failures": {str(t.number): t.user_attrs.get("reason") for t in failed},
        "tokens": {
            "trained": sum(study.tokens(t.number) for t in [*complete, *pruned, *failed]),
            "saved": sum(full - study.tokens(t.number) for t in pruned),
        },
    }


def best_schedule(space: Space, study: SizeStudy, trial: FrozenTrial) -> str:
    """A space, as YAML, in which every setting has the value that it had in `trial`."""
    resolved = fixed(space, study.parameters(trial)).model_dump(mode="json")
    resolved["models"] = [study.model]
    resolved["name"] = f"{space.name}-best"
    # Trial 0 is always the baseline; trial 1 is this schedule.
    resolved["budget"]["trials"] = 2
    baseline = study.baseline()
    against = f"; without dropout {baseline.value:.4f}" if baseline is not None and baseline.value else ""
    comment = (
        f"# Trial {trial.number} of {study.model} in the search {space.name}.\n"
        f"# {space.objective.capitalize()} held-out high-entropy loss {trial.value:.4f} nats{against}.\n"
        "# It was chosen on this validation split, with one seed: it has not been confirmed.\n"
    )
    return comment + yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)


def verdict(study: SizeStudy) -> str:
    """One sentence on the best schedule against the baseline."""
    best, baseline = study.best(), study.baseline()
    if best is None:
        return "no trial but the baseline ran to its end"
    losses = study.losses(best.number)
    text = f"trial {best.number}, high-entropy loss {min(losses):.4f} at its best, {losses[-1]:.4f} at the end"
    if baseline is None:
        return f"{text}; there is no baseline to compare with"
    without = study.losses(baseline.number)
    return f"{text}; without dropout {min(without):.4f} and {without[-1]:.4f}"


def draw_rebound(studies: Sequence[SizeStudy], path: Path) -> None:
    """Held-out high-entropy loss by tokens: every trial, the baseline and the best, one panel for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(studies), 3.8), layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    for panel, study in zip(panels, studies, strict=True):
        for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
            _draw(panel, trial, "0.85", 0.8, None)
        if (baseline := study.baseline()) is not None:
            _draw(panel, baseline, "#d1495b", 2.0, "no dropout")
        if (best := study.best()) is not None:
            curriculum = study.parameters(best).get("curriculum")
            what = f"EntroDrop, trial {best.number} ({curriculum['shape']})" if curriculum else f"trial {best.number}"
            _draw(panel, best, "#00798c", 2.0, what)
        panel.set(title=study.model, xlabel="tokens trained on", ylabel="held-out high-entropy loss (nats)")
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(scratch, dpi=130, format="png")
    scratch.replace(path)


def _draw(panel: Any, trial: FrozenTrial, colour: str, width: float, label: str | None) -> None:
    points = sorted(trial.intermediate_values.items())
    panel.plot([t for t, _ in points], [v for _, v in points], color=colour, linewidth=width, label=label)


def write_results(output: Path, space: Space, studies: Sequence[SizeStudy], summary: dict[str, Any]) -> list[Path]:
    """Writes the result files. Returns their paths."""
    written = [output / "summary.json"]
    write_whole(written[0], json.dumps(summary, indent=2) + "\n")
    for study in studies:
        if (best := study.best()) is not None:
            path = output / f"best_schedule.{slug(study.model)}.yaml"
            write_whole(path, best_schedule(space, study, best))
            written.append(path)
    path = output / "rebound.png"
    draw_rebound(studies, path)
    return [*written, path]


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
