"""Where what happens in a search goes: events.jsonl, from which MLflow is told, and the live table."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.arms import flatten
from search.output.events import (
    DataPrepared,
    Evaluation,
    Event,
    ModelRegistered,
    ModelsAllotted,
    PhaseBegan,
    SearchEnded,
    SearchStarted,
    SlotsChanged,
    TrialEnded,
    TrialStarted,
    append_events,
)
from search.output.folder import RESOLVED, SPACE
from search.progress.console import ProgressConsole
from search.scheduling.allocation import Allocation
from search.space import EXACT, Space, to_store
from search.studies.pruners import PLATEAU
from search.studies.study import STATES, Candidate, TrialStudy
from search.tracking.delivery import Delivery
from trainables.config.model_names import slug
from trainables.errors import TEMPLATES, mask_secrets, one_line


class Recorder:
    """Writes what happens to the file `events`, and tells MLflow's delivery, which has it open, and the live table.

    Every method raises OSError if the disk is full.
    """

    def __init__(self, progress: ProgressConsole, delivery: Delivery, events: Path) -> None:
        self._progress, self._delivery, self._events = progress, delivery, events
        self._source: dict[str, Any] = {}

    def _write(self, event: Event) -> None:
        append_events(self._events, event)
        self._delivery.wake()
        self._progress.handle(event)

    def prepared(self, model: str, data_hash: str, documents: list[list[Any]]) -> None:
        """The data of a model is known, which its trials train on."""
        self._write(DataPrepared(model=model, data_hash=data_hash, source=self._source, documents=documents))

    def phase_began(self, words: str) -> None:
        """Something that comes before the first trial; may be told by another thread."""
        self._write(PhaseBegan(words=mask_secrets(words)))

    def search_started(self, space: Space, planned: Mapping[str, int], resume_command: str) -> None:
        """The search begins, or goes on.

        Args:
            planned: trials of each study.
            resume_command: without secrets.
        """
        settings = _mask(to_store(space))
        self._source = settings["data"]
        self._write(
            SearchStarted(
                name=space.name,
                models=space.models,
                planned=dict(planned),
                # An earlier part of this search has left its events.
                resumed=self._events.exists() and self._events.stat().st_size > 0,
                resume_command=resume_command,
                settings={name: value for name, value in settings.items() if name != "schedule"},
                commit=_git_commit(),
                files=[SPACE, RESOLVED],
            )
        )

    def search_ended(self, status: str, summary: Mapping[str, Any], words: str, files: Sequence[Path]) -> None:
        """The best values and params, and the hashes of the data.

        Args:
            words: what came of it, in markdown.
        """
        parameters: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        tags: dict[str, str] = {}
        for model, entry in summary["models"].items():
            short = slug(model)
            parameters |= {f"{short}.{k}": entry[k] for k in ("data_hash", "evaluation_hash") if k in entry}
            for name in ("baseline", "best"):
                if entry[name] is not None:
                    shown = [key for key in ("high_entropy_loss", EXACT) if key in entry[name]]
                    metrics |= {f"{short}.{name}.{key}": entry[name][key] for key in shown}
                    parameters |= flatten(entry[name]["params"], f"{short}.{name}.")
            if (confirmation := entry.get("confirmation")) is not None and confirmation["chosen"] is not None:
                tags[f"{short}.model"] = model
                tags |= {f"{short}.verdict": confirmation["verdict"], f"{short}.chosen_arm": confirmation["chosen"]}
                for point, found in confirmation["difference"].items():
                    parts = ("mean", "low", "high", "here_low", "here_high", "detectable")
                    metrics |= {f"{short}.test.{point}.difference.{name}": found[name] for name in parts}
        self._write(
            SearchEnded(
                status=status,
                parameters=parameters,
                metrics=metrics,
                tags=tags,
                description=mask_secrets(words),
                files=[self._place(file) for file in files],
            )
        )

    def search_failed(self, reason: str) -> None:
        """An error has ended the search."""
        self._write(SearchEnded(status="FAILED", description=mask_secrets(one_line(reason))))

    def register(
        self, name: str, study: TrialStudy, number: int, folder: Path, tags: Mapping[str, str], description: str = ""
    ) -> None:
        """Registers the model that a study's trial has left in `folder`, which must stay until MLflow has taken it."""
        place = self._place(folder)
        of = _name_trial(study, number, "confirmation")
        words = mask_secrets(description)
        self._write(ModelRegistered(**of, name=mask_secrets(name), folder=place, tags=dict(tags), description=words))

    def allotted(self, models: Sequence[str], allotted: Allocation, chosen: bool) -> None:
        """The models that come next share these slots.

        Args:
            chosen: whether the search has chosen them; otherwise the space says so.
        """
        self._write(ModelsAllotted(models=list(models), workers=allotted.workers, slots=allotted.slots))
        if not chosen:
            return
        trials = f"{allotted.slots} trial{'s' if allotted.slots > 1 else ''} at a time"
        workers = f"{allotted.workers} worker{'s' if allotted.workers > 1 else ''}"
        self._progress.note(f"{', '.join(models)}: {trials}, each on {workers}")

    def slots_changed(self, slots: int) -> None:
        """So many slots are at work from now on."""
        self._progress.note(f"slots at work: {slots}, as nodes have left the cluster or joined it")
        self._write(SlotsChanged(slots=slots))

    def trial_started(self, study: TrialStudy, candidate: Candidate) -> None:
        self._write(
            TrialStarted(
                **_name_trial(study, candidate.number, _stage(candidate)),
                arm=candidate.arm,
                parameters=candidate.parameters,
                planned=study.planned,
                full_tokens=study.full_tokens or 0,
                tokens=study.tokens(candidate.number),
            )
        )

    def trial_report(self, study: TrialStudy, candidate: Candidate, metrics: Mapping[str, float], node: str) -> None:
        self._write(
            Evaluation(
                **_name_trial(study, candidate.number, _stage(candidate)),
                tokens=int(metrics["tokens"]),
                full_tokens=study.full_tokens or 0,
                metrics={name: value for name, value in metrics.items() if name != "tokens"},
                node=node,
            )
        )

    def trial_ended(
        self, study: TrialStudy, candidate: Candidate, state: TrialState, reason: str | None, detail: str = ""
    ) -> None:
        losses = study.losses(candidate.number)
        final = {"best_high_entropy_loss": min(losses)} if losses else {}
        if state == TrialState.COMPLETE:
            final["final_high_entropy_loss"] = losses[-1]
        known = bool(losses) and (state == TrialState.COMPLETE or study.measure != EXACT)
        objective = study.value(candidate.number) if known else None
        # What a trial had until it was stopped because it would not win cannot be compared with the end of another.
        if objective is not None and (state == TrialState.COMPLETE or reason == PLATEAU):
            final["objective_value"] = study.told(objective)
            if (general := study.general_loss(candidate.number)) is not None:
                final["objective.general_loss"] = general
        for point, read in study.tested(candidate.number).items():
            final |= {f"test.{point}.{name}": value for name, value in read.items() if math.isfinite(value)}
        self._write(
            TrialEnded(
                **_name_trial(study, candidate.number, _stage(candidate)),
                state=STATES[state],
                reason=reason,
                detail=mask_secrets(detail),
                objective=objective,
                metrics=final,
                accumulation=study.annotation(candidate.number, "accumulation"),
            )
        )

    def _place(self, file: Path) -> str:
        """A file's path from the output folder, which may be moved, if it is in there."""
        path, folder = file.absolute(), self._events.absolute().parent
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _name_trial(study: TrialStudy, number: int, stage: str) -> dict[str, Any]:
    return {"study": study.name, "trial": number, "model": study.model, "stage": stage}


def _mask(value: Any) -> Any:
    match value:
        case str():
            return mask_secrets(value)
        case dict():
            return {name: one if name in TEMPLATES else _mask(one) for name, one in value.items()}
        case list():
            return [_mask(one) for one in value]
    return value


def _stage(candidate: Candidate) -> str:
    return "confirmation" if candidate.test else "search"


def _git_commit() -> str | None:
    """The commit of the folder that the search was started in."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
