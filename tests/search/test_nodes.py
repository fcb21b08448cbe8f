"""What is wrong with the nodes of a cluster, from what they report; and what a node reports."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ray import cloudpickle

from search.gpus import GPUS
from search.machine import Cluster
from search.mirror import Output
from search.nodes import Folder, Report, _look, _marked, checked_nodes, needed, present, problems
from trainables.config.file import ConfigError

HERE = Report({"Python": "3.11", "torch": "2.12.0"}, {"search": "aa", "trainables": "bb"}, {})

# A node on which neither this project nor anything that it needs is installed.
BARE = """
import pickle, sys
from ray import cloudpickle
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("search", "trainables", "torch", "numpy"):
            raise ModuleNotFoundError(name)
for name in [name for name in sys.modules if name.partition(".")[0] in ("search", "trainables", "torch", "numpy")]:
    del sys.modules[name]
sys.meta_path.insert(0, Nothing())
look = pickle.load(open(sys.argv[1], "rb"))
print(look(("no-such-package",), ("no_such_package",), [], False))
"""


def test_nodes_that_have_what_the_search_has() -> None:
    assert problems(HERE, [("10.0.0.1", HERE), ("10.0.0.2", HERE)]) == []


def test_each_thing_that_is_wrong_is_one_line_with_its_nodes() -> None:
    old = replace(HERE, versions={"Python": "3.12", "torch": "2.11.0"})
    bare = Report({"Python": "3.11", "torch": None}, {"search": None, "trainables": "cc"}, {})
    lost = replace(HERE, folders={"--output": "/data/math, which it cannot see (No such file or directory)"})
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
    own = "the search's own, which a job submitted with --working-dir . brings along"
    assert problems(HERE, found) == [
        "nodes 10.0.0.1, 10.0.0.2: given Python 3.12; allowed: Python 3.11, as the search itself has it",
        "nodes 10.0.0.1, 10.0.0.2: given torch 2.11.0; allowed: torch 2.12.0, as the search itself has it",
        "node 10.0.0.3: given no package torch; allowed: torch 2.12.0, as the search itself has it",
        f"node 10.0.0.3: given no package search; allowed: {own}",
        f"node 10.0.0.3: given other code of trainables; allowed: {own}",
        "node 10.0.0.4: --output: given /data/math, which it cannot see (No such file or directory); "
        "allowed: a folder on storage that all nodes share",
        r"node 10.0.0.5: given the node died\nof old age; allowed: a node that can run what the search sends it",
        "node 10.0.0.6: given no GPU that torch can use (torch.cuda.is_available() is false); allowed: torch with "
        "CUDA, and a driver for it, on each node with GPUs",
    ]


def test_what_a_node_sees_of_folders(tmp_path: Path) -> None:
    with _marked(Folder("--output", tmp_path / "shared" / "math", writable=True)) as (mark, content):
        marks = [("--output", mark, content, True), ("ENTRODROP_CACHE", f"{tmp_path}/other/.seen", content, False)]
        _, _, folders, _ = _look()((), (), marks, False)
        assert list(folders) == ["ENTRODROP_CACHE"]
        assert "which it cannot see (No such file or directory)" in folders["ENTRODROP_CACHE"]
        # Another disk at the same path.
        Path(mark).write_text("another")
        _, _, folders, _ = _look()((), (), marks[:1], False)
        assert folders == {"--output": f"{tmp_path}/shared/math, which is another folder there"}
    assert list((tmp_path / "shared" / "math").iterdir()) == []


def test_a_model_that_lies_in_a_folder_is_known_by_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    output = Output(tmp_path / "out", tmp_path / "out")
    assert needed(output, ["builtin/nano"], str(folder))[-1].setting == f"schedule.reference ({folder})"
    folders = needed(output, ["builtin/nano", str(folder), str(tmp_path / "model.gguf")], str(folder))
    assert [f.setting for f in folders] == ["--output", "ENTRODROP_CACHE", f"models ({folder})"]
    with _marked(folders[-1]) as (mark, content):
        marks = [("models", mark, content, False)]
        assert _look()((), (), marks, False)[2] == {}
        Path(mark).write_text("{}")
        assert "another folder there" in _look()((), (), marks, False)[2]["models"]
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_models_that_are_downloaded_need_the_hubs_cache_on_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert needed(Output(tmp_path, tmp_path), ["hub:a/b"])[-1] == Folder("HF_HUB_CACHE", tmp_path / "hub")
    assert needed(Output(tmp_path, tmp_path), ["builtin/nano"], "hub:a/b")[-1].setting == "HF_HUB_CACHE"


def test_a_folder_that_the_search_itself_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^ENTRODROP_CACHE: given .*/file/cache; allowed: a folder that can be"):
        _marked(Folder("ENTRODROP_CACHE", tmp_path / "file" / "cache")).__enter__()


def test_versions_and_code_of_this_process() -> None:
    versions, sources, _, _ = _look()(("torch", "no-such-package"), ("search", "no_such_package"), [], False)
    assert versions["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert versions["torch"] is not None
    assert "+" not in versions["torch"]
    assert versions["no-such-package"] is None
    assert sources["search"] is not None
    assert sources["no_such_package"] is None


def test_the_gpus_of_a_node_are_those_that_torch_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _look()((), (), [], False)[3] is None
    monkeypatch.setattr("torch.cuda", mock.Mock(**{"is_available.return_value": False}))
    assert _look()((), (), [], True)[3] == []
    l4 = mock.Mock(total_memory=23_600_000_000)
    l4.name = "NVIDIA L4"
    cuda = {"is_available.return_value": True, "device_count.return_value": 2, "get_device_properties.return_value": l4}
    monkeypatch.setattr("torch.cuda", mock.Mock(**cuda))
    assert _look()((), (), [], True)[3] == [("NVIDIA L4", 23.6e9)] * 2


class _Ray:
    """A cluster whose nodes look at themselves at once.

    Args:
        nodes: of each how many GPUs Ray counts, and those that torch can use there.

    Attributes:
        asked: whether each was asked for its GPUs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, list[tuple[str, float]]]) -> None:
        self._there = nodes
        self.asked: list[bool] = []
        ray = mock.Mock(nodes=self._nodes, get=lambda answer, timeout: answer)
        ray.cluster_resources.return_value = {"CPU": 8.0}
        ray.remote.return_value = lambda look: mock.Mock(options=self._on)
        monkeypatch.setattr("search.nodes.ray", ray)
        monkeypatch.setattr("search.nodes.NodeAffinitySchedulingStrategy", lambda node, soft: node)

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": node, "NodeManagerAddress": f"10.0.0.{node}", "Alive": True, "Resources": {"GPU": float(count)}}
            for node, (count, _) in enumerate(self._there)
        ]

    def _on(self, scheduling_strategy: int) -> mock.Mock:
        def answer(packages: Any, sources: Any, marks: Any, gpus: bool) -> Any:
            self.asked.append(gpus)
            return *_look()(packages, sources, marks, False)[:3], self._there[scheduling_strategy][1] if gpus else None

        return mock.Mock(remote=answer)


