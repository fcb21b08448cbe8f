"""The command line: what it refuses, and how."""

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from search.gpus import GPUS
from search.machine import Cluster
from search.run import _changes, main
from search.space import load
from tests import tiny
from trainables.config.command_line import resume_command
from trainables.config.file import ConfigError

SMALL = """
models: [builtin/nano]
data: {source: reasoning_gym, task: gsm_symbolic, train: 4, validation: 4, test: 6}
budget: {trials: 3, epochs: 2}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """Runs a command that must be refused. Returns its one line."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    return printed.err.strip()


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


@pytest.mark.parametrize("presentation", ["input", "input_mask_token"])
def test_the_plan_knows_the_mask_token(presentation: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    given = ["schedule.mask_token=<none>", f"schedule.presentation={presentation}"]
    line = refused(capsys, ["space.yaml", "--dry-run", *(f"--set={override}" for override in given)])
    assert line.startswith("--set schedule.mask_token=<none>: schedule.mask_token: given <none>; allowed: one token of")


def test_a_tokenizer_larger_than_the_embedding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.folder("tiny", tmp_path / "cache")
    copy = tmp_path / "models" / "larger"
    shutil.copytree(model, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = 5000
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    Path("data.txt").write_text("".join(f"anna has {n} more\n" for n in range(20)))
    data = {"source": "files", "path": "data.txt", "template": "{text}", "train": 4, "validation": 4, "test": 6}
    space = {"models": ["models/larger"], "data": data, "training": {"sequence_length": 32}}
    Path("space.yaml").write_text(json.dumps(space))
    capsys.readouterr()
    assert "this one has tokens above the 58 of the embedding" in refused(capsys, ["space.yaml", "--dry-run"])


def test_the_command_to_go_on_hides_a_password() -> None:
    options = argparse.Namespace(file="a.yaml", set=["tracking.uri=http://me:hunter2@host", "seed=1"], output=None)
    command = resume_command(options, "search.run")
    assert command == "python -m search.run a.yaml --set 'tracking.uri=http://me:***@host' --set seed=1 --resume"


def test_dry_run_prints_the_plan_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    before = sorted(Path.cwd().rglob("*"))
    assert main(["space.yaml", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert sorted(Path.cwd().rglob("*")) == before
    for part in ("builtin/nano: 3 trials of 2 epochs", "2 of 2 (2 slots)", "0: no dropout", "1: sigmoid", "minutes"):
        assert part in plan
    # Of 12 bytes for each of 316,032 parameters, and of 16, two.
    kept = "kept    at most 7.6 MB of checkpoints for each slot, 10.1 MB in the confirmation: the last one, "
    assert kept in plan


ARMS = """
arms:
- {name: none, schedule: null}
- {name: entrodrop}
- {name: wd, schedule: null, training: {weight_decay: {low: 0.01, high: 1.0, log: true}}}
"""


def planned(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, str]:
    """The plan's lines by their first word, without the title."""
    assert main(["space.yaml", "--dry-run", *(f"--set={override}" for override in overrides)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:] if line]
    return {line[0]: line[1] for line in lines if len(line) > 1}


def tokens(line: str) -> int:
    return int(re.findall(r"([\d,]+) tokens, ", line)[0].replace(",", ""))


@pytest.mark.integration
def test_the_plan_says_what_each_part_costs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + ARMS)
    plan = planned(capsys)
    assert plan["builtin/nano:"] == "7 trials of 2 epochs"
    assert plan["arms"] == "none 1, entrodrop 3, wd 3"
    trial = tokens(plan["a"])
    assert trial > 100
    assert tokens(plan["search"]) == 7 * trial
    # The baseline, and the two best settings of two arms, with three seeds each.
    assert plan["confirm"].startswith("15 runs; ")
    assert tokens(plan["confirm"]) == 15 * trial
    assert tokens(plan["in"]) == 22 * trial
    for part in ("a", "search", "confirm", "in"):
        assert "of device time" in plan[part]
    assert "limits" not in plan
    assert "confirm" not in planned(capsys, "confirmation=null")


@pytest.mark.integration
def test_the_plan_keeps_to_the_limits_of_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + ARMS)
    trial = tokens(planned(capsys, "confirmation=null")["a"])
    plan = planned(capsys, "confirmation=null", "budget.trials=9", f"budget.tokens={2 * trial}")
    assert plan["limits"] == f"{2 * trial:,} tokens in each arm for the search of each model; what runs then runs on"
    # Each of the two arms may be short of its limit when its last trial begins.
    assert tokens(plan["search"]) == tokens(plan["in"]) == (1 + 3 + 3) * trial
    for limit in ("budget.hours=0.001", "budget.device_hours=0.001"):
        plan = planned(capsys, "confirmation=null", "budget.trials=100000", limit)
        assert tokens(plan["search"]) == 200_001 * trial
        # 3.6 s, on two slots, and a trial more on each.
        found = re.search(r"about (\d+) s of device time at most", plan["search"])
        assert found is not None
        assert 3 <= int(found[1]) <= 60


@pytest.mark.integration
def test_a_second_baseline_is_planned_where_the_learning_rate_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    assert planned(capsys)["confirm"].startswith("9 runs; ")
    rate = "training.learning_rate={low: 0.0001, high: 0.01, log: true}"
    assert planned(capsys, rate)["confirm"].startswith("12 runs; ")


@pytest.mark.integration
def test_a_plan_with_fewer_trials_than_samples(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    trial = tokens(planned(capsys)["a"])
    plan = planned(capsys, "budget.trials=9", f"budget.tokens={trial}")
    assert {"0:", "1:"} <= set(plan)
    assert "2:" not in plan


SPACES = Path(__file__).parents[2] / "spaces"


@pytest.mark.integration
@pytest.mark.parametrize("domain", ["math", "code", "general"])
def test_the_papers_models_are_planned_for_gpus_that_are_elsewhere_without_network(
    domain: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    space = str(SPACES / f"{domain}-qwen3.yaml")
    assert main([space, "--dry-run", "--gpus", "8xH100"]) == 0
    plan = capsys.readouterr().out
    assert re.search(r"slots   8 of 1 worker\n", plan)
    assert re.search(r"slots   2 of 4 workers \(fsdp\)", plan)
    assert re.search(r"memory  [\d.]+ GB of each GPU of 80 GB: weights 8\.2, ", plan)
    assert "a trial at most 4,096,000 tokens an epoch; 32,768,000 tokens, about" in plan
    assert "each document counts as 2,048 tokens, the most there can be" in plan
    assert re.search(r"in all .* GPU hours at most", plan)
    assert "at 40% of 989 TFLOP/s" in plan


@pytest.mark.integration
def test_gpu_hours_are_those_of_the_precision(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + "resources: {slots: 1, gpus_per_worker: 1}\n")
    hours = {}
    # As many tokens as take hours.
    large = ["--set", "budget.epochs=1000000000", "--set", "training.sequence_length=64"]
    for precision, peak in (("bf16", "989"), ("fp32", "67")):
        plan = ["--dry-run", "--gpus", "1xH100", "--set", f"training.precision={precision}", *large]
        assert main(["space.yaml", *plan]) == 0
        printed = capsys.readouterr().out
        assert f"at 40% of {peak} TFLOP/s" in printed
        found = re.search(r"in all .* about ([\d,.]+) GPU hours", printed)
        assert found is not None
        hours[precision] = float(found[1].replace(",", ""))
    assert hours["fp32"] / hours["bf16"] == pytest.approx(989 / 67, rel=0.02)


def test_what_gpus_may_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    assert "allowed: with --dry-run" in refused(capsys, ["space.yaml", "--gpus", "8xH100"])
    assert "did you mean '8xH100'?" in refused(capsys, ["space.yaml", "--dry-run", "--gpus", "8xH10"])
    line = refused(capsys, ["space.yaml", "--dry-run", "--gpus", "8xH100"])
    assert line == "space.yaml:2: resources.gpus_per_worker: given 0; allowed: with --gpus, above 0"
    halves = ["--dry-run", "--gpus", "1xL4", "--set", "resources.gpus_per_worker=0.5"]
    line = refused(capsys, ["space.yaml", *halves, "--set", "resources.slots=3"])
    assert "resources.slots: given 3; allowed: at most 2: each takes 0.5 of the 1 GPUs there are" in line
    few = ["--dry-run", "--gpus", "1xH100", "--set", "models=[hub:Qwen/Qwen3-8B]", "--set", "resources.workers=auto"]
    line = refused(capsys, ["space.yaml", *few, "--set", "resources.gpus_per_worker=1"])
    assert "resources.workers: given auto; allowed: counts with which hub:Qwen/Qwen3-8B fits: it takes " in line


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
