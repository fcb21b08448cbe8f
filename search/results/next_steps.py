"""What to do with a result, as commands to paste."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace

from search.results.model_result import ModelResult, recommend_trial, verdict_of
from search.space import EXACT, GENERAL, Space
from search.studies.comparison import POINTS, TEST, point_of, settings_to_raise
from search.studies.study import losses_of
from search.studies.verdict import Verdict
from trainables.config.command_line import CommandLine, invocation
from trainables.config.data import count_setting

# A loss that is least after this share of the evaluations still falls at the end.
_LATE_EVALUATION = 0.9
# A best trial after this share of the trials says that more of them may find a better one.
_LATE_TRIAL = 2 / 3
# Limits of a search: the first that is reached ends it.
_LIMITS = ("trials", "tokens", "hours", "device_hours")


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
        why: in words, without an end.
        command: one line for a shell.
    """

    why: str
    command: str


def next_steps(result: ModelResult, space: Space, command: CommandLine, output: str) -> list[Step]:
    """What to do when the search of a model has ended, first what its verdict asks for.

    Args:
        command: that began the search.
        output: the search's folder or URL.
    """
    study, verdict = result.searched, verdict_of(result, space)
    if (best := study.best()) is None:
        return []

    def repeated(suffix: str, changes: dict[str, object]) -> str:
        return command.repeated({"models": f"[{_as_yaml(study.model)}]", **changes}, f"{output}-{study.slug}-{suffix}")

    def search_on(why: str) -> list[Step]:
        """More trials of the same search, where there is something to try."""
        larger = {f"budget.{name}": 2 * value for name, value in space.budget if name in _LIMITS and value is not None}
        return [Step(f"try more settings, {why}", command.resumed(larger))] if study.searches else []

    baseline = study.baseline()
    schedule = f"{output}/best_schedule.{study.slug}.yaml"
    ending = "with this schedule" if verdict == Verdict.BETTER else "without dropout"
    train = Step(f"train {ending}", f"{invocation('trainables.finetune')} {shlex.quote(schedule)}")
    if verdict is None and space.confirmation is not None:
        return [train] if result.is_unconfirmable else []
    if verdict is None and study.breaks(best):
        return search_on("as none kept the constraint")
    if verdict is None and recommend_trial(result) is baseline:
        return search_on("as none did better than no dropout")
    if verdict is None:
        why = "confirm it, as a setting looks better than it is on the documents that chose it"
        return [Step(why, repeated("confirmed", {"confirmation": "{}"}))]
    steps, point = [train], point_of(space)
    if verdict == Verdict.COSTLY:
        return [
            *steps,
            *(_show_constraint(result, space, repeated) or search_on("as this one may not keep the constraint")),
        ]
    if verdict == Verdict.UNSTABLE:
        return [*steps, *search_on("as runs of this one diverged")]
    other = next(each for each in POINTS if each != point)
    test = count_setting(space.data)
    raised = settings_to_raise(result.verdict[point], test or TEST) if verdict == Verdict.UNDECIDED else {}
    # No setting gives more documents than a source has.
    if raised and (test is not None or TEST not in raised):
        why = "tell a difference like the one that was seen"
        steps.append(Step(why, repeated("more", dict(raised))))
    if verdict != Verdict.BETTER and result.verdict[other].verdict == Verdict.BETTER and space.measure != EXACT:
        last = "last" if other == "final" else "best"
        steps.append(Step(f"search for the {last} checkpoint, if you keep that", repeated(last, {"objective": other})))
    if verdict != Verdict.BETTER and baseline is not None:
        losses = losses_of(baseline)
        if len(losses) > 1 and losses.index(min(losses)) >= _LATE_EVALUATION * (len(losses) - 1):
            why = "train longer, as without dropout the loss still falls at the end and there is nothing to save yet"
            steps.append(Step(why, repeated("longer", {"budget.epochs": 2 * space.budget.epochs})))
    if verdict == Verdict.BETTER and result.chosen is not None:
        tried = sorted(trial.number for trial in study.ranked(result.chosen))
        number = result.comparisons[result.chosen].contestant.trial
        if number in tried and tried.index(number) >= _LATE_TRIAL * len(tried):
            steps += search_on(f"as the best was one of the last, number {tried.index(number) + 1} of {len(tried)}")
    return steps


def _as_yaml(text: str) -> str:
    """A text as it stands in a list of YAML."""
    return text if re.fullmatch(r"[\w./@:-]*\w", text) else json.dumps(text, ensure_ascii=False)


def _show_constraint(
    result: ModelResult, space: Space, repeated: Callable[[str, dict[str, object]], str]
) -> list[Step]:
    """What may show that a better setting keeps the constraint; nothing if it seems to break it."""
    allowed = space.constraints.general_loss
    assert result.chosen is not None
    assert allowed is not None
    found = result.comparisons[result.chosen].differences[point_of(space)][GENERAL]
    raised = settings_to_raise(replace(found, mean=allowed - found.mean, margin=None), "general.documents")
    if found.mean >= allowed or not raised:
        return []
    return [Step("show that it keeps the constraint, as it seems to", repeated("more", dict(raised)))]
