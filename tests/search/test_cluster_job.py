"""Searches that are submitted as jobs to a Ray cluster of several nodes, which loses slots and nodes under them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.output.folder import EVENTS
from tests import DEADLINE_S
from tests.clusters import Cluster
from tests.holds import PROGRAM, Holds
from tests.searches import SPACE, Searches, end_process, workers_and_slots
from tests.stores import ObjectStore

pytestmark = pytest.mark.cluster

# A trial lies on two nodes.
SPREAD = SPACE | {
    "budget": {"trials": 4, "epochs": 6},
    "early_stopping": {"pruner": "none", "patience": 6},
    "confirmation": None,
    "resources": {"slots": 1, "workers": 2, "placement": "spread"},
}


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """Without CPUs."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(head: Cluster) -> Iterator[Cluster]:
    """A head without CPUs, which has no other node and no job."""
    yield head
    head.clear()


@pytest.fixture
def scaling() -> Iterator[Cluster]:
    with Cluster(scales=True) as cluster:
        yield cluster


@pytest.fixture
def apart(searches: Searches) -> Iterator[Cluster]:
    """A cluster whose nodes do not see the searches' folder."""
    with Cluster(own=searches.folder) as cluster:
        yield cluster


@pytest.fixture
def store(apart: Cluster) -> Iterator[ObjectStore]:
    store = ObjectStore(apart.host)
    yield store
    store.close()


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
    holds: Holds | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Submits a search.

    Args:
        output: a folder or a URL; None: a folder of this name among the searches.
        job: name of the job; None: that of the search.
        holds: where it is held.
    """
    common = {
        "ENTRODROP_CACHE": str(searches.cache),
        "MLFLOW_TRACKING_URI": f"sqlite:///{searches.folder}/mlflow.db",
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(DEADLINE_S)),
    }
    if holds is not None:
        common |= holds.environment
    program = ("-m", "search.run") if holds is None else PROGRAM
    run = [sys.executable, *program, str(searches.space), "--output", output or f"{searches.folder}/{name}"]
    return cluster.submit(job or name, common | dict(environment or {}), *run, *arguments)


def test_a_killed_slot_and_lost_nodes_cost_no_trial(
    searches: Searches, whole: tuple[str, str], cluster: Cluster, holds: Holds
) -> None:
    spot, doomed = cluster.add_node(), cluster.add_node()
    # Both slots are held each time, so that both nodes have one.
    holds.hold("builtin-nano/0@2", "builtin-nano/1@2")
    restarts = "--set", "faults.restarts=1", "--set", "faults.shrink_minutes=10"
    job = submit(cluster, searches, "nodes", *restarts, holds=holds)
    holds.wait(job)
    workers, slots = workers_and_slots(os.getpid())
    assert len(workers) == len(slots) == 2
    slots[0].kill()
    holds.hold("builtin-nano/0@3", "builtin-nano/1@3")
    holds.wait(job)
    # No fault of the trial, which could not afford another one.
    cluster.take_away(spot)
    cluster.add_node()
    holds.hold("builtin-nano-confirmation/0@2", "builtin-nano-confirmation/1@2")
    holds.wait(job)
    cluster.kill(doomed)
    cluster.add_node()
    holds.release()
    out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, out
    for study in ("builtin/nano", "builtin/nano/confirmation"):
        assert searches.table("nodes", study) == searches.table("whole", study)
    log = cluster.log("nodes")
    assert f"results: {searches.folder}/nodes/ (" in log
    assert all(character.isprintable() or character in "\n\t" for character in log)


def test_a_stopped_and_a_killed_job_go_on_and_a_trial_on_two_nodes_survives_one(
    spread: Searches, cluster: Cluster, holds: Holds
) -> None:
    nodes = [cluster.add_node(), cluster.add_node()]
    holds.hold("builtin-nano/0@2")
    job = submit(cluster, spread, "spread", holds=holds)
    holds.wait(job, workers=2)
    assert [len(workers_and_slots(node.pid)[0]) for node in nodes] == [1, 1]
    cluster.stop("spread")
    job.communicate(timeout=DEADLINE_S)
    assert "interrupted; go on with: python -m search.run" in cluster.log("spread")
    holds.hold("builtin-nano/1@2")
    job = submit(cluster, spread, "spread", "--resume", job="killed", holds=holds)
    holds.wait(job, workers=2)
    cluster.kill_driver(f"{spread.folder}/spread")
    job.communicate(timeout=DEADLINE_S)
    assert job.returncode != 0
    holds.hold("builtin-nano/2@2")
    job = submit(cluster, spread, "spread", "--resume", job="resumed", holds=holds)
    holds.wait(job, workers=2)
    cluster.kill(nodes[0])
    cluster.add_node()
    holds.release()
    out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, out
    assert [(number, state) for number, state, *_ in spread.table("spread")] == [
        (number, "COMPLETE") for number in range(4)
    ]
    assert all(len(losses) == 6 for *_, losses in spread.table("spread"))


def test_a_node_that_does_not_come_back_costs_a_slot(spread: Searches, cluster: Cluster, holds: Holds) -> None:
    alone = "--set", "resources={slots: 2, workers: 1}"
    cluster.add_node()
    lost = cluster.add_node()
    holds.hold("builtin-nano/0@2", "builtin-nano/1@2")
    job = submit(cluster, spread, "fewer", *alone, "--set", "faults.shrink_minutes=0.05", holds=holds)
    holds.wait(job)
    cluster.kill(lost)
    holds.release()
    out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, out
    assert [state for _, state, *_ in spread.table("fewer")] == ["COMPLETE"] * 4
    assert all(len(losses) == 6 for *_, losses in spread.table("fewer"))
    assert [event["slots"] for event in spread.events("fewer", "slots_changed")] == [1]


def test_a_job_on_a_cluster_without_nodes_gets_them_from_its_autoscaler(
    searches: Searches, whole: tuple[str, str], scaling: Cluster, holds: Holds
) -> None:
    never = ["early_stopping.pruner=none", "early_stopping.patience=null"]
    small = ["budget.trials=6", "budget.epochs=6", *never, "confirmation=null"]
    given = [f"--set={each}" for each in (*small, "resources.autoscaler={cpus: 2}")]
    holds.hold("builtin-nano/0@1", "builtin-nano/1@1")
    job = submit(scaling, searches, "grown", *given, holds=holds)
    # It begins with one slot: the second trial waits for the second node.
    holds.wait(job)
    holds.release()
    out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, out
    assert [state for _, state, *_ in searches.table("grown")] == ["COMPLETE"] * 6
    assert max(event["slots"] for event in searches.events("grown", "slots_changed")) == 2, out


def test_nodes_that_share_nothing_but_an_object_store_and_another_cluster_goes_on(
    searches: Searches, whole: tuple[str, str], apart: Cluster, store: ObjectStore, holds: Holds
) -> None:
    url = f"{store.url}/stored"
    # The base model alone, as pretraining takes its time.
    fresh = searches.folder / "fresh"
    shutil.copytree(searches.cache / "base", fresh / "base")

    def submitted(job: str, cache: Path, *arguments: str) -> subprocess.Popen[str]:
        environment = store.environment | {"ENTRODROP_CACHE": str(cache)}
        given = "--set", "tracking.register_as=stored", *arguments
        return submit(apart, searches, job, *given, output=url, holds=holds, environment=environment)

    def wait_until(reached: Callable[[], bool], job: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def evaluations_are_stored() -> bool:
        events = f"{url}/{EVENTS}"
        return store.files.exists(events) and store.files.cat(events).count(b'"event": "evaluation"') >= 4

    nodes = [apart.add_node(), apart.add_node()]
    holds.hold("builtin-nano/0@3", "builtin-nano/1@3")
    job = submitted("lost", searches.cache)
    holds.wait(job)
    wait_until(evaluations_are_stored, job)
    if apart.has_disks:
        # Of base weights, tokens, entropies and the evaluation set.
        copies = [Path(f"/proc/{node.pid}/root{searches.cache}/copies") for node in nodes]
        assert [len(list(folder.glob("*/manifest.json"))) for folder in copies] == [4, 4]
    told = apart.log("lost")
    apart.lose()
    holds.release()
    apart.add_node()
    apart.add_node()
    job = submitted("resumed", fresh, "--resume")
    out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, out
    told += apart.log("resumed")
    store.files.get(url, str(searches.folder / "stored"), recursive=True)
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
from search.cluster.ray_runtime import join_or_start_ray
from search.environment import set_ray_environment
set_ray_environment()
from search.cluster.node_checks import check_nodes
ended = threading.Event()
def refused(line):
    print(line, flush=True)
    ended.set()
def told(line):
    print(line, file=sys.stderr)
with join_or_start_ray(Path(sys.argv[1])), check_nodes([], refused, told, ended.is_set):
    print("checked", flush=True)
    ended.wait(1800)
"""


@pytest.fixture
def watching(tmp_path: Path, cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WATCH, str(tmp_path)]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    yield process
    end_process(process)


def test_a_node_that_joins_with_other_packages_is_told(
    watching: subprocess.Popen[str], cluster: Cluster, other_packages: dict[str, str]
) -> None:
    assert watching.stdout is not None
    assert watching.stdout.readline() == "checked\n"
    cluster.add_node()
    cluster.add_node(other_packages)
    line = watching.stdout.readline()
    assert re.match(r"node [0-9.]+: it has transformers 0\.0\.1; install transformers ", line)
    assert watching.wait(DEADLINE_S) == 0


def test_a_node_with_other_packages_is_told_before_the_first_trial(
    tmp_path: Path, cluster: Cluster, other_packages: dict[str, str]
) -> None:
    cluster.add_node(other_packages)
    searches = Searches(tmp_path, SPREAD)
    job = submit(cluster, searches, "refused", "--set", "resources.workers=1")
    job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 1
    line = cluster.log("refused").strip().splitlines()[-1]
    assert line.startswith("node ")
    assert "it has transformers 0.0.1; install transformers " in line
    assert not (tmp_path / "refused" / "study.journal").exists()
