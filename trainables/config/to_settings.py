"""From a run's configuration to what the trainer takes.

Searched settings get their values by name, as in "mask_ratio" or "curriculum.step.at"; a nested mapping of values, as
in {"mask_ratio": 0.4, "curriculum": {"shape": "step", "at": 0.5}}, is called parameters here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainables.config.data import FilesData, HubData, own_sources, source_of
from trainables.config.fields import FloatRange, is_searched, only
from trainables.config.run import RunConfig
from trainables.config.schedule import EntropyThreshold, Schedule, SplineShape, spec_of
from trainables.config.training import ALL_LINEAR, REGULARIZERS, SEARCHABLE, LoraAdapters, Training
from trainables.curriculum import curriculum_from
from trainables.data.documents import Splits, general_documents, read_splits
from trainables.errors import DataError
from trainables.preparation.prepared import Preparation
from trainables.settings import EntroDrop, ExactMatch, Lora, ModelSettings, Settings

if TYPE_CHECKING:
    from trainables.token_weight import TokenWeight

Config = TypeVar("Config", bound=RunConfig)


def choose(config: RunConfig, value: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Parameters: the learning rate, the weight decay and the schedule, and what else is searched.

    Args:
        value: gives a setting its value, by its name and by what the configuration says of it.
    """
    training, schedule = config.training, config.schedule
    parameters = {name: value(name, getattr(training, name)) for name in ("learning_rate", "weight_decay")}
    for name in REGULARIZERS:
        if is_searched(setting := getattr(training, name)):
            parameters[name] = value(name, setting)
    if (weight := training.token_weight) is not None:
        parameters["token_weight"] = {"kind": weight.kind} | {
            name: value(f"token_weight.{weight.kind}.{name}", setting) for name, setting in weight if name != "kind"
        }
    if (lora := training.lora) is not None and any(map(is_searched, lora.settings.values())):
        parameters["lora"] = {name: value(f"lora.{name}", setting) for name, setting in lora.settings.items()}
    if schedule is None:
        return parameters
    shapes = {shape.shape: shape for shape in schedule.curriculum}
    shape = shapes[value("curriculum.shape", list(shapes))]
    spec = spec_of(shape)
    if isinstance(shape, SplineShape) and shape.rises is None:
        rise = FloatRange[float](low=0.0, high=1.0)
        spec["rises"] = [value(f"curriculum.spline.rise_{i}", rise) for i in range(1, shape.knots + 2)]
    else:
        own = {key: setting for key, setting in spec.items() if key not in ("shape", "rises")}
        spec |= {key: value(f"curriculum.{shape.shape}.{key}", setting) for key, setting in own.items()}
    unit = "nats" if schedule.entropy_threshold.quantile is None else "quantile"
    chosen = {
        "entropy_threshold": {unit: value(f"entropy_threshold.{unit}", getattr(schedule.entropy_threshold, unit))},
        "mask_ratio": value("mask_ratio", schedule.mask_ratio),
        "presentation": value("presentation", schedule.presentation),
        "curriculum": spec,
    }
    for name in ("tokens", "refresh_epochs", "redraw"):
        if is_searched(getattr(schedule, name)):
            chosen[name] = value(name, getattr(schedule, name))
    return {**chosen, **parameters}


def fix_values(config: Config, parameters: Mapping[str, Any]) -> Config:
    """The configuration with these parameters, in which nothing is searched; without a curriculum, none is dropped."""
    training = {name: parameters.get(name, getattr(config.training, name)) for name in SEARCHABLE}
    weight = config.training.token_weight
    if weight is not None and "token_weight" in parameters:
        training["token_weight"] = type(weight).model_validate(parameters["token_weight"])
    if "lora" in parameters:
        targets = parameters["lora"]["target_modules"]
        targets = targets if targets == ALL_LINEAR else targets.split()
        training["lora"] = LoraAdapters(**{**parameters["lora"], "target_modules": targets})
    changes: dict[str, Any] = {"training": config.training.model_copy(update=_only(training)), "schedule": None}
    if config.schedule is not None and "curriculum" in parameters:
        spec = parameters["curriculum"]
        shape = next(shape for shape in config.schedule.curriculum if shape.shape == spec["shape"])
        schedule = {
            name: parameters.get(name, getattr(config.schedule, name))
            for name in ("tokens", "mask_ratio", "presentation", "refresh_epochs", "redraw")
        }
        changes["schedule"] = config.schedule.model_copy(
            update={
                **_only(schedule),
                "entropy_threshold": EntropyThreshold(**parameters["entropy_threshold"]),
                "curriculum": [type(shape).model_validate(spec)],
            }
        )
    return config.model_copy(update=changes)


