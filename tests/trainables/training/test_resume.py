"""A run that goes on from its checkpoint: to the same bits, or not at all if that is damaged or another run's."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.trainables.damage import DAMAGES, Evil, resealed, unlisted
from tests.trainables.training.runs import VARIANTS, finish, same, trained, untimed, weights
from trainables.preparation.prepared import Prepared
from trainables.training.checkpoint import CheckpointError
from trainables.training.memory_estimate import checkpoint_bytes
from trainables.training.run import Run
from trainables.training.warm_model import WarmModel


@pytest.mark.parametrize("changes", [*VARIANTS.values(), {"attention_dropout": 0.1}], ids=[*VARIANTS, "attention"])
@pytest.mark.parametrize("interrupted_after", [1, 3])
@pytest.mark.faults
def test_a_resumed_run_has_the_same_bits(
    warm: WarmModel, prepared: Prepared, tmp_path: Path, changes: dict[str, Any], interrupted_after: int
) -> None:
    settings = tiny.settings(**changes, epochs=2, evaluations_per_epoch=2)
    expected, last = trained(warm, **changes, epochs=2, evaluations_per_epoch=2)
    interrupted = Run(warm, settings)
    for _ in range(interrupted_after):
        interrupted.advance()
    interrupted.save(tmp_path / "run")
    interrupted_steps = interrupted._steps
    interrupted.advance()
    fresh = WarmModel(prepared, tiny.CPU)
    resumed = Run(fresh, settings)
    resumed.restore(tmp_path / "run")
    assert len(resumed.history) == interrupted_after
    assert untimed(finish(resumed)) == expected
    assert same(weights(fresh), last)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["manifest.json", f"state-{interrupted_steps}"]


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_checkpoint_takes_the_bytes_that_are_planned(warm: WarmModel, tmp_path: Path, keep_best: bool) -> None:
    run = Run(warm, tiny.settings(), keep_best)
    run.advance()
    run.save(tmp_path / "run")
    taken = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    trained = sum(p.numel() for p in warm.model.parameters())
    # Besides the tensors, what says how they lie.
    assert 0 <= taken - checkpoint_bytes(trained, keep_best) < 20_000


class _Stop(Exception):
    pass


def stopping(steps: int) -> Callable[[], None]:
    """Stops a run after so many optimizer steps."""
    left = iter(range(steps - 1, -1, -1))

    def stepped() -> None:
        if next(left) == 0:
            raise _Stop

    return stepped


@pytest.mark.parametrize("changes", [*VARIANTS.values(), {"attention_dropout": 0.1}], ids=[*VARIANTS, "attention"])
@pytest.mark.faults
def test_a_run_that_was_stopped_between_two_evaluations_has_the_same_bits(
    warm: WarmModel, prepared: Prepared, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = tiny.settings(**changes)
    expected, last = trained(warm, **changes)
    interrupted = Run(warm, settings)
    interrupted.advance()
    with pytest.raises(_Stop):
        interrupted.advance(stopping(2))
    interrupted.save(tmp_path / "run")
    fresh = WarmModel(prepared, tiny.CPU)
    resumed = Run(fresh, settings)
    resumed.restore(tmp_path / "run")
    assert len(resumed.history) == 1
    assert resumed.progress == interrupted.progress > 1 / settings.epochs
    assert untimed(finish(resumed)) == expected
    assert same(weights(fresh), last)


def test_what_is_measured_over_an_interval_counts_what_was_before_an_interruption_at_its_last_step(
    warm: WarmModel, prepared: Prepared, tmp_path: Path
) -> None:
    settings = tiny.settings()
    whole = Run(warm, settings)
    expected = whole.advance()
    steps = whole._steps
    interrupted = Run(warm, settings)
    with pytest.raises(_Stop):
        interrupted.advance(stopping(steps))
    interrupted.save(tmp_path / "run")
    resumed = Run(WarmModel(prepared, tiny.CPU), settings)
    resumed.restore(tmp_path / "run")
    metrics = resumed.advance()
    assert metrics["learning_rate"] == expected["learning_rate"]
    assert 0 < metrics["tokens_per_s"] < 100 * expected["tokens_per_s"]


def test_the_best_weights_survive_an_interruption(warm: WarmModel, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.05, "epochs": 6}
    whole = finish(Run(warm, tiny.settings(**changes), keep_best=True)).test()
    run = Run(warm, tiny.settings(**changes), keep_best=True)
    for _ in range(4):
        run.advance()
    run.save(tmp_path / "run")
    other = Run(warm, tiny.settings(**changes))
    with pytest.raises(CheckpointError, match="another run"):
        other.restore(tmp_path / "run")
    resumed = Run(warm, tiny.settings(**changes), keep_best=True)
    resumed.restore(tmp_path / "run")
    assert finish(resumed).test() == whole


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused(warm: WarmModel, tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "checkpoint"
    run = Run(warm, tiny.settings())
    run.advance()
    run.save(path)
    damage(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Run(warm, tiny.settings()).restore(path)


def test_a_file_that_the_manifest_does_not_name_is_refused(warm: WarmModel, tmp_path: Path) -> None:
    Run(warm, tiny.settings()).save(tmp_path / "checkpoint")
    unlisted(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"cannot be read: __1_0.distcp is not in the manifest"):
        Run(warm, tiny.settings()).restore(tmp_path / "checkpoint")


def test_a_manifest_names_nothing_outside_of_its_folder(warm: WarmModel, tmp_path: Path) -> None:
    Run(warm, tiny.settings()).save(tmp_path / "checkpoint")
    shutil.move(next((tmp_path / "checkpoint").glob("state-*")), tmp_path / "outside")
    (tmp_path / "checkpoint" / "state-0").mkdir()
    resealed(tmp_path / "checkpoint", state="../outside")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Run(warm, tiny.settings()).restore(tmp_path / "checkpoint")


def test_a_checkpoint_of_a_stranger_runs_no_code(warm: WarmModel, tmp_path: Path) -> None:
    Run(warm, tiny.settings()).save(tmp_path / "checkpoint")
    part = next((tmp_path / "checkpoint").glob("state-*"))
    (part / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    resealed(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"cannot be read: pathlib.*touch is no part of a checkpoint"):
        Run(warm, tiny.settings()).restore(tmp_path / "checkpoint")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 4}, {"entrodrop": tiny.entrodrop()}])
def test_a_checkpoint_of_another_run_is_refused(warm: WarmModel, tmp_path: Path, changes: dict[str, Any]) -> None:
    Run(warm, tiny.settings()).save(tmp_path / "checkpoint")
    other = Run(warm, tiny.settings(**changes))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        other.restore(tmp_path / "checkpoint")
    assert other.history == []


def test_a_checkpoint_of_other_data_is_refused(warm: WarmModel, cache: Path, tmp_path: Path) -> None:
    Run(warm, tiny.settings()).save(tmp_path / "checkpoint")
    other = WarmModel(tiny.prepared(cache, splits=tiny.splits(seed=1)), tiny.CPU)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Run(other, tiny.settings()).restore(tmp_path / "checkpoint")
