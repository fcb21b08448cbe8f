from pathlib import Path

import pytest

from search.output.folder import lock_output
from trainables.errors import ConfigError


def test_a_second_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "one"
    with (
        lock_output(output),
        pytest.raises(ConfigError, match="another search is running"),
        lock_output(output),
    ):
        pass
    # The first one has ended.
    with lock_output(output):
        assert output.is_dir()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot be written .*; name another folder"),
        lock_output(tmp_path / "file" / "one"),
    ):
        pass
