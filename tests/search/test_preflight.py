"""Slots that fit on a cluster, and what is said of those that do not."""

import json
from pathlib import Path
from unittest import mock

import pytest

from search.hardware import GPUS, ClusterResources
from search.preflight import grow_cluster
from search.run import main
from search.space import load
from tests.search.commands import SMALL, refused
from trainables.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_test_documents_of_too_few_prompts_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"q": f"question {n % 9}", "a": f"answer {n}"}) for n in range(90)]
    Path("data.jsonl").write_text("\n".join(lines))
    data = (
        'data: {source: files, path: data.jsonl, prompt: "{q} ", template: "{a}", train: 20, validation: 20, test: 20}'
    )
    Path("space.yaml").write_text(f"models: [builtin/nano]\n{data}\nbudget: {{trials: 3, epochs: 2}}\n")
    line = refused(capsys, ["space.yaml"])
    assert line == (
        "space.yaml:2: data.test: given 20 documents of 2 different prompts or templates; allowed: documents of at "
        "least 6, for an interval of 95%; or confirmation: null"
    )
    assert main(["space.yaml", "--dry-run", "--set=confirmation=null"]) == 0


FILES = """\
models: [builtin/nano]
data:
  source: files
  path: train.jsonl
  prompt: "{q}"
  template: "{q}"
  answer: "{q}"
  train: all
  validation: 0.25
  test: {path: test.jsonl}
budget: {trials: 3, epochs: 2}
"""


def write_questions(name: str, numbers: range) -> None:
    Path(name).write_text("".join(json.dumps({"q": f"What is {n} and {n}?"}) + "\n" for n in numbers))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=1", "space.yaml:10: data.test: given 5 documents of 5 different prompts or templates; allowed: "),
        ("confirmation.margin=0.01", "confirmation.margin: given 0.01; allowed: at least 0.11 with 5 test documents; "),
        ("evaluation.exact_match=11", "evaluation.exact_match: given 11; allowed: at most 10, the documents of data."),
    ],
)  # fmt: skip
def test_too_few_documents_are_told_when_they_are_read(
    override: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.yaml").write_text(FILES)
    write_questions("train.jsonl", range(40))
    write_questions("test.jsonl", range(40, 45))
    line = refused(capsys, ["space.yaml", f"--set={override}"])
    assert line.removeprefix(f"--set {override}: ").startswith(told)


def test_general_documents_of_too_few_prompts_for_a_constraint_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    general = 'general: {source: files, path: general.jsonl, prompt: "{q}", template: "{a}", documents: 8}\n'
    Path("space.yaml").write_text(FILES.replace("test: {path: test.jsonl}", "test: 10") + general)
    write_questions("train.jsonl", range(40))
    Path("general.jsonl").write_text(
        "".join(json.dumps({"q": f"What is {n % 4}?", "a": f"It is {n}."}) + "\n" for n in range(8))
    )
    line = refused(capsys, ["space.yaml", "--set=constraints.general_loss=0.05"])
    assert "space.yaml:12: general: given 8 documents of 4 different prompts or templates; allowed: docu" in line


def test_a_cluster_counts_as_what_its_autoscaler_may_make_of_it() -> None:
    Path("space.yaml").write_text(SMALL)
    head = ClusterResources({"memory": 1e9, "node:10.0.0.1": 1.0})
    slots = "resources.slots=3"
    with pytest.raises(ConfigError, match=r"resources.cpus_per_worker: given 1; allowed: at most 0"):
        grow_cluster(load("space.yaml", [slots]), head)
    with pytest.raises(ConfigError, match=r"resources.slots: given 3; allowed: at most 2"):
        grow_cluster(load("space.yaml", [slots, "resources.autoscaler={cpus: 2}"]), head)
    assert grow_cluster(load("space.yaml", [slots, "resources.autoscaler={cpus: 3}"]), head).resources["CPU"] == 3
    gpus = ["resources.autoscaler={cpus: 8, gpus: 4xL40S}", "resources.gpus_per_worker=1", slots]
    cluster = grow_cluster(load("space.yaml", gpus), head)
    assert (cluster.resources["GPU"], cluster.gpu, cluster.gpu_bytes) == (4, GPUS["L40S"], 48e9)
    # What is there counts, if it is more; of the GPUs those of least memory.
    for name, memory, kind, least in (
        ("NVIDIA H100 80GB HBM3", 85e9, "L40S", 48e9),
        ("NVIDIA L4", 23.6e9, "L4", 23.6e9),
    ):
        there = ClusterResources.with_gpus({"CPU": 64.0, "GPU": 8.0}, [(name, memory)])
        cluster = grow_cluster(load("space.yaml", gpus), there)
        assert (cluster.resources["CPU"], cluster.resources["GPU"]) == (64, 8)
        assert (cluster.gpu, cluster.gpu_bytes) == (GPUS[kind], least)


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([(8, 0)] * 8, "{cpus_per_worker: 16}", "cpus_per_worker: given 16; allowed: at most 8, the CPUs of a node"),
        (
            [(64, 0), (2, 4)],
            "{cpus_per_worker: 4, gpus_per_worker: 0.5}",
            "cpus_per_worker: given 4; allowed: at most 2, the CPUs of a node with GPUs",
        ),
        (
            [(6, 0)] * 3,
            "{cpus_per_worker: 4, slots: 1, workers: 4}",
            "workers: given 4; allowed: at most 3: each takes 4 CPUs of one node",
        ),
        (
            [(6, 2)] * 3,
            "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 4}",
            "slots: given 4; allowed: at most 3: a worker takes 4 CPUs and 1 GPU of one node, and 3 fit on the nodes",
        ),
        ([(6, 2)] * 3, "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 3}", None),
        ([(6, 2)] * 3, "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 4, autoscaler: {cpus: 4}}", None),
    ],
)
def test_a_worker_is_on_one_node(nodes: list[tuple[int, int]], resources: str, expected: str | None) -> None:
    each = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    there = {kind: sum(node[kind] for node in each) for kind in ("CPU", "GPU")}
    Path("space.yaml").write_text(SMALL + "training: {batch_size: 8}\n")
    space = load("space.yaml", [f"resources={resources}"])
    if expected is None:
        grow_cluster(space, ClusterResources(there, nodes=each))
        return
    with pytest.raises(ConfigError, match=f"resources.{expected}"):
        grow_cluster(space, ClusterResources(there, nodes=each))


@pytest.mark.faults
def test_what_an_autoscaler_may_do_needs_a_cluster_or_is_planned_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("space.yaml").write_text(SMALL + "resources: {slots: 3, autoscaler: {cpus: 3}}\n")
    line = refused(capsys, ["space.yaml"])
    problem = "no cluster is joined, as RAY_ADDRESS is not set; set it, or write null here"
    assert line == f"space.yaml:5: resources.autoscaler: {problem}"
    assert main(["space.yaml", "--dry-run"]) == 0
    assert "CPUs      3 of 3 (3 slots)" in capsys.readouterr().out
    assert "given 4; allowed: at most 3" in refused(capsys, ["space.yaml", "--dry-run", "--set=resources.slots=4"])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with mock.patch("search.session.run_session", return_value=0) as run:
        assert main(["space.yaml"]) == 0
    run.assert_called_once()
