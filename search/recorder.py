"""Where what happens in a search goes: the live table, MLflow, and events.jsonl."""

import json
import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.arms import curriculum_name, flatten
from search.progress.console import ProgressConsole
from search.scheduling.allocation import Allocation
from search.space import Space
from search.studies.pruners import PLATEAU
from search.studies.study import STATES, Candidate, TrialStudy
from search.tracking import Tracker
from trainables.config.model_names import slug
from trainables.errors import mask_secrets
from trainables.storage.files import drop_partial_line

# The tag that MLflow's UI shows as a run's description.
_DESCRIPTION = "mlflow.note.content"
# What MLflow's UI shows as a run's source.
_SOURCE = {"mlflow.source.name": "python -m search.run", "mlflow.source.type": "LOCAL"}


class Recorder:
    """Tells the live table, MLflow and events.jsonl what happens."""

    def __init__(self, progress: ProgressConsole, tracker: Tracker, events: Path) -> None:
        self._progress, self._tracker = progress, tracker
        # For each model that is prepared the hash of its data.
        self._hashes: dict[str, str] = {}
        self._source: dict[str, Any] = {}
        drop_partial_line(events)
        self._events = events.open("a", encoding="utf-8")

    def close(self) -> None:
        self._events.close()

    def event(self, kind: str, **values: Any) -> None:
        """Appends one line to events.jsonl."""
        line = {"time": round(time.time(), 3), "event": kind, **values}
        self._events.write(json.dumps(line) + "\n")
        self._events.flush()

    def prepared(self, model: str, data_hash: str) -> None:
        """The data of a model is known; trials that end from now on are told to have trained on it."""
        self._hashes[model] = data_hash
        self._tracker.data(_data_name(model, self._source), data_hash, self._source)

    def search_started(
        self, space: Space, planned: Mapping[str, int], texts: Mapping[str, str], resume_command: str
    ) -> None:
        """Opens the parent run, or the one that an earlier part of this search began.

        Args:
            planned: trials of each study.
        """
        settings = space.model_dump(mode="json", exclude={"schedule"})
        self._source, parameters = settings["data"], flatten(settings)
        tags = {"kind": "search", "models": " ".join(space.models), **_SOURCE}
        if (commit := _git_commit()) is not None:
            tags["git.commit"] = commit
        self._tracker.start_search(space.name, parameters, tags, texts)
        # An earlier part of this search has left its events.
        self.event(
            "search_started",
            name=space.name,
            models=space.models,
            planned=dict(planned),
            resumed=self._events.tell() > 0,
            resume_command=mask_secrets(resume_command),
        )

    def search_ended(self, status: str, summary: Mapping[str, Any], words: str, files: Sequence[Path]) -> None:
        """Puts the best values and params, and the hashes of the data, on the parent run.

        Args:
            words: what came of it, in markdown, as the run's description.
        """
        parameters: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        tags = {"state": status.lower(), _DESCRIPTION: words}
        for model, entry in summary["models"].items():
            short = slug(model)
            parameters |= {f"{short}.{k}": entry[k] for k in ("data_hash", "evaluation_hash") if k in entry}
            for name in ("baseline", "best"):
                if entry[name] is not None:
                    metrics[f"{short}.{name}.high_entropy_loss"] = entry[name]["high_entropy_loss"]
                    parameters |= flatten(entry[name]["params"], f"{short}.{name}.")
            if (confirmation := entry.get("confirmation")) is not None and confirmation["chosen"] is not None:
                tags[f"{short}.model"] = model
                tags |= {f"{short}.verdict": confirmation["verdict"], f"{short}.chosen_arm": confirmation["chosen"]}
                for point, found in confirmation["difference"].items():
                    metrics |= {f"{short}.test.{point}.difference.{bound}": value for bound, value in found.items()}
        self._tracker.end_search(status, parameters, metrics, tags, files)
        self.event("search_ended", status=status)

    def register(self, name: str, study: str, number: int, folder: Path, tags: Mapping[str, str]) -> None:
        """Registers the model that a study's trial has left in `folder`."""
        self._tracker.register(f"{study}/{number}", folder, name, tags)
        self.event("model_registered", name=name, study=study, trial=number)

    def run_id(self, study: str, number: int) -> str | None:
        """The MLflow run of a study's trial, if MLflow has named it."""
        return self._tracker.run_id(f"{study}/{number}")

    def allotted(self, models: Sequence[str], allotted: Allocation) -> None:
        """The models that come next share these slots."""
        trials = f"{allotted.slots} trial{'s' if allotted.slots > 1 else ''} at a time"
        workers = f"{allotted.workers} worker{'s' if allotted.workers > 1 else ''}"
        self._progress.note(f"{', '.join(models)}: {trials}, each on {workers}")
        self.event("models_allotted", models=list(models), workers=allotted.workers, slots=allotted.slots)

    def slots_changed(self, slots: int) -> None:
        """So many slots are at work from now on."""
        self._progress.note(f"slots at work: {slots}, as nodes have left the cluster or joined it")
        self.event("slots_changed", slots=slots)

    def trial_started(self, study: TrialStudy, candidate: Candidate) -> None:
        key = self._key(study, candidate)
        name = curriculum_name(candidate.arm, candidate.parameters)
        tags = {
            "model": study.model,
            "arm": candidate.arm,
            "stage": _stage(candidate),
            "trial": str(candidate.number),
            "state": "running",
            **_SOURCE,
        }
        if "curriculum" in candidate.parameters:
            tags["curriculum.shape"] = candidate.parameters["curriculum"]["shape"]
        parameters = {"model": study.model, "arm": candidate.arm, **flatten(candidate.parameters)}
        self._tracker.start_trial(key, f"{key} {name}", parameters, tags)
        self._happened(
            "trial_started",
            study,
            candidate,
            arm=candidate.arm,
            parameters=candidate.parameters,
            planned=study.planned,
            full_tokens=study.full_tokens or 0,
            tokens=study.tokens(candidate.number),
        )

    def trial_report(self, study: TrialStudy, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        tokens = int(metrics["tokens"])
        self._tracker.evaluation(
            self._key(study, candidate), {n: v for n, v in metrics.items() if n != "tokens"}, tokens
        )
        self._happened("evaluation", study, candidate, full_tokens=study.full_tokens or 0, **metrics)

    def trial_ended(self, study: TrialStudy, candidate: Candidate, state: TrialState, reason: str | None) -> None:
        key = self._key(study, candidate)
        losses = study.losses(candidate.number)
        final = {"best_high_entropy_loss": min(losses), "final_high_entropy_loss": losses[-1]} if losses else {}
        # What a trial had until it was stopped because it would not win cannot be compared with the end of another.
        if losses and (state == TrialState.COMPLETE or reason == PLATEAU):
            final["objective"] = study.value(candidate.number)
        for point, read in study.tested(candidate.number).items():
            final |= {f"test.{point}.{name}": value for name, value in read.items() if math.isfinite(value)}
        name, reason = STATES[state], mask_secrets(reason) if reason else reason
        tags = {"state": name, "reason": reason or ""}
        if (accumulation := study.annotation(candidate.number, "accumulation")) is not None:
            tags["retried"] = f"out of memory, went on with accumulation {accumulation}"
        if (data_hash := self._hashes.get(study.model)) is not None:
            self._tracker.data(_data_name(study.model, self._source), data_hash, self._source, key)
        status = "FAILED" if state == TrialState.FAIL else "FINISHED"
        self._tracker.end_trial(key, status, metrics=final, tags=tags)
        objective = study.value(candidate.number) if losses else None
        self._happened("trial_ended", study, candidate, state=name, reason=reason, objective=objective)

    def _happened(self, kind: str, study: TrialStudy, candidate: Candidate, **values: Any) -> None:
        """An event of a trial, for a person and for events.jsonl."""
        values = {"study": study.name, "stage": _stage(candidate), "trial": candidate.number, **values}
        self._progress.happened(kind, values)
        self.event(kind, model=study.model, **values)

    @staticmethod
    def _key(study: TrialStudy, candidate: Candidate) -> str:
        return f"{study.name}/{candidate.number}"


def _data_name(model: str, source: Mapping[str, Any]) -> str:
    """What the data is called; the tokens are the model's own."""
    return f"{source.get('task') or source['source']}, {model}"


def _stage(candidate: Candidate) -> str:
    return "confirmation" if candidate.test else "search"


def _git_commit() -> str | None:
    """The commit of the folder that the search was started in."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
