"""The schema of a search space (spaces/*.yaml), and how one is loaded.

    python -m search.space --json-schema > space.schema.json
    python -m search.space --reference > spaces/REFERENCE.md

The JSON schema is what editors use to complete and to check a space; the reference is for people. Each setting can be
fixed; a `Searchable` one can also be searched: as a range {low, high, log} or as a list of choices. What a single run
is stands in trainables.config.
"""

import argparse
import json
import math
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from search.arms import BASELINE, ArmBlock, check_arms
from search.environment import MLFLOW_URI, is_mlflow_uri
from search.hardware import parse_gpus
from search.schema_reference import render_reference
from trainables.config import loader
from trainables.config.data import stated_count
from trainables.config.fields import (
    Block,
    Choices,
    Count,
    CountOrAuto,
    FloatRange,
    NotNegative,
    Positive,
    Share,
    Text,
    WholeNumber,
)
from trainables.config.loader import ConfigFile
from trainables.config.run import RunBudget, RunConfig
from trainables.config.training import SMOOTHED, is_smoothed
from trainables.config.validation_messages import shown, wrong
from trainables.config.yaml_values import YamlError, read
from trainables.errors import DataError, mask_secrets

Objective = Literal["high_entropy_loss", "loss", "low_entropy_loss", "general_loss"]
HIGH: Objective = "high_entropy_loss"
GENERAL: Objective = "general_loss"
EXACT: Literal["exact_match"] = "exact_match"


def fewest_documents(confidence: float) -> int:
    """The fewest documents that an interval of this confidence can be made from: with fewer, they could all agree by
    chance more often than the interval may be wrong (2 * 0.5**K > 1 - confidence)."""
    return math.ceil(1 - math.log2(1 - confidence))


# Nats by which settings differ from document to document, at their best evaluations: the least that was measured
# (LOG.md, 2026-11-29).
_DOCUMENTS_DIFFER = 0.12


def least_margin(documents: int, confidence: float) -> float:
    """The smallest margin that an interval over so many documents could lie within, whatever the seeds, in nats."""
    return NormalDist().inv_cdf((1 + confidence) / 2) * _DOCUMENTS_DIFFER / math.sqrt(documents)


def documents_for_margin(margin: float, confidence: float) -> int:
    """Test documents for an interval that lies within a margin, in nats, in four of five cases of no difference."""
    errors = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(0.9)
    return math.ceil((errors * _DOCUMENTS_DIFFER / margin) ** 2)


def _hard_tokens_first(objectives: list[Objective]) -> list[Objective]:
    if objectives[0] != HIGH:
        raise wrong((0,), shown(objectives[0]), f"{HIGH}, the first of the objectives")
    return objectives


class Budget(RunBudget):
    """For each model; the search of one ends with what is used up first, and what runs then runs on."""

    trials: Count = 8
    """Full trials for each model, with arms for each arm in which something is searched: an integer of at least 1;
    trial 0 is the baseline without dropout; the tokens that stopping early saves go to further trials."""
    tokens: Count | None = None
    """Tokens to train on in the search of each model, for each arm (without arms, for the baseline and for the
    schedule): an integer of at least one trial's; null for no limit."""
    hours: Positive | None = None
    """Wall time for the search of each model, in hours: above 0; null for no limit."""
    device_hours: Positive | None = None
    """GPU time, or without GPUs CPU core time, for the search of each model, in hours: above 0; null for no limit."""


class EarlyStopping(Block):
    patience: Count | None = 3
    """With the objective best, evaluations without improvement after which a trial stops: an integer of at least 1;
    null for never."""
    pruner: Literal["comebacks", "curves", "rungs", "none"] = "comebacks"
    """How trials that will not win are stopped: comebacks (with the objectives final and mean, those that the largest
    comeback so far, with a margin, would not bring to the best), curves (those whose extrapolated objective is hardly
    below the best one), rungs (the worse ones stop at each rung), or none."""
    first_rung: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the budget's tokens before the first rung, or before comebacks or curves count: above 0 and below 1."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in so many trials goes on at each rung: an integer of at least 2."""
    chance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """With the pruner curves, a trial stops if its chance of coming out best is less: above 0 and below 1."""
    audit: Share = 0.1
    """Share of the trials to be stopped that run on all the same, to see how often stopping is wrong: from 0 to 1."""


