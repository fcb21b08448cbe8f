"""Nodes that do not see the folder of what was prepared copy it once, to the last byte."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from ray.exceptions import RayTaskError

from tests import tiny
from tests.trainables.damage import flip_a_byte
from tests.trainables.training.runs import finish
from trainables.errors import DataError
from trainables.parallel import leave_group
from trainables.preparation.prepared import Prepared
from trainables.settings import Lora, ModelSettings
from trainables.slots.node_copies import FileServer, local_copy, local_folder
from trainables.storage import manifest
from trainables.storage.manifest import hashes_of
from trainables.token_weight import Stm
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel

PARTS = ("folder", "tokens", "entropies", "base", "evaluation")


class Elsewhere:
    """A `Source` on a node whose folder `made` this one does not see: here it is called `hidden`."""

    def __init__(self, made: Path, hidden: Path) -> None:
        made.rename(hidden)
        self.pieces = 0
        self._made, self._hidden = made, hidden
        self._read = FileServer.__ray_metadata__.modified_class.read  # type: ignore[attr-defined]
        self.read = mock.Mock(remote=self._answer)

    def _answer(self, path: str, start: int) -> Any:
        self.pieces += 1
        try:
            return self._read(None, str(self._hidden / Path(path).relative_to(self._made)), start)
        except OSError as error:
            return RayTaskError("read", "a trace of many lines", error).as_instanceof_cause()


def get(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.slots.node_copies.ray.get", get)
    monkeypatch.setattr("trainables.slots.node_copies._PIECE", 1000)


def test_a_node_trains_on_what_was_prepared_on_another(tmp_path: Path) -> None:
    prepared = tiny.prepared(tmp_path / "made")
    expected = {part: hashes_of(getattr(prepared, part), lambda name: name != "manifest.json") for part in PARTS}
    entropy_RT = prepared.entropy("train")
    source = Elsewhere(tmp_path / "made", tmp_path / "hidden")
    here = local_copy(prepared, source, tmp_path / "own")
    for part in PARTS:
        folder = getattr(here, part)
        assert folder.is_relative_to(tmp_path / "own" / "copies")
        assert hashes_of(folder, lambda name: name != "manifest.json") == expected[part]
    assert here.entropy("train").equal(entropy_RT)
    WarmModel(here, tiny.CPU)
    # The second worker, and the next slot.
    pieces = source.pieces
    assert local_copy(prepared, source, tmp_path / "own") == here
    assert source.pieces == pieces
    assert not list((tmp_path / "own" / "copies").glob(".building-*"))


def test_where_all_nodes_see_the_cache_nothing_is_copied(tmp_path: Path) -> None:
    prepared = tiny.prepared(tmp_path)
    source = mock.Mock()
    assert local_copy(prepared, source, tmp_path) == local_copy(prepared, None, tmp_path) == prepared
    source.read.remote.assert_not_called()
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("size", [0, 999, 1000, 1001, 2000])
def test_files_of_any_size(tmp_path: Path, size: int) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "file").write_bytes(bytes(i % 251 for i in range(size)))
    files = hashes_of(made)
    source = Elsewhere(made, tmp_path / "hidden")
    assert hashes_of(local_folder(made, files, source, tmp_path / "own"), lambda name: name == "file") == files
    assert source.pieces == size // 1000 + 1


def test_two_workers_of_a_node_copy_once(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "file").write_bytes(bytes(50_000))
    files = hashes_of(made)
    source = Elsewhere(made, tmp_path / "hidden")
    found: list[Path] = []
    workers = [
        threading.Thread(target=lambda: found.append(local_folder(made, files, source, tmp_path / "own")))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert source.pieces == 51


def test_another_search_has_made_others_at_the_same_place(tmp_path: Path) -> None:
    """As with entropies that two kinds of processors compute to another digit."""
    made = tmp_path / "cache" / "entropies" / "a"
    made.mkdir(parents=True)
    (made / "file").write_bytes(b"theirs")
    files = hashes_of(made)
    source = Elsewhere(made, tmp_path / "hidden")
    made.mkdir()
    (made / "file").write_bytes(b"our own")
    copy = local_folder(made, files, source, tmp_path / "cache")
    assert (copy / "file").read_bytes() == b"theirs"
    assert (made / "file").read_bytes() == b"our own"
    flip_a_byte(copy / "file")
    assert local_folder(made, files, source, tmp_path / "cache") == copy
    assert (copy / "file").read_bytes() == b"theirs"


@pytest.mark.parametrize("part", PARTS)
def test_what_is_damaged_after_it_was_prepared_is_not_trained_on(tmp_path: Path, part: str) -> None:
    prepared = tiny.prepared(tmp_path / "cache")
    file = next(getattr(prepared, part).glob("*.safetensors"))
    flip_a_byte(file)
    with pytest.raises(
        DataError, match=f"^ENTRODROP_CACHE: .* has changed since the search began .{file.name} is damaged"
    ):
        local_copy(prepared, None, tmp_path / "cache")
    # The next start makes it again.
    assert tiny.prepared(tmp_path / "cache") == prepared
    assert local_copy(prepared, None, tmp_path / "cache") == prepared


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.faults
def test_nor_is_what_is_damaged_while_runs_train(tmp_path: Path, part: str) -> None:
    # Most weights are never written.
    warm = WarmModel(tiny.prepared(tmp_path / "cache"), tiny.CPU, ModelSettings(lora=Lora(2, 4.0)))
    settings = tiny.settings(epochs=1, entrodrop=tiny.entrodrop(), token_weight=Stm(20.0))
    whole = finish(Run(warm, settings, keep_best=True)).test()
    file = next(getattr(warm.prepared, part).glob("*.safetensors"))
    file.write_bytes(bytes(file.stat().st_size))
    assert finish(Run(warm, settings, keep_best=True)).test() == whole


def test_nor_is_it_copied(tmp_path: Path) -> None:
    made = tmp_path / "model"
    made.mkdir()
    (made / "file").write_bytes(bytes(3000))
    files = hashes_of(made)
    source = Elsewhere(made, tmp_path / "hidden")
    flip_a_byte(tmp_path / "hidden" / "file")
    with pytest.raises(
        DataError, match=r"^models: .*/model has changed since the search began .file is damaged.; put it back"
    ):
        local_folder(made, files, source, tmp_path / "own")
    (tmp_path / "hidden" / "file").unlink()
    with pytest.raises(
        DataError, match=r"^models: .*/model has changed since the search began ..*No such file"
    ) as caught:
        local_folder(made, files, source, tmp_path / "own")
    assert "trace" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "own" / "copies").iterdir()] == [".lock"]


@contextmanager
def counted_reads() -> Iterator[Counter[str]]:
    """How often this process reads files for their hashes, by name; files are remembered from their first second on."""
    reads: Counter[str] = Counter()

    def read(path: Path) -> str:
        reads[path.name] += 1
        return hashlib.sha256(path.read_bytes()).hexdigest()

    with mock.patch.object(manifest, "_read_hash", read), mock.patch.object(manifest, "_TICK_S", -1.0):
        yield reads


def _prepare(_: int, cache: Path, folder: Path) -> None:
    with counted_reads() as reads:
        torch.save(tiny.prepared(cache), folder / "prepared")
    (folder / "prepare.json").write_text(json.dumps(reads))


def _rank(rank: int, cache: Path, folder: Path, nodes: int) -> None:
    """A rank of a slot of two, on one node or each on its own: which files it reads, and what it is refused."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{nodes}", rank=rank, world_size=2)
    prepared: Prepared = torch.load(folder / "prepared", weights_only=False)
    node, looks = (rank, True) if nodes == 2 else (0, rank == 0)
    with counted_reads() as reads:
        assert local_copy(prepared, None, cache, node, looks) == prepared
    (folder / f"{nodes}-{rank}.json").write_text(json.dumps(reads))
    dist.barrier()
    if rank == 0:
        flip_a_byte(prepared.tokens / "tokens.safetensors")
    dist.barrier()
    with pytest.raises(DataError, match=r"tokens.safetensors is damaged"):
        local_copy(prepared, None, cache, node, looks)
    dist.barrier()
    if rank == 0:
        flip_a_byte(prepared.tokens / "tokens.safetensors")
    leave_group()


@pytest.mark.faults
def test_weights_are_read_for_their_hash_once_in_a_process_and_once_on_a_node(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tiny.folder("tiny", cache)
    torch.multiprocessing.spawn(_prepare, (cache, tmp_path), nprocs=1)
    for nodes in (1, 2):
        torch.multiprocessing.spawn(_rank, (cache, tmp_path, nodes), nprocs=2)
    reads = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("prepare", "1-0", "1-1", "2-0", "2-1")
    }
    assert [process.get("model.safetensors", 0) for process in reads.values()] == [1, 1, 0, 1, 1]
    assert reads["1-1"] == {}
    assert set(reads["1-0"].values()) == {1}
