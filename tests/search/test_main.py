"""The console command `entrodrop`, also where a file hides the package from `python -m`."""

import subprocess
import sys
from pathlib import Path

import pytest

from search.__main__ import main
from search.space import find_space
from tests import ROOT
from trainables.config.command_line import invocation


def test_a_command_is_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", "--help"])
    assert caught.value.code == 0
    assert "the output folder of a search" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runn", "math"]) == 2
    assert (
        "given 'runn'; allowed: init, run, status, watch, report, best, evaluate, sync, finetune; did you mean 'run'?"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_commands_are_listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments or ["-h"]) == 0
    assert "finetune" in capsys.readouterr().out


def test_printed_commands_are_those_that_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/entrodrop", "run"])
    assert invocation("search.run") == "entrodrop run"
    monkeypatch.setattr(sys, "argv", ["search/run.py"])
    assert invocation("trainables.finetune") == "python -m trainables.finetune"


def test_an_example_is_found_by_name_and_a_file_of_that_name_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_space("math") == ROOT / "spaces" / "math.yaml"
    assert find_space("nothing-such") == Path("nothing-such")
    (tmp_path / "math").write_text("")
    assert find_space("math") == Path("math")


def test_a_file_of_the_packages_name_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text("raise SystemExit('the wrong one')\n")
    command = [Path(sys.executable).with_name("entrodrop"), "run", "math", "--set", "models=nothing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("--set models=nothing: ")
