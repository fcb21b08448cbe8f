"""The command line: what it refuses, and how."""

import argparse
import json
from pathlib import Path
from unittest import mock

import pytest

from search.gpus import GPUS
from search.machine import Cluster
from search.run import _changes, main
from search.space import load
from tests.search.commands import SMALL, refused
from trainables.config.command_line import resume_command
from trainables.config.file import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", ["resources.workers=3", "training.batch_size=3"], ["resources.workers", "given 3", "at most 2"]),
        ("", ["resources.slots=5"], ["resources.slots", "given 5", "at most 2"]),
        ("", ["resources.cpus_per_worker=64"], ["resources.cpus_per_worker", "at most 2"]),
        ("", ["resources.gpus_per_worker=1"], ["resources.gpus_per_worker", "at most 0"]),
        ("", ["resources.gpus_per_worker=0.5"], ["resources.gpus_per_worker", "given 0.5", "at most 0"]),
        ("", ["resources.gpus_per_worker=2"], ["resources.gpus_per_worker", "given 2", "from 0 to 1"]),
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
    assert "does not exist" in refused(capsys, ["nowhere.yaml"])


def test_an_output_folder_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    output = Path("runs/space")
    output.mkdir(parents=True)
    (output / "resolved.yaml").write_text("{}")
    assert "--resume" in refused(capsys, ["space.yaml"])


@pytest.mark.integration
def test_a_search_that_began_meanwhile_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)

    def other(_: object) -> None:
        Path("out").mkdir()
        Path("out/resolved.yaml").write_text(SMALL)

    with (
        mock.patch.dict("os.environ"),
        mock.patch("search.run._check_contestants", other),
        mock.patch("search.session.run_session") as run,
    ):
        assert main(["space.yaml", "--output", "out"]) == 2
    assert "--output: given out, which already holds something" in capsys.readouterr().err
    run.assert_not_called()


def test_resume_needs_a_search_and_the_same_space(capsys: pytest.CaptureFixture[str]) -> None:

    Path("space.yaml").write_text(SMALL)
    assert "holds no search" in refused(capsys, ["space.yaml", "--resume"])
    output = Path("runs/space")
    output.mkdir(parents=True)
    resolved = load("space.yaml").config.model_dump(mode="json")
    (output / "resolved.yaml").write_text(json.dumps(resolved))
    line = refused(capsys, ["space.yaml", "--resume", "--set", "budget.epochs=3"])
    assert "given 3; allowed: 2, as it was" in line
    assert "resources, faults, tracking may change" in line
    assert "budget.epochs" in line
    assert "only budget.trials, budget.tokens, budget.hours, budget.device_hours may grow" in line
    assert "at least 3" in refused(capsys, ["space.yaml", "--resume", "--set", "budget.trials=2"])
    # null was no limit: any number is less.
    assert "null, as it was" in refused(capsys, ["space.yaml", "--resume", "--set", "budget.tokens=1000000"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "which holds no space"),
        (b"[1]", "which holds no space"),
        (b"\xff", "allowed: a file that can be read (not UTF-8)"),
        (b"budget: [", ":1: given broken YAML ("),
        (b"budget: {trials: x}", "budget.trials: given 'x'; allowed: a number or null"),
        (
            b"a: 1\nb: !!python/object/apply:os.system ['touch ran']",
            ":2: given the tag !!python/object/apply:os.system",
        ),
        (b"[" * 10_000, ":1: given more than 32 levels of nesting"),
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
    from search.run import _check_output
    from search.space import to_store

    Path("space.yaml").write_text(SMALL + "tracking: {uri: 'http://me:hunter2@host'}\n")
    stored = json.dumps(to_store(load("space.yaml").config))
    assert "http://me:***@host" in stored
    Path("resolved.yaml").write_text(stored)
    _check_output(load("space.yaml", ["tracking.uri=http://me:other@host"]), Path(), resume=True)
    _check_output(load("space.yaml", ["tracking.uri=http://elsewhere", "resources.slots=1"]), Path(), resume=True)


@pytest.mark.parametrize("name", ["a/b", "../a", "/tmp/a", "..", ".", "", "a\\nb", "a\\0", "~", "-a", "a b", "a" * 101])
def test_the_name_stays_in_the_folder_of_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + f'name: "{name}"\n')
    assert "name: given " in refused(capsys, ["space.yaml"])


def test_an_output_that_is_no_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    assert "--output: given space.yaml, which already holds" in refused(
        capsys, ["space.yaml", "--output", "space.yaml"]
    )
    assert "(File name too long)" in refused(capsys, ["space.yaml", "--output", "x" * 5000])
    assert "(File name too long)" in refused(capsys, ["space.yaml", "--resume", "--output", "x" * 5000])


def test_the_command_to_go_on_hides_a_password() -> None:
    options = argparse.Namespace(file="a.yaml", set=["tracking.uri=http://me:hunter2@host", "seed=1"], output=None)
    command = resume_command(options, "search.run")
    assert command == "python -m search.run a.yaml --set 'tracking.uri=http://me:***@host' --set seed=1 --resume"


