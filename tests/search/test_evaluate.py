"""Tasks of lm-evaluation-harness on the models of a confirmation, offline: a task in a file."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from search.evaluate import compare, main
from tests import tiny
from tests.search.fed import space
from tests.search.test_report import search_in

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["one", "two", "three"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
ACC = ("sums", "acc", "none")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n} and", "answer": n % 3}) + "\n" for n in range(12)))
    path = tmp_path / "sums.yaml"
    path.write_text(TASK.format(path=data))
    return path


def kept(folder: Path) -> Path:
    """A search whose confirmation has kept its models: those of the arms differ."""
    result = search_in(folder, space(confirmation={"seeds": 2, "keep_models": True}))
    assert result.confirmed is not None
    for arm, model in (("none", "tiny"), ("entrodrop", "other")):
        for run in result.confirmed.runs_of(arm):
            tiny.save(model, folder / "models" / result.confirmed.slug / str(run.number))
    return folder


@pytest.mark.faults
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-evaluation-harness")
def test_a_task_in_a_file_is_run_on_each_model(
    tmp_path: Path, task: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    search = kept(tmp_path / "math")
    written = tmp_path / "scores.json"
    assert main([str(search), "--tasks", str(task), "--json", str(written)]) == 0
    none, ours = json.loads(written.read_text())
    assert (none["arm"], ours["arm"], ours["task"], ours["metric"]) == ("none", "entrodrop", "sums", "acc")
    # The same model twice each.
    assert len(set(none["values"])) == len(set(ours["values"])) == 1
    assert none["difference"] is None
    assert ours["difference"]["mean"] == pytest.approx(ours["values"][0] - none["values"][0])
    assert ours["difference"]["low"] < ours["difference"]["mean"] < ours["difference"]["high"]
    told = capsys.readouterr().out
    assert "builtin/nano: sums, acc, more is better" in told
    assert f"{ours['difference']['low']:+.4f} to" in told

    assert main([str(search), "--tasks", "sumz"]) == 2
    assert "--tasks: sumz cannot be loaded" in capsys.readouterr().err
    task.with_suffix("").with_suffix(".jsonl").unlink()
    assert main([str(search), "--tasks", str(task)]) == 2
    # A long folder is cut in its middle.
    assert "/sums.yaml cannot be loaded (" in capsys.readouterr().err


@pytest.mark.faults
def test_a_search_without_models_says_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search_in(tmp_path / "math", space())
    assert main([str(tmp_path / "math"), "--tasks", "sums"]) == 2
    told = f"DIR: {tmp_path}/math keeps no models of a confirmation; search with confirmation.keep_models: true\n"
    assert capsys.readouterr().err == told
    with pytest.raises(SystemExit):
        main([str(tmp_path / "math")])


def test_arms_are_compared_by_document_and_no_dropout_comes_first() -> None:
    generator = np.random.default_rng(0)
    right = {"entrodrop": 0.8, "none": 0.4}
    read = {
        arm: [{ACC: {n: float(generator.random() < share) for n in range(200)}} for _ in range(3)]
        for arm, share in right.items()
    }
    none, ours = compare("builtin/nano", read, {ACC: True}, 0.05)
    assert (none.arm, ours.arm) == ("none", "entrodrop")
    assert ours.difference is not None
    assert ours.difference.answers
    assert 0 < ours.difference.low < np.mean(ours.values) - np.mean(none.values) < ours.difference.high
    # A document that one model has no number of counts for none.
    del read["entrodrop"][1][ACC][7]
    _, fewer = compare("builtin/nano", read, {ACC: True}, 0.05)
    assert fewer.difference is not None
    assert fewer.difference.documents - ours.difference.documents == -1
    # Of perplexities, say, which are no answers; of one seed there is no interval.
    read = {arm: [{ACC: {n: 5.0 + n for n in range(20)}}] for arm in read}
    assert [score.difference for score in compare("builtin/nano", read, {}, 0.05)] == [None, None]
