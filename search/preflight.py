"""What is refused before anything starts: an output that holds another search, models that the hub does not give, slots
that do not fit."""

from pathlib import Path
from typing import Any

from search.arms import BASELINE
from search.hardware import ClusterResources, count_served, parse_gpus
from search.output.folder import LOCK as LOCK
from search.output.folder import RESOLVED
from search.space import Space, to_store
from trainables.config.loader import ConfigFile
from trainables.config.validation_messages import shown
from trainables.config.yaml_values import YamlError, read
from trainables.data.documents import Splits, number_groups
from trainables.errors import ConfigError, one_line

# What a search that goes on may have more of than it began with, and the blocks that may change: what it runs on.
_MAY_GROW = ("budget.trials", "budget.tokens", "budget.hours", "budget.device_hours")
_MAY_CHANGE = ("resources", "faults", "tracking")
# The ends of the paths of what a search of an earlier version did not have.
_NEWER = (
    "confirmation.max_seeds",
    "data.train_on_answers",
    ".redraw",
    ".until",
    "lora.dropout",
    "lora.target_modules",
)


def check_output(space_file: ConfigFile[Space], output: Path, resume: bool) -> None:
    """An output folder is new, or it holds this search and the person wants to go on with it."""
    if not resume:
        try:
            holds_something = output.exists() and (
                not output.is_dir() or any(path.name != LOCK for path in output.iterdir())
            )
        except OSError as error:
            raise ConfigError(
                f"--output: {one_line(str(output))} cannot be read ({error.strerror}); name another folder"
            ) from None
        if holds_something:
            raise ConfigError(
                f"--output: {output} already holds something; name a new folder, "
                "or --resume to go on with the search in it"
            )
        return
    before, now = _began_with(output), to_store(space_file.config)
    for changed, was, given in find_changes(before, now):
        if changed.partition(".")[0] in _MAY_CHANGE or (was is None and changed.endswith(_NEWER)):
            continue
        if changed == "budget.epochs":
            # Where curriculum and learning rate are constant too: trials were compared as of so many epochs.
            why = "a trial's curriculum, learning rate and rungs reach over all its epochs"
            allowed = f"{shown(was)}, as it was: {why}; for another number name a new --output"
            raise space_file.error(changed, shown(given), allowed)
        if changed not in _MAY_GROW:
            allowed = f"{shown(was)}, as it was; with --resume, only {', '.join(_MAY_GROW)} may grow"
            raise space_file.error(changed, shown(given), f"{allowed}, and {', '.join(_MAY_CHANGE)} may change")
        if was is not None and not isinstance(was, int | float):
            path = output / RESOLVED
            raise ConfigError(f"--resume: {path}: {changed}: given {one_line(shown(was))}; allowed: a number or null")
        # null is no limit.
        if given is not None and (was is None or given < was):
            allowed = "null, as it was" if was is None else f"at least {was}"
            raise space_file.error(changed, given, f"with --resume, {allowed}")


