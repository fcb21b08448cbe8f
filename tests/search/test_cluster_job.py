"""Searches that are submitted as jobs to a Ray cluster of several nodes, which loses slots and nodes under them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.output.folder import EVENTS
from tests.clusters import Cluster
from tests.searches import SPACE, Searches, workers_and_slots
from tests.stores import ObjectStore

pytestmark = pytest.mark.integration

# A trial lies on two nodes.
SPREAD = SPACE | {
    "budget": {"trials": 4, "epochs": 6},
    "early_stopping": {"pruner": "none", "patience": 6},
    "confirmation": None,
    "resources": {"slots": 1, "workers": 2, "placement": "spread"},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs."""
    started = Cluster()
    yield started
    started.close()


@pytest.fixture
def spread(tmp_path: Path, searches: Searches) -> Searches:
    return Searches(tmp_path, SPREAD, searches.cache)


def submit(
    cluster: Cluster,
    searches: Searches,
    name: str,
    *arguments: str,
    output: str | None = None,
    job: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Submits a search.

    Args:
        output: a folder or a URL; None: a folder of this name among the searches.
        job: name of the job; None: that of the search.
    """
    common = {
        "ENTRODROP_CACHE": str(searches.cache),
        "MLFLOW_TRACKING_URI": f"sqlite:///{searches.folder}/mlflow.db",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }
    run = [sys.executable, "-m", "search.run", str(searches.space), "--output", output or f"{searches.folder}/{name}"]
    return cluster.submit(job or name, common | dict(environment or {}), *run, *arguments)


def test_a_killed_slot_and_lost_nodes_cost_no_trial(
    searches: Searches, whole: tuple[str, str], cluster: Cluster
) -> None:
    spot, doomed = cluster.add_node(), cluster.add_node()
    job = submit(cluster, searches, "nodes", "--set", "faults.restarts=1", "--set", "faults.shrink_minutes=10")
    searches.wait_for_evaluations("nodes", 3, job)
    workers, slots = workers_and_slots(os.getpid())
    assert len(workers) == len(slots) == 2
    slots[0].kill()
    # No fault of the trial, which could not afford another one.
    searches.wait_for_evaluations("nodes", 5, job)
    cluster.take_away(spot)
    left = cluster.add_node()
    searches.wait_for_evaluations("nodes", 17, job)
    cluster.kill(doomed)
    right = cluster.add_node()
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    for study in ("builtin/nano", "builtin/nano/confirmation"):
        assert searches.table("nodes", study) == searches.table("whole", study)
    log = cluster.log("nodes")
    assert f"results: {searches.folder}/nodes/ (" in log
    assert all(character.isprintable() or character in "\n\t" for character in log)
    cluster.kill(left)
    cluster.kill(right)


def test_a_stopped_and_a_killed_job_go_on_and_a_trial_on_two_nodes_survives_one(
    spread: Searches, cluster: Cluster
) -> None:
    nodes = [cluster.add_node(), cluster.add_node()]
    job = submit(cluster, spread, "spread")
    spread.wait_for_evaluations("spread", 2, job)
    assert [len(workers_and_slots(node.pid)[0]) for node in nodes] == [1, 1]
    cluster.stop("spread")
    job.communicate(timeout=60)
    assert "interrupted; go on with: python -m search.run" in cluster.log("spread")
    job = submit(cluster, spread, "spread", "--resume", job="killed")
    spread.wait_for_evaluations("spread", 8, job)
    cluster.kill_driver(f"{spread.folder}/spread")
    job.communicate(timeout=60)
    assert job.returncode != 0
    job = submit(cluster, spread, "spread", "--resume", job="resumed")
    spread.wait_for_evaluations("spread", 14, job)
    cluster.kill(nodes.pop())
    nodes.append(cluster.add_node())
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    assert [(number, state) for number, state, *_ in spread.table("spread")] == [
        (number, "COMPLETE") for number in range(4)
    ]
    assert all(len(losses) == 6 for *_, losses in spread.table("spread"))
    for node in nodes:
        cluster.kill(node)


def test_a_node_that_does_not_come_back_costs_a_slot(spread: Searches, cluster: Cluster) -> None:
    alone = "--set", "resources={slots: 2, workers: 1}"
    nodes = [cluster.add_node(), cluster.add_node()]
    job = submit(cluster, spread, "fewer", *alone, "--set", "faults.shrink_minutes=0.05")
    spread.wait_for_evaluations("fewer", 3, job)
    cluster.kill(nodes[1])
    out, _ = job.communicate(timeout=300)
    cluster.kill(nodes[0])
    assert job.returncode == 0, out
    assert [state for _, state, *_ in spread.table("fewer")] == ["COMPLETE"] * 4
    assert all(len(losses) == 6 for *_, losses in spread.table("fewer"))
    assert [event["slots"] for event in spread.events("fewer", "slots_changed")] == [1]


def test_a_job_on_a_cluster_without_nodes_gets_them_from_its_autoscaler(
    searches: Searches, whole: tuple[str, str]
) -> None:
    # It must not end before the second node is there.
    small = ["budget.trials=6", "budget.epochs=6", "early_stopping.pruner=none", "confirmation=null"]
    given = [f"--set={each}" for each in (*small, "resources.autoscaler={cpus: 2}")]
    cluster = Cluster(scales=True)
    try:
        job = submit(cluster, searches, "grown", *given)
        out, _ = job.communicate(timeout=300)
    finally:
        cluster.close()
    assert job.returncode == 0, out
    assert [state for _, state, *_ in searches.table("grown")] == ["COMPLETE"] * 6
    assert max(event["slots"] for event in searches.events("grown", "slots_changed")) == 2, out


def test_nodes_that_share_nothing_but_an_object_store_and_another_cluster_goes_on(
    searches: Searches, whole: tuple[str, str]
) -> None:
    cluster = Cluster(own=searches.folder)
    store = ObjectStore(cluster.host)
    url = f"{store.url}/stored"
    # The base model alone, as pretraining takes its time.
    fresh = searches.folder / "fresh"
    shutil.copytree(searches.cache / "base", fresh / "base")

    def submitted(job: str, cache: Path, *arguments: str) -> subprocess.Popen[str]:
        environment = store.environment | {"ENTRODROP_CACHE": str(cache)}
        register = "--set", "tracking.register_as=stored"
        return submit(cluster, searches, job, *register, *arguments, output=url, environment=environment)

    def wait_for_evaluations(count: int, job: subprocess.Popen[str]) -> None:
        events, deadline = f"{url}/{EVENTS}", time.monotonic() + 200
        while not store.files.exists(events) or store.files.cat(events).count(b'"evaluation"') < count:
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < deadline, "the search reported nothing"
            time.sleep(0.5)

    def wait_for_copies(nodes: Sequence[subprocess.Popen[str]]) -> None:
        """Of base weights, tokens, entropies and the evaluation set, for each node; one may be slower."""
        folders = [Path(f"/proc/{node.pid}/root{searches.cache}/copies") for node in nodes]
        deadline = time.monotonic() + 100
        while [len(list(folder.glob("*/manifest.json"))) for folder in folders] != [4, 4]:
            assert time.monotonic() < deadline, [sorted(folder.glob("*")) for folder in folders]
            time.sleep(0.2)

    try:
        nodes = [cluster.add_node(), cluster.add_node()]
        job = submitted("lost", searches.cache)
        wait_for_evaluations(6, job)
        if cluster.has_disks:
            wait_for_copies(nodes)
        told = cluster.log("lost")
        cluster.lose()
        job.kill()
        job.communicate()
        cluster.add_node()
        cluster.add_node()
        job = submitted("resumed", fresh, "--resume")
        out, _ = job.communicate(timeout=300)
        assert job.returncode == 0, out
        told += cluster.log("resumed")
        store.files.get(url, str(searches.folder / "stored"), recursive=True)
    finally:
        cluster.close()
        store.close()
    for study in ("builtin/nano", "builtin/nano/confirmation"):
        assert searches.table("stored", study) == searches.table("whole", study)
    assert not (searches.folder / "stored" / "checkpoints").exists()
    (kept,) = (searches.folder / "stored" / "models" / "builtin-nano-confirmation").iterdir()
    (version,) = MlflowClient(f"sqlite:///{searches.folder}/mlflow.db").search_model_versions("name LIKE 'stored-%'")
    assert [version.run_id] == searches.run_ids("stored", int(kept.name) + 1, "builtin/nano/confirmation")[-1:]
    secret = store.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in told
    files = [path for path in (searches.folder / "stored").rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.fixture
def other_packages(tmp_path: Path) -> dict[str, str]:
    """The environment of a node that has another version of transformers."""
    other = tmp_path / "other" / "transformers-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    return {"PYTHONPATH": str(other.parent)}


WATCH = """
import sys, threading
from pathlib import Path
from search.cluster.ray_runtime import join_or_start_ray, set_environment
set_environment()
from search.cluster.node_checks import check_nodes
ended = threading.Event()
def refused(line):
    print(line, flush=True)
    ended.set()
def told(line):
    print(line, file=sys.stderr)
with join_or_start_ray(Path(sys.argv[1])), check_nodes([], refused, told, ended.is_set):
    print("checked", flush=True)
    ended.wait(120)
"""


def test_a_node_that_joins_with_other_packages_is_told(
    tmp_path: Path, cluster: Cluster, other_packages: dict[str, str]
) -> None:
    watching = [sys.executable, "-c", WATCH, str(tmp_path)]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    with subprocess.Popen(watching, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "checked\n"
        good, other = cluster.add_node(), cluster.add_node(other_packages)
        line = process.stdout.readline()
    assert re.match(r"node [0-9.]+: it has transformers 0\.0\.1; install transformers ", line)
    assert process.returncode == 0
    cluster.kill(good)
    cluster.kill(other)


def test_a_node_with_other_packages_is_told_before_the_first_trial(
    tmp_path: Path, cluster: Cluster, other_packages: dict[str, str]
) -> None:
    cluster.add_node(other_packages)
    searches = Searches(tmp_path, SPREAD)
    job = submit(cluster, searches, "refused", "--set", "resources.workers=1")
    job.communicate(timeout=120)
    assert job.returncode == 1
    line = cluster.log("refused").strip().splitlines()[-1]
    assert line.startswith("node ")
    assert "it has transformers 0.0.1; install transformers " in line
    assert not (tmp_path / "refused" / "study.journal").exists()
