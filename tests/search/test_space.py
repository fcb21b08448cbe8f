"""The edge between a user's YAML and the program: what is read, and what is said about what cannot be."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.space import Space, fewest_documents, json_schema, load, load_stored, masked_text
from tests import ROOT
from tests.configs import FILES, MINIMAL, failure, tells
from trainables.config.fields import FloatRange
from trainables.config.loader import ConfigFile
from trainables.errors import ConfigError

MATH = ROOT / "spaces" / "math.yaml"


# What loads.


def test_the_space_of_the_repository_loads() -> None:
    space = load(MATH).config
    assert (space.name, space.models) == ("math", ["builtin/nano", "builtin/micro"])
    assert space.schedule.entropy_threshold.quantile == FloatRange(low=0.2, high=0.9)
    assert [shape.shape for shape in space.schedule.curriculum] == ["constant", "linear", "cosine", "sigmoid", "step"]


def test_its_values_are_the_defaults(write: Any) -> None:
    given = load(MATH).config.model_dump()
    default = load(write(MINIMAL, "math.yaml"), ["models=[builtin/nano, builtin/micro]"]).config.model_dump()
    assert given.pop("data") != default.pop("data")
    assert given.pop("tracking") == {"experiment": "entrodrop-math", "uri": None, "register_as": None}
    assert default.pop("tracking") == {"experiment": "entrodrop", "uri": None, "register_as": None}
    assert (given["confirmation"].pop("best"), default["confirmation"].pop("best")) == (1, 2)
    assert (given.pop("objective"), default.pop("objective")) == ("final", "best")
    assert (given["training"].pop("batch_size"), default["training"].pop("batch_size")) == (1, 4)
    assert (given["training"].pop("lr_schedule"), default["training"].pop("lr_schedule")) == ("cosine", "constant")
    assert (given["training"].pop("sequence_length"), default["training"].pop("sequence_length")) == (256, 512)
    assert given == default


@pytest.mark.parametrize("text", [MINIMAL, FILES, MATH.read_text()])
def test_the_resolved_space_loads_again(write: Any, tmp_path: Path, text: str) -> None:
    overrides = ["training.learning_rate={low: 1.0e-5, high: 0.1, log: true}", "schedule.mask_ratio=[0, 0.5]"]
    space = load(write(text), overrides).config
    (tmp_path / "elsewhere").mkdir()
    resolved = write(yaml.safe_dump(space.model_dump(mode="json")), "elsewhere/resolved.yaml")
    assert load(resolved).config == space


# Overrides.


def test_an_override_replaces_and_creates() -> None:
    overrides = [
        "budget.trials=3",
        "models.1=builtin/nano",
        "models.0=builtin/micro",
        "schedule.curriculum.4.at=0.3",
        "schedule.curriculum.0={shape: linear}",
        "schedule.curriculum.1={shape: constant}",
        "tracking.uri=http://host:5000/?a=b",
    ]
    space = load(MATH, overrides).config
    assert space.budget.trials == 3
    assert space.models == ["builtin/micro", "builtin/nano"]
    assert space.tracking.uri == "http://host:5000/?a=b"
    shapes = space.model_dump()["schedule"]["curriculum"]
    assert [shape["shape"] for shape in shapes] == ["linear", "constant", "cosine", "sigmoid", "step"]
    assert shapes[4]["at"] == 0.3


def test_an_override_creates_blocks_and_lists(write: Any) -> None:
    overrides = [
        "early_stopping.patience=5",
        "schedule.curriculum.0.shape=linear",
        "schedule.mask_ratio.low=0.5",
    ]
    space = load(write(MINIMAL), [*overrides, "schedule.mask_ratio.high=1"]).config
    assert space.early_stopping.patience == 5
    assert [shape.shape for shape in space.schedule.curriculum] == ["linear"]
    assert space.schedule.mask_ratio == FloatRange(low=0.5, high=1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials=0", "budget.trials: given 0; allowed: an integer of at least 1"),
        (
            "budget.trails=3",
            "budget.trails: given an unknown key; allowed: epochs, trials, tokens, hours, device_hours; did you mean"
            " 'trials'?",
        ),
        ("budget=3", "budget: given 3; allowed: a mapping {epochs, trials, tokens, hours, device_hours}"),
        ("budget=", "budget: given nothing; allowed: a mapping {epochs, trials, tokens, hours, device_hours}"),
        ("bugdet.trials=3", "bugdet: given an unknown key; allowed: name, seed, models, "),
        ("seed.x=1", 'seed: given {"x": 1}; allowed: an integer from 0'),
        ("models.5=builtin/nano", "models.5: given the index 5; allowed: an index from 0 to 2"),
        ("models.first=builtin/nano", "models.first: given the index first; allowed: an index from 0 to 2"),
        ("models.1=builtin/nano", "models.1: 'builtin/nano' is given a second time; leave it out"),
        (
            "schedule.curriculum.1.at=0.3",
            "schedule.curriculum.1.at: given an unknown key; allowed: shape, until; 'at' belongs to shape step",
        ),
        ("seed=[1", "seed: broken YAML (expected ',' or ']', but got '<stream end>'); check the inden"),
        ("budget={trials: 1, trials: 2}", "budget.trials: given a second time (first on line 1); leave one"),
        ("seed=!!python/name:os.system", "seed: the tag !!python/name:os.system is not read; leave it "),
        ("budget.trials", "given 'budget.trials'; allowed: path=value"),
        ("=3", "given '=3'; allowed: path=value"),
        ("budget..trials=3", "given 'budget..trials=3'; allowed: path=value"),
        ("", "given ''; allowed: path=value"),
    ],
)
def test_a_wrong_override_is_told_as_such(override: str, message: str) -> None:
    assert failure(MATH, override, schema=Space).startswith(f"--set {override}: {message}")


# What is said about a wrong value: (text that is put for `data:` and below it, line, message).

WRONG_VALUES = [
    ("budget:\n  trials: 0", 9, "budget.trials: given 0; allowed: an integer of at least 1"),
    ("early_stopping:\n  first_rung: 0.0", 9, "given 0.0; allowed: above 0 and below 1 (share of the budget"),
    ("objective: bets", 8, "objective: given 'bets'; allowed: best (of least high-entropy loss), fina"),
    ("sampler: {name: bayes}", 8, "sampler.name: given 'bayes'; allowed: tpe (learns from earl"),
    ("tracking: {experiment: ''}", 8, "tracking.experiment: given ''; allowed: a name (MLflow exper"),
    ("tracking: {uri: 3}", 8, "tracking.uri: given 3; allowed: a tracking URI; null for"),
    ("budgets: {trials: 3}", 8, "budgets: given an unknown key; allowed: name, seed, models, "),
    (
        "budget: {trails: 3}",
        8,
        "budget.trails: given an unknown key; allowed: epochs, trials, tokens, hours, device_hours; did you mean"
        " 'trials'?",
    ),
    (
        "budget:\n  trials: 1\n  trials: 1",
        10,
        "budget.trials: given a second time (first on line 9); leave one of",
    ),
    (
        "training:\n  batch_size: 4\n  accumulation: 3",
        9,
        "training.batch_size: training.batch_size (4) is not a multiple of training.accumulation (3) * resources.wor",
    ),
    (
        "resources:\n  slots: 1\n  workers: 3",
        10,
        "resources.workers: training.batch_size (4) is not a multiple of ",
    ),
    (
        "training:\n  accumulation: 8",
        9,
        "training.accumulation: training.batch_size (4) is not a multiple of traini",
    ),
    ("budget: {hours: 0}", 8, "budget.hours: given 0; allowed: above 0; null for no limit ("),
    ("budget: {device_hours: -1.5}", 8, "budget.device_hours: given -1.5; allowed: above 0; null for "),
    ("budget: {tokens: 0}", 8, "budget.tokens: given 0; allowed: an integer of at least one"),
    ("early_stopping: {audit: 1.5}", 8, "early_stopping.audit: given 1.5; allowed: from 0 to 1 (share o"),
    ("early_stopping: {audit: -0.1}", 8, "early_stopping.audit: given -0.1; allowed: from 0 to 1 (share o"),
    ("early_stopping: {patience: 0}", 8, "early_stopping.patience: given 0; allowed: an integer of at least 1"),
    ("early_stopping: {reduction_factor: 1}", 8, "reduction_factor: given 1; allowed: an integer of at least 2"),
    ("objectives: [loss, high_entropy_loss]", 8, "objectives.0: given 'loss'; allowed: high_entropy_loss, the first"),
    ("objectives: [high_entropy_loss, los]", 8, "objectives.1: given 'los'; allowed: a list of high_entropy_lo"),
    (
        "objectives: [high_entropy_loss, general_loss]",
        8,
        "objectives.1: general_loss is not measured without general documents; add the block general",
    ),
    (
        "constraints:\n  general_loss: 0.05",
        9,
        "constraints.general_loss: given 0.05, but nothing measures it; add general documents, or write null",
    ),
    (
        "general: {source: builtin, task: letter_counting, documents: 5}\nconstraints: {general_loss: 0.05}",
        8,
        "general.documents: given 5; allowed: at least 6, for constraints.general_loss with an interval of 95%; or",
    ),
    (
        "objective: exact_match",
        8,
        "objective: given exact_match, but no answers are counted; set evaluation.exact_match to a number of questions",
    ),
    (
        "objective: exact_match\nevaluation: {exact_match: 2}\nearly_stopping: {pruner: rungs}",
        10,
        "early_stopping.pruner: given 'rungs'; allowed: comebacks or none: with objective: exact_match answers are cou",
    ),
    (
        "objective: exact_match\nevaluation: {exact_match: 2}\nobjectives: [high_entropy_loss, loss]",
        10,
        "objectives: given high_entropy_loss, loss; allowed: high_entropy_loss alone, with objective: exact_match",
    ),
    ("constraints: {general_loss: -1}", 8, "constraints.general_loss: given -1; allowed: at least 0; null for any"),
    ("constraints: {loss: 0.1}", 8, "constraints.loss: given an unknown key; allowed: general_loss"),
    (
        "confirmation: null\ntracking: {register_as: maths}",
        9,
        "tracking.register_as: only a confirmed model is registered; write null, or give the block confirmation",
    ),
    ("confirmation: {seeds: 1}", 8, "confirmation.seeds: given 1; allowed: an integer of at least 2, or auto"),
    ("confirmation: {seeds: many}", 8, "confirmation.seeds: given 'many'; allowed: an integer of at least 2, or auto"),
    ("confirmation: {max_seeds: 1}", 8, "confirmation.max_seeds: given 1; allowed: an integer of at least 2"),
    ("confirmation: {margin: 0}", 8, "confirmation.margin: given 0; allowed: above 0; null not to claim equality"),
    (
        "confirmation: {margin: 0.02}",
        8,
        "confirmation.margin: given 0.02; allowed: at least 0.053 with 20 test documents; or set data.test to 379",
    ),
    ("confirmation: {confidence: 1.0}", 8, "confirmation.confidence: given 1.0; allowed: from 0.5 to 0.999 (conf"),
    (
        "budget: {trials: 4}\nconfirmation: {best: 4}",
        9,
        "confirmation.best: given 4; allowed: at most 3, the trials of an arm that can end",
    ),
    ("transfer: -1", 8, "transfer: given -1; allowed: an integer of at least 0"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_VALUES, ids=[text[:50] for text, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line(write: Any, text: str, line: int, message: str) -> None:
    tells(write(MINIMAL + text + "\n"), line, message, Space)


def test_too_few_test_documents_for_the_interval_are_told(write: Any) -> None:
    few = MINIMAL.replace("test: 20", "test: 5")
    tells(
        write(few), 7, "data.test: given 5; allowed: at least 6, for an interval of 95%; or confirmation: null", Space
    )
    assert load(write(few + "confirmation: null\n")).config.confirmation is None
    assert load(write(few + "confirmation: {confidence: 0.9}\n")).config.data.test == 5


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_documents_that_agree_by_chance_are_too_few(confidence: float) -> None:
    fewest = fewest_documents(confidence)
    assert 2 * 0.5**fewest <= 1 - confidence + 1e-12 < 2 * 0.5 ** (fewest - 1)


def test_what_cannot_be_confirmed_by_default_is_no_mistake(write: Any) -> None:
    # One setting beside the baseline, although two are confirmed by default.
    assert load(write(MINIMAL), ["budget.trials=2"]).config.budget.trials == 2


def test_the_first_of_many_problems_is_told(write: Any) -> None:
    path = write("objective: bets\n" + MINIMAL.replace("test: 20", "test: 0") + "budget:\n  trials: 0\n  epochs: x\n")
    told = failure(path, "seed=-1", schema=Space)
    assert told.startswith(f"{path}:1: objective: given 'bets'")
    assert told.endswith(" (and 4 more)")


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:hunter2@host",
        "http://user:p@ss:/hunter2@host",
        "http://hunter2@host",
        "user:hunter2@host",
        "mysql://user:\\u0000hunter2 @host/" + "long" * 30,
        "postgresql://host/db?user=me&password=hunter2",
    ],
)
def test_no_password_is_printed(write: Any, uri: str) -> None:
    texts = [
        f'tracking: {{uri: ["{uri}"]}}',
        f'tracking: {{experiment: "a\\n{uri}"}}',
        f'seed: "{uri}"',
        f'"{uri}": 1',
    ]
    for text in texts:
        assert "hunter2" not in failure(write(f"{MINIMAL}{text}\n"), schema=Space)
    for override in (f"tracking.ui={uri}", f"seed={uri}", f"{uri}", f"tracking={{uri: {uri}, uri: 3}}"):
        assert "hunter2" not in failure(MATH, override, schema=Space)
    assert "hunter2" not in str(load(MATH).error("tracking.uri", f"{uri}", "a server that answers"))


# Errors that are found after loading.


def test_a_later_error_finds_its_line() -> None:
    file = load(MATH, ["resources.slots=64"])
    line = MATH.read_text().splitlines().index("  workers: 1                    # processes that share a trial") + 1
    told = str(file.error("resources.workers", 8, "at most 2, the CPUs of this machine"))
    assert told == f"{MATH}:{line}: resources.workers: given 8; allowed: at most 2, the CPUs of this machine"
    told = str(file.error("resources.slots", 64, "at most 2"))
    assert told == "--set resources.slots=64: resources.slots: given 64; allowed: at most 2"
    told = str(file.error("models.1", "builtin/micro", "builtin/nano", nearest="builtin/nano"))
    assert told.endswith(": models.1: given builtin/micro; allowed: builtin/nano; did you mean 'builtin/nano'?")


def test_a_later_error_about_a_default_has_the_line_of_its_block(write: Any) -> None:
    file = load(write(MINIMAL + "resources:\n  slots: 1\n"))
    assert str(file.error("resources.workers", 1, "none")).startswith(f"{file.path}:8: resources.workers: given 1")
    assert str(file.error("training.precision", "bf16", "fp32")).startswith(f"{file.path}:1: training.precision")
    assert isinstance(file, ConfigFile)
    assert file.text == MINIMAL + "resources:\n  slots: 1\n"


# The JSON schema.


def test_the_json_schema_describes_every_key() -> None:
    command = [sys.executable, "-m", "search.space", "--json-schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    schema = json.loads(printed)
    assert schema == json_schema()
    assert printed == (ROOT / "spaces" / "schema.json").read_text()
    described = set()
    for block in [schema, *schema["$defs"].values()]:
        assert block["additionalProperties"] is False
        for key, setting in block["properties"].items():
            assert setting.get("description"), key
            described.add(key)
    assert set(_keys(yaml.safe_load(MATH.read_text()))) <= described
    assert set(_keys(yaml.safe_load(FILES))) <= described


def test_a_range_says_its_bounds_by_name() -> None:
    names = {name for name in json_schema()["$defs"] if name.startswith("FloatRange")}
    bounds = {"Above0", "Above0To1", "Above1", "From0", "From0Below1", "From0To1"}
    assert names == {f"FloatRange{each}" for each in bounds}


@pytest.mark.parametrize("space", sorted((ROOT / "spaces").glob("*.yaml")), ids=lambda path: path.name)
def test_editors_find_the_schema_of_an_example(space: Path) -> None:
    first, _ = space.read_text().split("\n", 1)
    assert first == "# yaml-language-server: $schema=schema.json"


def test_every_setting_says_what_is_allowed() -> None:
    schema = json_schema()
    for name, block in {"Space": schema, **schema["$defs"]}.items():
        for key, setting in block["properties"].items():
            inner = [setting, *setting.get("anyOf", [])]
            is_block = any("$ref" in one for one in inner) and not any(
                "type" in one and one["type"] != "null" for one in inner
            )
            # A range is in the unit, and the bounds, of the setting around it.
            if not is_block and not (name.startswith("FloatRange") and key in ("low", "high")):
                assert ": " in setting["description"], (name, key)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)


# Damage: whatever the file, there is a space or one line about it.


def _loads_or_tells(path: Path) -> bool:
    try:
        load(path)
    except ConfigError as error:
        told = str(error)
    else:
        return True
    assert told.isprintable()
    assert told.startswith(f"{path}:")
    return False


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*place, key)
        yield from _places(inner, (*place, key))


RETYPED: list[Any] = [
    None, True, -1, 0, 3, 0.5, "x", "1e-4", "", [], [1], {}, {"a": 1}, {"low": 1, "high": 2}, [[]], 10**20
]  # fmt: skip


@pytest.mark.faults
def test_a_damaged_key_is_told(write: Any) -> None:
    whole = MATH.read_text()
    outcomes = set()
    for number, place in enumerate(_places(yaml.safe_load(whole))):
        for change in ["drop", "rename", RETYPED[number % len(RETYPED)]]:
            tree = yaml.safe_load(whole)
            block = tree
            for part in place[:-1]:
                block = block[part]
            value = block.pop(place[-1])
            if change == "rename" and isinstance(block, dict):
                block[f"{place[-1]}x"] = value
            elif change not in ("drop", "rename"):
                block.update({place[-1]: change}) if isinstance(block, dict) else block.insert(place[-1], change)
            told = not _loads_or_tells(write(json.dumps(tree)))
            assert told or change != "rename" or isinstance(block, list)
            outcomes.add(told)
    assert outcomes == {True, False}


@pytest.mark.faults
def test_a_cut_or_overwritten_file_is_told(write: Any) -> None:
    whole = MATH.read_bytes()
    for end in range(0, len(whole), 37):
        _loads_or_tells(write(whole[:end]))
    dice = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        _loads_or_tells(write(bytes(damaged)))
        _loads_or_tells(write(dice.randbytes(64)))
        _loads_or_tells(write("".join(dice.choices("[]{}:,-?&*!|>'\"%@` \n#a1.~<\\", k=40))))


@pytest.mark.parametrize(
    "uri",
    [
        r'"postgresql://me:hunter2\x40db/mlflow"',
        '"postgresql://me:hunter2\\\n  @db/mlflow"',
        "postgresql://me:hunter2@db/a",
    ],
    ids=["an escape", "a line break", "as it is"],
)
def test_the_text_that_is_kept_has_no_password(uri: str, write: Any) -> None:
    text = f"{MINIMAL}# mine\ntracking: {{uri: {uri}}}\n"
    assert "hunter2" in str(load(write(text)).config.tracking.uri)
    kept = masked_text(text, "otherwise")
    assert "hunter2" not in kept
    assert ("# mine" in kept) is ("@db/a" in uri)


def test_a_template_that_looks_like_a_password_is_kept() -> None:
    for line in ("template: 'Write to mailto:bob@x.org about {answer}'", "prompt: 'password=abc is what {a} typed'"):
        assert masked_text(f"# mine\ndata: {{{line}}}\n", "otherwise") == "otherwise"
    assert masked_text("# mine\ndata: {template: '{answer}'}\n", "otherwise").startswith("# mine")


def test_a_stored_space_is_read_where_its_models_are_not(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    path = tmp_path / "resolved.yaml"
    path.write_text(
        "models: [./tiny]\ndata: {source: builtin, task: word_problems, train: 4, validation: 4, test: 6}\n"
    )
    assert load(path).config == load_stored(path)
    (tmp_path / "tiny").rmdir()
    with pytest.raises(ConfigError, match="which does not exist"):
        load(path)
    assert load_stored(path).models == [str(tmp_path / "tiny")]