def _fixed_spec(shape: Any) -> dict[str, Any]:
    spec = spec_of(shape)
    return spec if "rises" in spec else _only(spec)


def _only(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: only(setting) for name, setting in settings.items()}


def settings_of(config: RunConfig) -> Settings:
    """The settings of a run; nothing in the configuration may be searched any more."""
    training = config.training
    return Settings(
        entrodrop=entrodrop_of(config.schedule) if config.schedule is not None else None,
        token_weight=_token_weight_of(training),
        lora=_lora_of(training),
        **{name: only(getattr(training, name)) for name in SEARCHABLE},
        lr_schedule=training.lr_schedule,
        lr_decay=training.lr_decay,
        warmup=training.warmup,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        gradient_clip=training.gradient_clip,
        precision=training.precision,
        epochs=config.budget.epochs,
        evaluations_per_epoch=config.evaluation.per_epoch,
        seed=config.seed,
    )


def _token_weight_of(training: Training) -> "TokenWeight | None":
    if training.token_weight is None:
        return None
    from trainables.token_weight import token_weight_from

    return token_weight_from(_only(dict(training.token_weight)))


def _lora_of(training: Training) -> Lora | None:
    """The adapters; where they are searched, the largest."""
    if training.lora is None:
        return None
    settings = training.lora.settings
    targets = {name for choice in settings.pop("target_modules") for name in choice.split()}
    most = {name: setting.high if isinstance(setting, FloatRange) else setting for name, setting in settings.items()}
    most = {name: max(setting) if isinstance(setting, list) else setting for name, setting in most.items()}
    return Lora(**most, target_modules=None if ALL_LINEAR in targets else tuple(sorted(targets)))


def entrodrop_of(schedule: Schedule) -> EntroDrop:
    """What a schedule in which nothing is searched says."""
    return EntroDrop(
        mask_ratio=only(schedule.mask_ratio),
        curriculum=curriculum_from(_fixed_spec(schedule.curriculum[0])),
        quantile=only(schedule.entropy_threshold.quantile),
        nats=only(schedule.entropy_threshold.nats),
        tokens=only(schedule.tokens),
        presentation=only(schedule.presentation),
        refresh_epochs=only(schedule.refresh_epochs),
        redraw=only(schedule.redraw),
    )


def model_settings_of(config: RunConfig) -> ModelSettings:
    """How the model is built; with the largest adapters, where they are searched."""
    training, evaluation = config.training, config.evaluation
    exact_match = None
    if evaluation.exact_match:
        exact_match = ExactMatch(evaluation.exact_match, evaluation.max_new_tokens, evaluation.answer_pattern)
    return ModelSettings(
        lora=_lora_of(training),
        base_weights=training.base_weights,
        gradient_checkpointing=training.gradient_checkpointing,
        compile=training.compile,
        sharding="ddp" if training.base_weights == "nf4" else training.sharding,
        exact_match=exact_match,
    )


def splits_of(config: RunConfig) -> Splits:
    """The documents of a run: the splits of its data, and the general documents.

    Raises:
        DataError: too few documents, or unreadable ones.
    """
    splits = read_splits(source_of(config.data), own_sources(config.data), config.seed)
    if (asked := config.evaluation.exact_match) > (most := sum(d.answer is not None for d in splits.validation)):
        allowed = f"at most {most}, the documents of data.validation with an answer in words"
        raise DataError("evaluation.exact_match", str(asked), allowed)
    if config.general is None:
        return splits
    return replace(splits, general=general_documents(source_of(config.general), config.seed, splits))


def chat_template_of(config: RunConfig) -> str | None:
    """The chat template that the configuration gives; None for the tokenizer's own."""
    return config.data.chat_template if isinstance(config.data, FilesData | HubData) else None


def preparation_of(config: RunConfig, splits: Splits, cache: Path) -> Preparation:
    schedule = config.schedule
    return Preparation(
        splits,
        config.training.sequence_length,
        config.evaluation.high_entropy,
        config.evaluation.low_entropy,
        cache,
        layout=config.training.layout,
        train_on_prompt=config.data.learns_prompts,
        chat_template=chat_template_of(config),
        reference=schedule.reference if schedule is not None else None,
        mask_token=schedule.mask_token if schedule is not None else None,
        needs_mask_token=schedule is not None and schedule.needs_mask_token,
    )
