"""Signals of a process of its own: the second one ends it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from search.interruption import Interruption
from tests import DEADLINE_S

SCRIPT = """
import time
from search.interruption import Interruption
with Interruption() as interruption:
    interruption.last_words = "go on with: it"
    interruption.tell = lambda line: print(line, flush=True)
    print("listening", flush=True)
    {begins}
    while not (interruption.asked and {gives_up}):
        time.sleep(0.01)
print("ended well", flush=True)
"""


def started(gives_up: bool, begins: str = "") -> subprocess.Popen[str]:
    code = SCRIPT.format(gives_up=gives_up, begins=begins)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_search_end(number: signal.Signals) -> None:
    process = started(gives_up=True)
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert "once more ends the search at once" in out
    assert "ended well" in out
    assert process.returncode == 0


def test_a_search_that_cannot_go_on_ends_as_if_interrupted() -> None:
    interruption = Interruption()
    interruption.ask("a node is in the way")
    interruption.ask("another one is")
    assert interruption.asked
    assert not interruption.overdue
    assert interruption.reason == "a node is in the way"


def test_a_first_signal_while_the_search_ends_by_itself_does_not_end_it_at_once() -> None:
    with Interruption() as interruption:
        interruption.ask("a node is in the way")
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.reason == "a node is in the way"


def test_the_second_signal_ends_whatever_hangs() -> None:
    process = started(gives_up=False)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "once more" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (130, "go on with: it\n")


def test_the_second_signal_ends_what_the_process_has_started_and_its_folder(tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
    begins = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)"
    temporary = tmp_path / "ray"
    temporary.mkdir()
    begins = f"import pathlib; interruption.temporary = pathlib.Path({str(temporary)!r}); {begins}"
    process = started(gives_up=False, begins=begins)
    assert process.stdout is not None
    started_by_it = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    assert "once more" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    started_by_it.wait(timeout=DEADLINE_S)
    process.communicate(timeout=DEADLINE_S)
    assert not temporary.exists()
    process.communicate(timeout=DEADLINE_S)
