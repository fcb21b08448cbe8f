"""Whether the slots that a space asks for fit on a cluster, told at the space's own lines."""

from search.gpus import described
from search.machine import Cluster, served
from search.space import Space
from trainables.config.loader import ConfigFile


def grown(space_file: ConfigFile[Space], cluster: Cluster) -> Cluster:
    """The cluster that the search joins, as its autoscaler may make it; ConfigError if the slots do not fit on it."""
    grows = space_file.config.resources.autoscaler
    if grows is not None:
        cluster = cluster.grown(grows.cpus, None if grows.gpus is None else described(grows.gpus))
    check_fit(space_file, cluster)
    return cluster


def check_fit(space_file: ConfigFile[Space], cluster: Cluster) -> None:
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
        if not each or (most := served(there, each)) >= slots * workers:
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


def _check_nodes(space_file: ConfigFile[Space], cluster: Cluster, workers: int, slots: int) -> None:
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