class Sampler(Block):
    name: Literal["tpe", "gp", "random", "qmc"] = "tpe"
    """How the next setting is chosen: tpe (learns from earlier trials), gp (a Gaussian process, which learns from the
    first trial on; after 100 trials tpe), random, or qmc (spread evenly)."""
    startup_trials: Count = 5
    """Random trials before tpe starts to learn: an integer of at least 1."""


_Seeds = Annotated[int, Field(ge=2)]
if TYPE_CHECKING:
    SeedsOrAuto = Union[int, Literal["auto"]]  # noqa: UP007
else:
    # Tagged, as errors then name the setting alone.
    SeedsOrAuto = Annotated[
        Annotated[_Seeds, Tag("fixed")] | Annotated[Literal["auto"], Tag("choices")],
        Discriminator(lambda given: "choices" if given == "auto" else "fixed"),
    ]


class ConfirmationBlock(Block):
    best: Count = 2
    """Settings of each arm that are trained again: an integer of at least 1."""
    seeds: SeedsOrAuto = "auto"
    """Seeds that each is trained with: an integer of at least 2, or auto (two, then more while they can decide)."""
    max_seeds: Annotated[int, Field(ge=2)] = 6
    """With seeds auto, the most: an integer of at least 2."""
    margin: Positive | None = None
    """The difference in loss below which a setting is called equal to no dropout, in nats (with the objective
    exact_match, in the share of right answers): above 0; null not to claim equality."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Confidence of the intervals: from 0.5 to 0.999."""
    keep_models: bool = False
    """Whether models/ keeps the model of each run, for entrodrop evaluate: true or false."""

    def margin_with(self, documents: int) -> str | None:
        """What is allowed with so many test documents of different prompts, if the margin is smaller than they can
        bear."""
        if self.margin is None or self.margin >= (least := least_margin(documents, self.confidence)):
            return None
        wanted = documents_for_margin(self.margin, self.confidence)
        return f"at least {least:.2g} with {documents} test documents; or set data.test to {wanted} documents"

    @property
    def fewest_documents(self) -> int:
        """That an interval can be made from."""
        return fewest_documents(self.confidence)

    @property
    def in_rounds(self) -> bool:
        """Whether seeds are added while they can decide."""
        return self.seeds == "auto"

    @property
    def most_seeds(self) -> int:
        """That each setting can be trained with."""
        return self.max_seeds if self.seeds == "auto" else self.seeds


def _gpus(text: str) -> str:
    try:
        parse_gpus(text)
    except ValueError as error:
        raise wrong((), shown(text), str(error)) from None
    return text


class Autoscaler(Block):
    cpus: WholeNumber = 0
    """CPU cores, in all: an integer of at least 0."""
    gpus: Annotated[Text, AfterValidator(_gpus)] | None = None
    """GPUs, in all, and their kind: as in 8xH100; null for none."""


_LEAST_SHARE = 0.01


class Resources(Block):
    slots: CountOrAuto = 2
    """Trials that train at the same time: an integer of at least 1 (with workers auto, the most), or auto (as many as
    there are GPUs for, or without GPUs CPUs)."""
    workers: CountOrAuto = 1
    """Processes that share a trial: an integer of at least 1, or auto (for each model the fewest of 1, 2, 4, ... with
    which it fits on the GPUs)."""
    cpus_per_worker: Count = 1
    """CPU cores of a worker: an integer of at least 1."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] = 0
    """GPUs of a worker: 0, 1, or a share, such as 0.5, with which slots of one worker lie on one GPU together."""
    placement: Literal["pack", "spread"] = "pack"
    """How a trial's workers lie over the nodes of a cluster: pack (on as few as they fit on) or spread (on as many)."""
    autoscaler: Autoscaler | None = None
    """The most that the autoscaler of the cluster that RAY_ADDRESS names may bring it to; null for what the cluster has
    when the search joins it."""

    @model_validator(mode="after")
    def _shares_are_of_one_worker(self) -> Self:
        if 0 < self.gpus_per_worker < _LEAST_SHARE:
            raise wrong(("gpus_per_worker",), shown(self.gpus_per_worker), f"0, or from {_LEAST_SHARE:g} to 1")
        # NCCL refuses two ranks on one GPU, and they would only wait for each other.
        if 0 < self.gpus_per_worker < 1 and self.workers not in (1, "auto"):
            allowed = f"1 or auto, with a share of a GPU for each (resources.gpus_per_worker {self.gpus_per_worker:g})"
            raise wrong(("workers",), shown(self.workers), allowed)
        return self

    @property
    def devices(self) -> float:
        """GPUs of a slot, or without GPUs its CPU cores: what device seconds are counted in."""
        return self.counts[0] * (self.gpus_per_worker or self.cpus_per_worker)

    @property
    def automatic(self) -> bool:
        """Whether workers or slots are still to be found, by search/scheduling/allocation.py."""
        return "auto" in (self.workers, self.slots)

    @property
    def counts(self) -> tuple[int, int]:
        """Workers and slots, where both are numbers."""
        workers, slots = self.workers, self.slots
        assert workers != "auto"
        assert slots != "auto"
        return workers, slots