def checked(gpus: bool) -> Cluster:
    with checked_nodes([], print, gpus) as cluster:
        return cluster


@pytest.mark.parametrize("look", [present, checked])
def test_a_cluster_is_known_by_the_smallest_of_its_gpus(
    look: Callable[[bool], Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = _Ray(monkeypatch, (0, []), (2, [("NVIDIA H200", 150e9)] * 2), (1, [("NVIDIA A100-SXM4-80GB", 85e9)]))
    cluster = look(True)
    assert (cluster.resources, cluster.gpu, cluster.gpu_bytes) == ({"CPU": 8.0}, GPUS["A100"], 85e9)
    assert cluster.nodes == [{"GPU": 0.0}, {"GPU": 2.0}, {"GPU": 1.0}]
    assert sorted(ray.asked) == [False, True, True]


def test_gpus_that_are_not_used_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = _Ray(monkeypatch, (1, [("NVIDIA L4", 23.6e9)]))
    assert checked(gpus=False).gpu_bytes is None
    assert ray.asked == [False]
    assert present(gpus=False).gpu_bytes is None
    assert ray.asked == [False]


@pytest.mark.parametrize("look", [present, checked])
def test_a_node_whose_gpus_torch_cannot_use_is_refused(
    look: Callable[[bool], Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Ray(monkeypatch, (1, [("NVIDIA H200", 150e9)]), (1, []))
    with pytest.raises(ConfigError, match=r"^node 10\.0\.0\.1: given no GPU that torch can use"):
        look(True)


@pytest.mark.integration
def test_a_node_without_this_project_can_report(tmp_path: Path) -> None:
    (tmp_path / "look.pickle").write_bytes(cloudpickle.dumps(_look()))
    command = [sys.executable, "-c", BARE, str(tmp_path / "look.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'no-such-package': None" in done.stdout
    assert "{'no_such_package': None}" in done.stdout
