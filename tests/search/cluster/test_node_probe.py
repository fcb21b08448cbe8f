"""What a node says of itself: of its packages and GPUs, and of folders and URLs."""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from ray import cloudpickle
from upath import UPath

from search.cluster.node_checks import list_needed_folders
from search.cluster.node_probe import NeededFolder, probe_node, write_probe_file
from search.output.folder import Output
from trainables.errors import ConfigError
from trainables.storage.files import Place

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


def seen(folder: NeededFolder, path: str | None = None) -> str | None:
    """What a node says of a folder, which lies elsewhere there if a path is given."""
    with write_probe_file(folder) as (setting, mark, content, shared):
        there = mark if path is None else f"{path}/{mark.rpartition('/')[2]}"
        return probe_node((), (), [(setting, there, content, shared)], False)[2].get(setting)


def places(tmp_path: Path) -> list[Place]:
    return [tmp_path / "math", UPath(f"file://{tmp_path}/math")]


def test_a_folder_that_all_nodes_share(tmp_path: Path) -> None:
    for place in places(tmp_path):
        output = NeededFolder("--output", place, shared=True)
        # One that a killed search has left goes.
        (tmp_path / "math").mkdir(exist_ok=True)
        (tmp_path / "math" / ".seen-before").touch()
        assert seen(output) is None
        wrong = seen(output, f"{tmp_path}/other")
        assert wrong is not None
        assert "cannot be seen there (No such file or directory); name a folder on storage that" in wrong
        with write_probe_file(output) as mark:
            # Another disk at the same path.
            (tmp_path / "math" / mark[1].rpartition("/")[2]).write_text("another")
            assert "is another folder there" in probe_node((), (), [mark], False)[2]["--output"]
        assert list((tmp_path / "math").iterdir()) == []


def test_a_folder_that_each_node_may_have_for_itself(tmp_path: Path) -> None:
    cache = NeededFolder("ENTRODROP_CACHE", tmp_path / "cache", shared=False)
    assert seen(cache) is None
    assert seen(cache, f"{tmp_path}/other") is None
    assert list((tmp_path / "other").iterdir()) == []
    (tmp_path / "file").write_text("")
    wrong = seen(cache, f"{tmp_path}/file/cache")
    assert wrong is not None
    assert "cannot be written there (Not a directory); name one that each node can write" in wrong


def test_a_store_whose_package_a_node_lacks() -> None:
    mark = ("--output", "nosuch://data/math/.seen", "a", True)
    wrong = probe_node((), (), [mark], False)[2]["--output"]
    assert wrong.startswith("nosuch://data/math cannot be seen there (Unsupported filesystem: 'nosuch')")


def test_what_all_nodes_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    there = UPath(f"file://{tmp_path}/math")
    cache = NeededFolder("ENTRODROP_CACHE", tmp_path / "cache", shared=False)
    assert list_needed_folders(Output(tmp_path / "math", tmp_path / "math")) == [
        NeededFolder("--output", tmp_path / "math", True),
        cache,
    ]
    assert list_needed_folders(Output(tmp_path / "cache" / "o", there)) == [
        NeededFolder("--output", there, True),
        cache,
    ]


def test_a_place_that_the_search_itself_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"^ENTRODROP_CACHE: .*/file/cache cannot be written \(.*\); name another folder"
    ):
        write_probe_file(NeededFolder("ENTRODROP_CACHE", tmp_path / "file" / "cache", False)).__enter__()
    with pytest.raises(ConfigError, match=r"^--output: file://.*/file/math cannot be written \(.*\); name another URL"):
        write_probe_file(NeededFolder("--output", UPath(f"file://{tmp_path}/file/math"), True)).__enter__()


def test_versions_and_code_of_this_process() -> None:
    versions, sources, _, _ = probe_node(("torch", "no-such-package"), ("search", "no_such_package"), [], False)
    assert versions["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert versions["torch"] is not None
    assert "+" not in versions["torch"]
    assert versions["no-such-package"] is None
    assert sources["search"] is not None
    assert sources["no_such_package"] is None


def test_the_gpus_of_a_node_are_those_that_torch_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe_node((), (), [], False)[3] is None
    monkeypatch.setattr("torch.cuda", mock.Mock(**{"is_available.return_value": False}))
    assert probe_node((), (), [], True)[3] == []
    l4 = mock.Mock(total_memory=23_600_000_000)
    l4.name = "NVIDIA L4"
    cuda = {"is_available.return_value": True, "device_count.return_value": 2, "get_device_properties.return_value": l4}
    monkeypatch.setattr("torch.cuda", mock.Mock(**cuda))
    assert probe_node((), (), [], True)[3] == [("NVIDIA L4", 23.6e9)] * 2


@pytest.mark.faults
def test_a_node_without_this_project_can_report(tmp_path: Path) -> None:
    (tmp_path / "look.pickle").write_bytes(cloudpickle.dumps(probe_node))
    command = [sys.executable, "-c", BARE, str(tmp_path / "look.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'no-such-package': None" in done.stdout
    assert "{'no_such_package': None}" in done.stdout