class Faults(Block):
    restarts: Annotated[int, Field(ge=0)] = 2
    """Times that a trial may lose its workers, and times that it may lose its slot, before it fails: an integer of at
    least 0; nodes that the cluster takes away are not counted."""
    hang_minutes: Positive = 30
    """Minutes without a forward pass after which a trial fails: above 0."""
    shrink_minutes: NotNegative = 1
    """Minutes for which lost nodes are waited for before the search goes on with fewer slots, and may come to other
    settings: at least 0."""
    save_seconds: NotNegative = 20
    """Seconds that the running trials have to save their state when the search is interrupted: at least 0. Clusters
    and Kubernetes kill a process half a minute after they asked it to end; the search itself needs ten of them."""


def _not_mysql(url: str) -> str:
    # Its columns for text cannot hold what is kept with a study.
    kind = url.partition(":")[0].partition("+")[0]
    if kind in ("mysql", "mariadb"):
        raise wrong((), shown(url), f"the URL of a database ({kind} cannot hold a study, postgresql can)")
    return url


class StudyBlock(Block):
    storage: Annotated[Text, AfterValidator(_not_mysql)] | None = None
    """Database of the Optuna studies, which searches share under their names: a URL as SQLAlchemy writes it
    (postgresql://host/optuna, which needs the package psycopg; not MySQL); null for the journal in the output
    folder."""


def _mlflow_uri(uri: str) -> str:
    if not is_mlflow_uri(uri):
        raise wrong((), shown(uri), MLFLOW_URI)
    return uri


class Tracking(Block):
    experiment: Text = "entrodrop"
    """MLflow experiment that the search is recorded in: a name."""
    uri: Annotated[Text, AfterValidator(_mlflow_uri)] | None = None
    """Where MLflow records: a tracking URI; null for MLFLOW_TRACKING_URI, or MLflow's own default."""
    register_as: Text | None = None
    """Name under which MLflow registers the confirmed model of each size: one line of text, which the size's own name
    follows; null not to."""


class Constraints(Block):
    general_loss: NotNegative | None = None
    """How much higher than without dropout the loss on general documents may be, in nats: at least 0; null for any."""


