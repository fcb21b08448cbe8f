"""The journal after its writer was killed, and after damage."""

from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from search.studies.storage import JournalError, open_journal


def written(path: Path) -> bytes:
    """A journal of one study with a long attribute, and what it holds."""
    study = optuna.create_study(storage=open_journal(path).storage, study_name="s")
    study.set_user_attr("long", "x" * 10_000)
    study.set_user_attr("last", 1)
    return path.read_bytes()


@pytest.mark.parametrize("cut", [1, 20, 10_000])
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "study.journal"
    whole = written(path)
    path.write_bytes(whole[:-cut])
    study = optuna.load_study(storage=open_journal(path).storage, study_name="s")
    assert whole.startswith(path.read_bytes())
    assert path.read_bytes().endswith(b"\n")
    assert "last" not in study.user_attrs
    study.set_user_attr("last", 2)
    assert optuna.load_study(storage=open_journal(path).storage, study_name="s").user_attrs["last"] == 2


def test_a_whole_journal_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    whole = written(path)
    open_journal(path)
    assert path.read_bytes() == whole


def test_a_journal_with_nothing_but_a_part_of_a_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code": 0')
    assert open_journal(path).storage.get_all_studies() == []
    assert path.read_bytes() == b""


def test_a_killed_writers_lock_does_not_hold_up_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    written(path)
    JournalFileSymlinkLock(str(path)).acquire()
    # Optuna itself would wait for 30 s.
    optuna.load_study(storage=open_journal(path).storage, study_name="s").set_user_attr("last", 3)


@pytest.mark.parametrize("damage", [b"\xff", b'{"op_code": 99}\n', b"{}\n", b"[]\n", b"not JSON\n"])
def test_damage_is_told(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "study.journal"
    first, _, rest = written(path).partition(b"\n")
    path.write_bytes(first + b"\n" + damage + rest)
    with pytest.raises(JournalError, match=r"study\.journal is damaged"):
        open_journal(path)
