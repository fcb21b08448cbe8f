"""What is wrong with the nodes of a cluster, from what they report."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import GetTimeoutError

from search.cluster.node_checks import check_nodes, find_problems, probe_cluster
from search.cluster.node_probe import NodeReport, probe_node
from search.hardware import GPUS, ClusterResources
from trainables.errors import ConfigError

HERE = NodeReport({"Python": "3.11", "torch": "2.12.0"}, {"search": "aa", "trainables": "bb"}, {})


def test_nodes_that_have_what_the_search_has() -> None:
    assert find_problems(HERE, [("10.0.0.1", HERE), ("10.0.0.2", HERE)]) == []


def test_each_thing_that_is_wrong_is_one_line_with_its_nodes() -> None:
    old = replace(HERE, versions={"Python": "3.12", "torch": "2.11.0"})
    bare = NodeReport({"Python": "3.11", "torch": None}, {"search": None, "trainables": "cc"}, {})
    lost = replace(HERE, folders={"--output": "s3://me:secret@data/math cannot be seen there (404); name a URL"})
    found = [
        ("10.0.0.1", old),
        ("10.0.0.2", old),
        ("10.0.0.2", old),
        ("10.0.0.3", bare),
        ("10.0.0.4", lost),
        ("10.0.0.5", "the node died\nof old age"),
        ("10.0.0.6", replace(HERE, gpus=[])),
        ("10.0.0.7", replace(HERE, gpus=[("NVIDIA L4", 23.6e9)])),
    ]
    own = "submit the search as a job with --working-dir ., which brings its own along"
    assert find_problems(HERE, found) == [
        "nodes 10.0.0.1, 10.0.0.2: it has Python 3.12; install Python 3.11, which the search itself has",
        "nodes 10.0.0.1, 10.0.0.2: it has torch 2.11.0; install torch 2.12.0, which the search itself has",
        "node 10.0.0.3: it has no package torch; install torch 2.12.0, which the search itself has",
        f"node 10.0.0.3: it has no package search; {own}",
        f"node 10.0.0.3: it has other code of trainables; {own}",
        "node 10.0.0.4: --output: s3://me:***@data/math cannot be seen there (404); name a URL",
        r"node 10.0.0.5: it cannot run what the search sends it (the node died\nof old age); mend it, or take it "
        "out of the cluster",
        "node 10.0.0.6: torch can use no GPU of it (torch.cuda.is_available() is false); install torch with CUDA, and "
        "a driver for it, on each node with GPUs",
    ]


class _Ray:
    """A cluster whose nodes look at themselves at once.

    Args:
        nodes: of each how many GPUs Ray counts, and those that torch can use there.

    Attributes:
        asked: whether each was asked for its GPUs.
        late: how often an answer is waited for in vain.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, list[tuple[str, float]]]) -> None:
        self._there = nodes
        self.asked: list[bool] = []
        self.late = 0
        ray = mock.Mock(nodes=self._nodes, get=self._get)
        ray.cluster_resources.return_value = {"CPU": 8.0}
        ray.remote.return_value = lambda look: mock.Mock(options=self._on)
        monkeypatch.setattr("search.cluster.node_checks.ray", ray)
        monkeypatch.setattr("search.cluster.node_checks.NodeAffinitySchedulingStrategy", lambda node, soft: node)

    def _get(self, answer: Any, timeout: float) -> Any:
        if self.late:
            self.late -= 1
            raise GetTimeoutError
        return answer

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": node, "NodeManagerAddress": f"10.0.0.{node}", "Alive": True, "Resources": {"GPU": float(count)}}
            for node, (count, _) in enumerate(self._there)
        ]

    def _on(self, scheduling_strategy: int) -> mock.Mock:
        def answer(packages: Any, sources: Any, marks: Any, gpus: bool) -> Any:
            self.asked.append(gpus)
            found = self._there[scheduling_strategy][1] if gpus else None
            return *probe_node(packages, sources, marks, False)[:3], found

        return mock.Mock(remote=answer)


def checked(gpus: bool) -> ClusterResources:
    with check_nodes([], print, print, bool, gpus) as cluster:
        return cluster


def seen(gpus: bool) -> ClusterResources:
    return probe_cluster(gpus, print)


@pytest.mark.parametrize("look", [seen, checked])
def test_a_cluster_is_known_by_the_smallest_of_its_gpus(
    look: Callable[[bool], ClusterResources], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = _Ray(monkeypatch, (0, []), (2, [("NVIDIA H200", 150e9)] * 2), (1, [("NVIDIA A100-SXM4-80GB", 85e9)]))
    cluster = look(True)
    assert (cluster.resources, cluster.gpu, cluster.gpu_bytes) == ({"CPU": 8.0}, GPUS["A100"], 85e9)
    assert cluster.nodes == [{"GPU": 0.0}, {"GPU": 2.0}, {"GPU": 1.0}]
    assert sorted(ray.asked) == [False, True, True]


@pytest.mark.parametrize("look", [seen, checked])
def test_nodes_that_are_waited_for_are_told(
    look: Callable[[bool], ClusterResources], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    l4 = [("NVIDIA L4", 23.6e9)]
    ray = _Ray(monkeypatch, (1, l4), (1, l4))
    # Both, then one.
    ray.late = 3
    monkeypatch.setattr("search.cluster.node_checks._FIRST_S", 0.0)
    monkeypatch.setattr("search.cluster.node_checks._TELL_S", 0.0)
    assert look(True).gpu_bytes == 23.6e9
    waiting = "waiting for {}; one that has to install packages takes minutes\n"
    both, one = waiting.format("nodes 10.0.0.0, 10.0.0.1"), waiting.format("node 10.0.0.0")
    assert capsys.readouterr().out == both + one


def test_nodes_are_not_waited_for_when_the_search_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    _Ray(monkeypatch, (0, [])).late = 1
    with pytest.raises(KeyboardInterrupt), check_nodes([], print, print, lambda: True):
        pass


def test_gpus_that_are_not_used_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(monkeypatch, (1, [("NVIDIA L4", 23.6e9)]))
    assert checked(gpus=False).gpu_bytes is None
    assert ray.asked == [False]
    assert seen(gpus=False).gpu_bytes is None
    assert ray.asked == [False]


@pytest.mark.parametrize("look", [seen, checked])
def test_a_node_whose_gpus_torch_cannot_use_is_refused(
    look: Callable[[bool], ClusterResources], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Ray(monkeypatch, (1, [("NVIDIA H200", 150e9)]), (1, []))
    with pytest.raises(ConfigError, match=r"^node 10\.0\.0\.1: torch can use no GPU of it"):
        look(True)