class Space(RunConfig):
    """A search: what is searched, on which models and data, with what budget."""

    budget: Budget = Budget()
    """How much is spent."""
    arms: Annotated[list[ArmBlock], Field(min_length=1), AfterValidator(check_arms)] | None = None
    """What is compared: a list of the baseline none and others, each with the budget; null for the schedule and
    none."""
    objectives: Annotated[Choices[Objective], AfterValidator(_hard_tokens_first)] = Field(default=[HIGH])
    """The losses to minimise: a list of high_entropy_loss, the first, and others (loss, low_entropy_loss,
    general_loss); with several, the result is a Pareto front."""
    objective: Literal["best", "final", "mean", "exact_match"] = "best"
    """The evaluation that counts: best (of least high-entropy loss), final, or mean (of all evaluations); or
    exact_match, for the share of right answers at the end."""
    constraints: Constraints = Constraints()
    """What a setting may cost; one that is not shown to keep to it is not recommended."""
    early_stopping: EarlyStopping = EarlyStopping()
    """When a trial ends before its budget."""
    sampler: Sampler = Sampler()
    """How settings are chosen."""
    transfer: WholeNumber = 2
    """Best settings of a model that are the first trials of the next larger one: an integer of at least 0."""
    confirmation: ConfirmationBlock | None = ConfirmationBlock()
    """How the best settings are tested, with fresh seeds and on the test split; null not to."""
    resources: Resources = Resources()
    """What a slot gets; a slot trains one trial at a time."""
    faults: Faults = Faults()
    """When a trial that is in trouble is given up."""
    study: StudyBlock = StudyBlock()
    """Where the state of the search is kept."""
    tracking: Tracking = Tracking()
    """Where the search is recorded."""

    @model_validator(mode="after")
    def _batches_are_whole(self) -> Self:
        training, resources = self.training, self.resources
        workers = 1 if resources.workers == "auto" else resources.workers
        if training.batch_size % (training.accumulation * workers):
            problem = (
                f"training.batch_size ({training.batch_size}) is not a multiple of training.accumulation"
                f" ({training.accumulation}) * resources.workers ({resources.workers}); change one of the three"
            )
            settings = {
                ("training", "batch_size"): training,
                ("resources", "workers"): resources,
                ("training", "accumulation"): training,
            }
            # Not the default of one setting, but what was written.
            where = next(where for where, block in settings.items() if where[1] in block.model_fields_set)
            raise wrong(where, problem)
        return self

    @model_validator(mode="after")
    def _objectives_are_reported(self) -> Self:
        if GENERAL in self.objectives and self.general is None:
            where = "objectives", self.objectives.index(GENERAL)
            raise wrong(where, f"{GENERAL} is not measured without general documents; add the block general")
        if (allowed := self.constraints.general_loss) is None:
            return self
        if self.general is None:
            problem = f"given {shown(allowed)}, but nothing measures it; add general documents, or write null"
            raise wrong(("constraints", GENERAL), problem)
        if (how := self.confirmation) is not None and self.general.documents < (fewest := how.fewest_documents):
            told = f"at least {fewest}, for constraints.general_loss with an interval of {100 * how.confidence:g}%"
            raise wrong(("general", "documents"), shown(self.general.documents), f"{told}; or confirmation: null")
        return self

    @property
    def measures(self) -> list[Objective]:
        """The losses that every trial must have: the objectives, and what is constrained."""
        constrained: list[Objective] = [GENERAL] if self.constraints.general_loss is not None else []
        return list(dict.fromkeys([*self.objectives, *constrained]))

    @model_validator(mode="after")
    def _answers_are_counted(self) -> Self:
        if self.objective != EXACT:
            return self
        if not self.evaluation.exact_match:
            problem = (
                "given exact_match, but no answers are counted; set evaluation.exact_match to a number of questions"
            )
            raise wrong(("objective",), problem)
        if len(self.objectives) > 1:
            allowed = f"{HIGH} alone, with objective: exact_match"
            raise wrong(("objectives",), ", ".join(self.objectives), allowed)
        if self.early_stopping.pruner in ("curves", "rungs"):
            allowed = "comebacks or none: with objective: exact_match answers are counted at the end of a trial alone"
            raise wrong(("early_stopping", "pruner"), shown(self.early_stopping.pruner), allowed)
        return self

    @property
    def measure(self) -> Literal["high_entropy_loss", "exact_match"]:
        """What the objective and the verdict are about."""
        return EXACT if self.objective == EXACT else "high_entropy_loss"

    @property
    def evaluation_that_counts(self) -> Literal["best", "final", "mean"]:
        return "final" if self.objective == EXACT else self.objective

    def margin_with(self, documents: int) -> str | None:
        """See `ConfirmationBlock.margin_with`; of answers nothing is known before they are counted."""
        how = self.confirmation
        return how.margin_with(documents) if how is not None and self.objective != EXACT else None

    @model_validator(mode="after")
    def _arms_change_what_is_there(self) -> Self:
        for index, arm in enumerate(self.arms or ()):
            if self.schedule is None and arm.schedule is not None and "schedule" in arm.model_fields_set:
                problem = "the space's schedule is null, and there is none to change; write null here too"
                raise wrong(("arms", index, "schedule"), problem)
            given = {name: value for name, value in arm.training if value is not None}
            training = self.training.model_copy(update=given)
            if given and arm.name != BASELINE and is_smoothed(training.token_weight, training.label_smoothing):
                name = "token_weight" if "token_weight" in given else "label_smoothing"
                raise wrong(("arms", index, "training", name), SMOOTHED)
        return self

    @model_validator(mode="after")
    def _can_be_confirmed(self) -> Self:
        if (how := self.confirmation) is None:
            if self.tracking.register_as is not None:
                problem = "only a confirmed model is registered; write null, or give the block confirmation"
                raise wrong(("tracking", "register_as"), problem)
            return self
        most = self.budget.trials - (self.arms is None)
        most = max(most, 1)
        if how.best > most and "best" in how.model_fields_set:
            allowed = f"at most {most}, the trials of an arm that can end"
            raise wrong(("confirmation", "best"), shown(how.best), allowed)
        if self.budget.trials == 1 and self.arms is None:
            raise wrong(("budget", "trials"), "1", "at least 2, as trial 0 is the baseline; or confirmation: null")
        if (documents := stated_count(self.data.test)) is None:
            return self
        if documents < (fewest := how.fewest_documents):
            allowed = f"at least {fewest}, for an interval of {100 * how.confidence:g}%; or confirmation: null"
            raise wrong(("data", "test"), shown(documents), allowed)
        if (allowed_margin := self.margin_with(documents)) is not None:
            raise wrong(("confirmation", "margin"), shown(how.margin), allowed_margin)
        return self