def _began_with(output: Path) -> dict[str, Any]:
    """The space that the search in `output` began with, as resolved.yaml has it: without secrets.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = output / RESOLVED
    try:
        there = path.is_file()
        text = path.read_text(encoding="utf-8") if there else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        given = one_line(str(path))
        raise ConfigError(f"--resume: {given} cannot be read ({reason}); put it back as the search wrote it") from None
    if not there:
        raise ConfigError(f"--resume: {output} holds no search; name the output folder of one")
    try:
        before, _ = read(text)
    except YamlError as error:
        problem = one_line(error.problem, 300)
        raise ConfigError(
            f"--resume: {path}:{error.line}: {problem}, or put the file back as the search wrote it"
        ) from None
    if not isinstance(before, dict) or not isinstance(before.get("budget"), dict):
        raise ConfigError(f"--resume: {path} holds no space; put the file back as the search wrote it")
    return before


def find_changes(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted paths of the values that differ, each with what it was and what it is."""
    if before is None and isinstance(now, dict):
        # A block that a search of an earlier version did not have.
        before = {}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [
            c for key in keys for c in find_changes(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == now else [(path, before, now)]


def check_hub_models(space_file: ConfigFile[Space]) -> None:
    """Raises ConfigError if a model is neither here nor given by the hub: its trials may be hours away."""
    space = space_file.config
    names = {f"models.{index}": model for index, model in enumerate(space.models)}
    if space.schedule is not None and space.schedule.reference is not None:
        names["schedule.reference"] = space.schedule.reference
    if not any(name.startswith("hub:") for name in names.values()):
        return
    from trainables.errors import ModelError
    from trainables.models.resolve import check_hub

    for setting, name in names.items():
        try:
            check_hub(name)
        except ModelError as error:
            raise space_file.error(setting, error.given, error.allowed, error.nearest) from None


def check_contestants(space_file: ConfigFile[Space]) -> None:
    """Raises ConfigError if more settings are asked to be confirmed than any arm has trials."""
    from search.studies.arm_spaces import arms_of

    space = space_file.config
    if space.confirmation is None or "best" not in space.confirmation.model_fields_set:
        return
    most = max(1, *(arm.trials for arm in arms_of(space) if arm.name != BASELINE))
    if space.confirmation.best > most:
        allowed = f"at most {most}, the trials of an arm: where nothing is searched there is one"
        raise space_file.error("confirmation.best", space.confirmation.best, allowed)


def check_groups(space_file: ConfigFile[Space], splits: Splits) -> None:
    """Raises ConfigError if the test documents are too few for the margin, or of too few prompts for any interval."""
    confirmation = space_file.config.confirmation
    if confirmation is None:
        return
    if (allowed_margin := space_file.config.margin_with(len(set(number_groups(splits.test))))) is not None:
        raise space_file.error("confirmation.margin", confirmation.margin, allowed_margin)
    read = {"data.test": splits.test}
    if space_file.config.constraints.general_loss is not None:
        read["general"] = splits.general
    for setting, documents in read.items():
        groups = len(set(number_groups(documents)))
        if groups < (fewest := confirmation.fewest_documents):
            given = f"{len(documents)} documents of {groups} different prompts or templates"
            interval = f"an interval of {100 * confirmation.confidence:g}%"
            allowed = f"documents of at least {fewest}, for {interval}; or confirmation: null"
            raise space_file.error(setting, given, allowed)


def grow_cluster(space_file: ConfigFile[Space], cluster: ClusterResources) -> ClusterResources:
    """The cluster that the search joins, as its autoscaler may make it; ConfigError if the slots do not fit on it."""
    grows = space_file.config.resources.autoscaler
    if grows is not None:
        cluster = cluster.grow(grows.cpus, None if grows.gpus is None else parse_gpus(grows.gpus))
    check_fit(space_file, cluster)
    return cluster


def check_fit(space_file: ConfigFile[Space], cluster: ClusterResources) -> None:
    """Raises ConfigError if the slots do not fit on the cluster; auto takes what there is."""
    resources = space_file.config.resources
    workers = 1 if resources.workers == "auto" else resources.workers
    # With as many workers as each model needs, slots are the most that there may be.
    slots = 1 if "auto" in (resources.workers, resources.slots) else int(resources.slots)
    for kind, each in (("CPU", resources.cpus_per_worker), ("GPU", resources.gpus_per_worker)):
        there = cluster.resources.get(kind, 0.0)
        if each > there:
            raise space_file.error(
                f"resources.{kind.lower()}s_per_worker", each, f"at most {there:g}, the {kind}s there are"
            )
        if not each or (most := count_served(there, each)) >= slots * workers:
            continue
        if most < workers:
            raise space_file.error(
                "resources.workers",
                workers,
                f"at most {int(most)}: each takes {each:g} of the {there:g} {kind}s there are",
            )
        raise space_file.error(
            "resources.slots",
            slots,
            f"at most {int(most / workers)}: each takes {workers * each:g} of the {there:g} {kind}s there are",
        )
    _check_nodes(space_file, cluster, workers, slots)


def _check_nodes(space_file: ConfigFile[Space], cluster: ClusterResources, workers: int, slots: int) -> None:
    """Raises ConfigError if the slots do not fit as the resources lie on the nodes: a worker is on one of them."""
    resources = space_file.config.resources
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    if (fit := cluster.workers(cpus, gpus)) >= workers * slots:
        return
    with_gpus, takes = (" with GPUs", f"{cpus} CPUs and {gpus:g} GPU") if gpus else ("", f"{cpus} CPUs")
    if not fit:
        most = max(node.get("CPU", 0.0) for node in cluster.nodes if node.get("GPU", 0.0) >= gpus)
        raise space_file.error("resources.cpus_per_worker", cpus, f"at most {most:g}, the CPUs of a node{with_gpus}")
    if fit < workers:
        allowed = f"at most {fit}: each takes {takes} of one node"
        raise space_file.error("resources.workers", workers, allowed)
    allowed = f"at most {fit // workers}: a worker takes {takes} of one node, and {fit} fit on the nodes there are"
    raise space_file.error("resources.slots", slots, allowed)
