"""The command line: what it refuses, and how."""

import argparse
import json
from pathlib import Path
from unittest import mock

import pytest

from search.hardware import ClusterResources
from search.run import main
from search.space import load
from tests.search.commands import SMALL, refused
from trainables.config.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", ["resources.workers=3", "training.batch_size=3"], ["resources.workers", "given 3", "at most 2"]),
        ("", ["resources.slots=5"], ["resources.slots", "given 5", "at most 2"]),
        ("", ["resources.cpus_per_worker=64"], ["resources.cpus_per_worker", "at most 2"]),
        ("", ["resources.gpus_per_worker=1"], ["resources.gpus_per_worker", "at most 0"]),
        ("", ["resources.gpus_per_worker=0.5"], ["resources.gpus_per_worker", "given 0.5", "at most 0"]),
        ("", ["resources.gpus_per_worker=2"], ["resources.gpus_per_worker", "given 2", "0, 1, or a share"]),
        ("", ["resources.gpus_per_worker=0.001"], ["resources.gpus_per_worker", "0, or from 0.01 to 1"]),
        ("", ["resources.gpus_per_worker=0.5", "resources.workers=2"], ["resources.workers", "given 2", "1 or auto"]),
        ("", ["resources.autoscaler={gpus: 8xH10}"], ["resources.autoscaler.gpus", "did you mean '8xH100'?"]),
        ("", ["data.train=100000"], ["data.train", "at most 20000 together"]),
        ("", ["confirmation.best=3"], ["confirmation.best", "given 3", "at most 2"]),
        ("schedule: null\n", ["budget.trials=8", "confirmation.best=2"], ["confirmation.best", "at most 1"]),
        ("", ["budget.trails=3"], ["budget.trails", "did you mean 'trials'"]),
        ("nonsense: 1\n", [], ["space.yaml:5", "nonsense"]),
    ],
)
def test_what_a_space_may_not_say(
    text: str, overrides: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.yaml").write_text(SMALL + text)
    line = refused(capsys, ["space.yaml", *(f"--set={override}" for override in overrides)])
    for part in expected:
        assert part in line


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/optuna", "mariadb+pymysql://host/optuna"])
@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_a_database_that_cannot_hold_a_study_is_told(
    url: str, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.yaml").write_text(SMALL + f"study: {{storage: {url}}}\n")
    line = refused(capsys, ["space.yaml", *how])
    assert line.startswith("space.yaml:5: study.storage: given ")
    kind = url.partition(":")[0].partition("+")[0]
    assert line.endswith(f"; allowed: the URL of a database ({kind} cannot hold a study, postgresql can)")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.jsonl", None, ["data.path", "missing.jsonl"]),
        ("empty.jsonl", "", ["data.path", "no documents"]),
        ("few.jsonl", '{"q": "a"}\n{"q": "b"}\n{"q": "b"}\n', ["data.train", "at most 2"]),
        ("broken.jsonl", '{"q": "a"}\n{"q": \n', ["line 2"]),
        ("column.jsonl", '{"question": "a"}\n', ["data.template", "'q'", "question"]),
    ],
)
def test_what_a_data_file_may_not_be(
    name: str, content: str | None, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path(name).write_text(content)
    data = {"source": "files", "path": name, "template": "{q}", "train": 2, "validation": 1, "test": 6}
    Path("space.yaml").write_text(json.dumps({"models": ["builtin/nano"], "data": data}))
    line = refused(capsys, ["space.yaml"])
    assert line.startswith("space.yaml:1: data.")
    for part in expected:
        assert part in line


def test_a_folder_and_a_missing_file_are_no_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    assert "a folder" in refused(capsys, ["folder"])
    assert "no such file" in refused(capsys, ["nowhere.yaml"])


@pytest.mark.parametrize("name", ["a/b", "../a", "/tmp/a", "..", ".", "", "a\\nb", "a\\0", "~", "-a", "a b", "a" * 101])
def test_the_name_stays_in_the_folder_of_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + f'name: "{name}"\n')
    assert "name: given " in refused(capsys, ["space.yaml"])


def test_the_command_to_go_on_hides_a_password() -> None:
    options = argparse.Namespace(file="a.yaml", set=["tracking.uri=http://me:hunter2@host", "seed=1"], output=None)
    command = CommandLine.of(options, "search.run").resumed()
    assert command == "python -m search.run a.yaml --set 'tracking.uri=http://me:***@host' --set seed=1 --resume"
    # A template is no address.
    options.set = ["data.template=mailto:bob@x.org {a}"]
    command = CommandLine.of(options, "search.run").resumed()
    assert command == "python -m search.run a.yaml --set 'data.template=mailto:bob@x.org {a}' --resume"


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("models=[builtin/nano, hub:nobody/nothing]", "models.1"),
        ("schedule.reference=hub:nobody/nothing", "schedule.reference"),
    ],
)
def test_models_that_the_hub_does_not_give_are_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], setting: str, name: str
) -> None:
    Path("space.yaml").write_text(SMALL)
    with mock.patch("trainables.models.resolve.ask_for_model", side_effect=ConnectionError("no route")):
        line = refused(capsys, ["space.yaml", "--set", setting])
    assert f"{name}: nobody/nothing is not in the local cache, and " in line
    assert "no route" in line


def test_counts_are_found_for_a_search_here() -> None:
    from search.run import _allot
    from search.scheduling.allocation import Allocation

    Path("space.yaml").write_text(SMALL)
    found = _allot(
        load("space.yaml", ["resources.workers=auto", "resources.slots=auto"]), ClusterResources({"CPU": 3.0})
    )
    assert list(found.values()) == [Allocation(1, 3)]


def test_the_command_line_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    usage = capsys.readouterr().out
    for option in ("SPACE", "--dry-run", "--gpus NxNAME", "--resume", "--set PATH=VALUE", "--output DIR"):
        assert option in usage
    with pytest.raises(SystemExit) as ended:
        main(["space.yaml", "--unknown"])
    assert ended.value.code == 2