def to_store(space: Space) -> dict[str, Any]:
    """The space as JSON values, without the secrets in its URLs."""
    values = space.model_dump(mode="json")
    for block, key in (("tracking", "uri"), ("study", "storage")):
        if values[block][key] is not None:
            values[block][key] = mask_secrets(values[block][key])
    return values


def masked_text(text: str, otherwise: str) -> str:
    """The text of a space without secrets; `otherwise` if an escape or a line break in it hides one, or if a template
    looks like one: it is kept as it is."""
    masked = mask_secrets(text)
    try:
        (values, _), (given, _) = read(masked), read(text)
    except YamlError:
        return otherwise
    data = values.pop("data", None)
    return otherwise if _has_secret(values) or data != given.get("data") else masked


def _has_secret(value: Any) -> bool:
    match value:
        case str():
            return mask_secrets(value) != value
        case dict():
            return any(map(_has_secret, value.values()))
        case list():
            return any(map(_has_secret, value))
        case _:
            return False


def check_tokens(budget: int, full: int, model: str) -> None:
    """Raises DataError if the tokens to spend are less than those of one trial."""
    if budget < full:
        raise DataError("budget.tokens", str(budget), f"at least {full}, one trial of {model}")


def find_space(text: str) -> Path:
    """The file `text`, or the example space of this name, which an installation has as well."""
    path = Path(text)
    return path if path.exists() else next((each for each in _examples() if each.stem == text), path)


def _examples() -> list[Path]:
    """The example spaces: of the checkout, or of the installed distribution."""
    beside = Path(__file__).resolve().parents[1] / "spaces"
    if beside.is_dir():
        return sorted(beside.glob("*.yaml"))
    installed = distribution("entrodrop-search").files or []
    return [Path(str(file.locate())) for file in installed if file.match("share/entrodrop/spaces/*.yaml")]


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile[Space]:
    """The space in the file `path`, after `overrides` such as "budget.trials=4".

    Raises:
        ConfigError: anything that the author of the file or of the overrides can mend.
    """
    return loader.load(path, overrides, Space)


def load_stored(path: Path) -> Space:
    """The space that a search has stored, also on a machine that does not have its models.

    Raises:
        ConfigError: damaged.
    """
    return loader.load(path, (), Space, models_are_here=False).config


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space's file."""
    schema = Space.model_json_schema()
    text = json.dumps(schema)
    for name, block in schema["$defs"].items():
        if block["title"] == FloatRange.__name__:
            text = text.replace(f'{name}"', f'{_range_name(block["properties"]["low"])}"')
    named: dict[str, Any] = json.loads(text)
    for name, block in named["$defs"].items():
        if block["title"] == FloatRange.__name__:
            block |= {"title": name, "description": FloatRange.__doc__}
    return named


def _range_name(number: dict[str, Any]) -> str:
    """A name for the ranges of such numbers, as FloatRangeAbove0To1: pydantic's holds all its classes."""
    words = {"minimum": "From", "exclusiveMinimum": "Above", "maximum": "To", "exclusiveMaximum": "Below"}
    return FloatRange.__name__ + "".join(f"{word}{number[key]:g}" for key, word in words.items() if key in number)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m search.space", description="The schema of a search space.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--json-schema", action="store_true", help="print spaces/schema.json")
    what.add_argument("--reference", action="store_true", help="print spaces/REFERENCE.md")
    options = parser.parse_args()
    print(
        json.dumps(json_schema(), indent=1) + "\n" if options.json_schema else render_reference(json_schema()), end=""
    )


if __name__ == "__main__":
    main()