def test_models_that_the_hub_does_not_give_are_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    with mock.patch("trainables.weights.ask_for_model", side_effect=ConnectionError("no route")):
        line = refused(capsys, ["space.yaml", "--set", "models=[builtin/nano, hub:nobody/nothing]"])
    assert "models.1: given hub:nobody/nothing; allowed: a model in the local cache (" in line
    assert "no route" in line


def test_a_cluster_counts_as_what_its_autoscaler_may_make_of_it() -> None:
    from search.run import _joined

    Path("space.yaml").write_text(SMALL)
    head = Cluster({"memory": 1e9, "node:10.0.0.1": 1.0})
    slots = "resources.slots=3"
    with pytest.raises(ConfigError, match=r"resources.cpus_per_worker: given 1; allowed: at most 0"):
        _joined(load("space.yaml", [slots]), head)
    with pytest.raises(ConfigError, match=r"resources.slots: given 3; allowed: at most 2"):
        _joined(load("space.yaml", [slots, "resources.autoscaler={cpus: 2}"]), head)
    assert _joined(load("space.yaml", [slots, "resources.autoscaler={cpus: 3}"]), head).resources["CPU"] == 3
    gpus = ["resources.autoscaler={cpus: 8, gpus: 4xL40S}", "resources.gpus_per_worker=1", slots]
    cluster = _joined(load("space.yaml", gpus), head)
    assert (cluster.resources["GPU"], cluster.gpu, cluster.gpu_bytes) == (4, GPUS["L40S"], 48e9)
    # What is there counts, if it is more; of the GPUs those of least memory.
    for name, memory, kind, least in (
        ("NVIDIA H100 80GB HBM3", 85e9, "L40S", 48e9),
        ("NVIDIA L4", 23.6e9, "L4", 23.6e9),
    ):
        there = Cluster.with_gpus({"CPU": 64.0, "GPU": 8.0}, [(name, memory)])
        cluster = _joined(load("space.yaml", gpus), there)
        assert (cluster.resources["CPU"], cluster.resources["GPU"]) == (64, 8)
        assert (cluster.gpu, cluster.gpu_bytes) == (GPUS[kind], least)


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([(8, 0)] * 8, "{cpus_per_worker: 16}", "cpus_per_worker: given 16; allowed: at most 8, the CPUs of a node"),
        (
            [(64, 0), (2, 4)],
            "{cpus_per_worker: 4, gpus_per_worker: 0.5}",
            "cpus_per_worker: given 4; allowed: at most 2, the CPUs of a node with GPUs",
        ),
        (
            [(6, 0)] * 3,
            "{cpus_per_worker: 4, slots: 1, workers: 4}",
            "workers: given 4; allowed: at most 3: each takes 4 CPUs of one node",
        ),
        (
            [(6, 2)] * 3,
            "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 4}",
            "slots: given 4; allowed: at most 3: a worker takes 4 CPUs and 1 GPU of one node, and 3 fit on the nodes",
        ),
        ([(6, 2)] * 3, "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 3}", None),
        ([(6, 2)] * 3, "{cpus_per_worker: 4, gpus_per_worker: 1, slots: 4, autoscaler: {cpus: 4}}", None),
    ],
)
def test_a_worker_is_on_one_node(nodes: list[tuple[int, int]], resources: str, expected: str | None) -> None:
    from search.run import _joined

    each = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    there = {kind: sum(node[kind] for node in each) for kind in ("CPU", "GPU")}
    Path("space.yaml").write_text(SMALL + "training: {batch_size: 8}\n")
    space = load("space.yaml", [f"resources={resources}"])
    if expected is None:
        _joined(space, Cluster(there, nodes=each))
        return
    with pytest.raises(ConfigError, match=f"resources.{expected}"):
        _joined(space, Cluster(there, nodes=each))


@pytest.mark.integration
def test_what_an_autoscaler_may_do_needs_a_cluster_or_is_planned_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("space.yaml").write_text(SMALL + "resources: {slots: 3, autoscaler: {cpus: 3}}\n")
    line = refused(capsys, ["space.yaml"])
    assert line == (
        'space.yaml:5: resources.autoscaler: given {"cpus": 3, "gpus": null}; '
        "allowed: null where no cluster is joined (RAY_ADDRESS is not set)"
    )
    assert main(["space.yaml", "--dry-run"]) == 0
    assert "CPUs      3 of 3 (3 slots)" in capsys.readouterr().out
    assert "given 4; allowed: at most 3" in refused(capsys, ["space.yaml", "--dry-run", "--set=resources.slots=4"])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with mock.patch("search.session.run_session", return_value=0) as run:
        assert main(["space.yaml"]) == 0
    run.assert_called_once()


def test_counts_are_found_for_a_search_here() -> None:
    from search.allotment import Allotment
    from search.run import _allotted

    Path("space.yaml").write_text(SMALL)
    found = _allotted(load("space.yaml", ["resources.workers=auto", "resources.slots=auto"]), Cluster({"CPU": 3.0}))
    assert list(found.values()) == [Allotment(1, 3)]


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


def test_a_setting_that_an_earlier_version_did_not_have_is_no_change() -> None:
    assert _changes({"seed": 0}, {"seed": 0, "study": {"storage": None}}) == []
    assert _changes({"seed": 0}, {"seed": 0, "study": {"storage": "sqlite:///a.db"}}) == [
        ("study.storage", None, "sqlite:///a.db")
    ]
