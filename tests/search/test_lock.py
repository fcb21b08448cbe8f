from pathlib import Path

import pytest

from search.lock import output_lock
from trainables.errors import ConfigError


def test_a_second_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "one"
    with (
        output_lock(output),
        pytest.raises(ConfigError, match="another search is running"),
        output_lock(output),
    ):
        pass
    # The first one has ended.
    with output_lock(output):
        assert output.is_dir()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a folder that can be written"), output_lock(tmp_path / "file" / "one"):
        pass
