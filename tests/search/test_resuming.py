"""An output folder: never overwritten, and gone on with only as the search in it began."""

import json
from pathlib import Path
from unittest import mock

import pytest

from search.preflight import check_output, find_changes
from search.run import main
from search.space import load, to_store
from tests.search.commands import SMALL, refused
from trainables.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_an_output_folder_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    output = Path("runs/space")
    output.mkdir(parents=True)
    (output / "resolved.yaml").write_text("{}")
    assert "--resume" in refused(capsys, ["space.yaml"])


@pytest.mark.faults
def test_a_search_that_began_meanwhile_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)

    def other(_: object) -> None:
        Path("out").mkdir()
        Path("out/resolved.yaml").write_text(SMALL)

    with (
        mock.patch.dict("os.environ"),
        mock.patch("search.run.check_contestants", other),
        mock.patch("search.session.run_session") as run,
    ):
        assert main(["space.yaml", "--output", "out"]) == 2
    assert "--output: out already holds something" in capsys.readouterr().err
    run.assert_not_called()


def test_resume_needs_a_search_and_the_same_space(capsys: pytest.CaptureFixture[str]) -> None:

    Path("space.yaml").write_text(SMALL)
    assert "holds no search" in refused(capsys, ["space.yaml", "--resume"])
    output = Path("runs/space")
    output.mkdir(parents=True)
    resolved = load("space.yaml").config.model_dump(mode="json")
    (output / "resolved.yaml").write_text(json.dumps(resolved))
    line = refused(capsys, ["space.yaml", "--resume", "--set", "budget.epochs=3"])
    assert "budget.epochs: given 3; allowed: 2, as it was: a trial's curriculum, learning rate and rungs" in line
    line = refused(capsys, ["space.yaml", "--resume", "--set", "seed=3"])
    assert "seed: given 3; allowed: 0, as it was" in line
    assert "resources, faults, tracking may change" in line
    assert "only budget.trials, budget.tokens, budget.hours, budget.device_hours may grow" in line
    assert "at least 3" in refused(capsys, ["space.yaml", "--resume", "--set", "budget.trials=2"])
    # null was no limit: any number is less.
    assert "null, as it was" in refused(capsys, ["space.yaml", "--resume", "--set", "budget.tokens=1000000"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no space; put the file back"),
        (b"[1]", "holds no space; put the file back"),
        (b"\xff", "cannot be read (not UTF-8)"),
        (b"budget: [", ":1: broken YAML ("),
        (b"budget: {trials: x}", "budget.trials: given 'x'; allowed: a number or null"),
        (
            b"a: 1\nb: !!python/object/apply:os.system ['touch ran']",
            ": the tag !!python/object/apply:os.system",
        ),
        (b"[" * 10_000, ":1: more than 32 levels of nesting"),
    ],
)
def test_a_damaged_record_of_the_space_is_told(content: bytes, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    resolved = Path("runs/space/resolved.yaml")
    resolved.parent.mkdir(parents=True)
    resolved.write_bytes(content)
    line = refused(capsys, ["space.yaml", "--resume"])
    assert line.startswith("--resume: ")
    assert str(resolved) in line
    assert told in line


def test_where_a_search_is_recorded_may_change_when_it_goes_on() -> None:
    Path("space.yaml").write_text(SMALL + "tracking: {uri: 'http://me:hunter2@host'}\n")
    stored = json.dumps(to_store(load("space.yaml").config))
    assert "http://me:***@host" in stored
    Path("resolved.yaml").write_text(stored)
    check_output(load("space.yaml", ["tracking.uri=http://me:other@host"]), Path(), resume=True)
    check_output(load("space.yaml", ["tracking.uri=http://elsewhere", "resources.slots=1"]), Path(), resume=True)


def test_an_output_that_is_no_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    assert "--output: space.yaml already holds" in refused(capsys, ["space.yaml", "--output", "space.yaml"])
    assert "(File name too long)" in refused(capsys, ["space.yaml", "--output", "x" * 5000])
    assert "(File name too long)" in refused(capsys, ["space.yaml", "--resume", "--output", "x" * 5000])


def test_a_setting_that_an_earlier_version_did_not_have_is_no_change() -> None:
    assert find_changes({"seed": 0}, {"seed": 0, "study": {"storage": None}}) == []
    assert find_changes({"seed": 0}, {"seed": 0, "study": {"storage": "sqlite:///a.db"}}) == [
        ("study.storage", None, "sqlite:///a.db")
    ]


def test_a_search_of_a_version_without_token_weights_goes_on() -> None:
    arms = "arms: [{name: none, schedule: null}, {name: a, schedule: {curriculum: [{shape: linear}, {shape: step}]}}]\n"
    lora = "training: {lora: {rank: 4, alpha: 8}}\n"
    Path("space.yaml").write_text(SMALL + arms + lora)
    space_file = load("space.yaml")
    before = to_store(space_file.config)
    del before["schedule"]["redraw"], before["training"]["token_weight"]
    del before["training"]["lora"]["dropout"], before["training"]["lora"]["target_modules"]
    del before["schedule"]["curriculum"][1]["until"], before["arms"][1]["schedule"]["curriculum"][0]["until"]
    Path("out").mkdir()
    (Path("out") / "resolved.yaml").write_text(json.dumps(before))
    check_output(space_file, Path("out"), resume=True)
    changed = load("space.yaml", ["arms.1.schedule.curriculum.1.at=0.5"])
    with pytest.raises(ConfigError, match=r"arms\.1\.schedule\.curriculum\.1\.at: given 0\.5; allowed: .* as it was"):
        check_output(changed, Path("out"), resume=True)


def test_a_search_of_a_version_without_rounds_of_seeds_goes_on() -> None:
    Path("space.yaml").write_text(SMALL + "confirmation: {seeds: 3}\n")
    space_file = load("space.yaml")
    before = to_store(space_file.config)
    del before["confirmation"]["max_seeds"], before["confirmation"]["margin"]
    Path("out").mkdir()
    (Path("out") / "resolved.yaml").write_text(json.dumps(before))
    check_output(space_file, Path("out"), resume=True)
