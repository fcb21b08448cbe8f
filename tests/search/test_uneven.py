"""A search whose models get different counts of workers and slots, as models of different sizes do on GPUs."""

import signal
from pathlib import Path

import pytest

from tests import DEADLINE_S, tiny
from tests.holds import Holds
from tests.searches import Searches, workers_and_slots

pytestmark = pytest.mark.cluster

# Stands in for GPUs on which the second model fits only with two workers.
DRIVER = """
from search.environment import set_ray_environment
set_ray_environment()
from search.scheduling import allocation
allocation.allocate = lambda space, model, *there: allocation.Allocation(*((2, 1) if "other" in model else (1, 2)))
from tests.held_search import run
run()
"""


@pytest.fixture
def searches(tmp_path: Path) -> Searches:
    changes = {"budget": {"trials": 3, "epochs": 4}, "resources": {"workers": "auto", "slots": "auto"}}
    return Searches(tmp_path, tiny.space(tmp_path, models=["./tiny", "./other"], **changes))


def test_slots_are_started_anew_for_a_model_that_needs_others_also_after_an_interruption(
    searches: Searches, holds: Holds
) -> None:
    driver = ["-c", DRIVER]
    holds.hold("other/0@2")
    process = searches.start("uneven", program=driver, environment=holds.environment)
    holds.wait(process, workers=2)
    workers, slots = workers_and_slots(process.pid)
    assert (len(workers), len(slots)) == (2, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    holds.release()
    process = searches.start("uneven", "--resume", program=driver, environment=holds.environment)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{out}\n{err}"
    assert "other: 1 trial at a time, each on 2 workers" in out
    for model in ("tiny", "other"):
        table = searches.table("uneven", str(searches.folder / model))
        assert [(number, state, len(losses)) for number, state, _, _, losses in table] == [
            (number, "COMPLETE", 4) for number in range(3)
        ]
