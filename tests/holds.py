"""Holds a search at a chosen point until the test says go on, so that what the test does in between finds it there.

    holds.hold("builtin-nano/0@2", "builtin-nano/1@2")
    process = searches.start("output", program=PROGRAM, environment=holds.environment)
    holds.wait(process)
    (the test acts)
    holds.release()

"builtin-nano/0@2" is trial 0 of the study between the first optimizer step after its first evaluation and its second
evaluation; PREPARATION is the preparation of the data. A held trial can be interrupted as between any two steps.
"""

import os
import subprocess
import time
from pathlib import Path

from tests import DEADLINE_S, ROOT

# What Python runs in place of `-m search.run`. Ray reads the environment when it is imported.
PROGRAM = (
    "-c",
    "from search.environment import set_ray_environment; set_ray_environment(); "
    "from tests.held_search import run; run()",
)
PREPARATION = "preparation"
# Names the folder to the search.
FOLDER = "TEST_HOLDS"


class Holds:
    """Args: folder: a new one, which the search's processes see on all nodes.

    Attributes:
        environment: of a search that is to be held.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._points: tuple[str, ...] = ()
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.environment = {FOLDER: str(folder), "PYTHONPATH": path.rstrip(os.pathsep)}

    def hold(self, *points: str) -> None:
        """Holds at these points, and no longer at the ones before."""
        for point in points:
            file_of(self._folder, point).touch()
        for point in set(self._points) - set(points):
            file_of(self._folder, point).unlink()
        self._points = points

    def release(self) -> None:
        self.hold()

    def wait(self, process: subprocess.Popen[str], workers: int = 1) -> None:
        """Waits until the search, or the job that follows it, is held at all points, with so many workers at each."""
        deadline = time.monotonic() + DEADLINE_S
        reached = [Path(f"{file_of(self._folder, point)}.{rank}") for point in self._points for rank in range(workers)]
        while missing := [path.name for path in reached if not path.exists()]:
            assert process.poll() is None, f"ended before {missing}: {process.communicate()}"
            assert time.monotonic() < deadline, f"did not come to {missing}"
            time.sleep(0.05)


def file_of(folder: Path, point: str) -> Path:
    return folder / point.replace("/", "-")
