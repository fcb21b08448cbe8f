"""A quick part of `python -m tests.faults.damaged_files`."""

import pytest

from tests.faults.damaged_files import DAMAGES, measure


@pytest.mark.faults
def test_no_damaged_file_is_used() -> None:
    found = measure(2 * len(DAMAGES), seed=1)
    assert found["used"] == 0
    assert len(found["kinds"]) == 2 * len(DAMAGES)
