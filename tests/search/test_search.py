"""The real command on a very small budget, in processes of its own; and what it leaves behind."""

import json
import os
import shutil
import signal
from pathlib import Path
from unittest import mock

import psutil
import pytest
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM

from search import status, sync
from search.arms import BASELINE
from search.run import main
from search.studies.pruners import LOSING, PLATEAU, is_known
from search.studies.verdict import Verdict
from tests import DEADLINE_S, tiny
from tests.holds import PREPARATION, PROGRAM, Holds
from tests.searches import Searches
from trainables.finetune import main as finetune


@pytest.mark.integration
def test_the_study_holds_true_states(searches: Searches, whole: tuple[str, str]) -> None:
    study = searches.study("whole")
    # Six full ones; with what stopping saves, more.
    assert len(study.trials) >= 6
    assert study.trials[0].user_attrs["arm"] == "none"
    assert study.trials[1].params["curriculum.shape"] == "sigmoid"
    states = {t.state.name for t in study.trials}
    assert states <= {"COMPLETE", "PRUNED"}
    assert "COMPLETE" in states
    for trial in study.trials:
        evaluations = len(trial.intermediate_values)
        assert evaluations == 6 if trial.state.name == "COMPLETE" else 0 < evaluations < 6
        assert trial.user_attrs.get("reason") in ([None] if trial.state.name == "COMPLETE" else [PLATEAU, LOSING])
        if trial.state.name == "COMPLETE":
            assert trial.value == min(trial.intermediate_values.values())


@pytest.mark.integration
def test_the_summary_has_its_keys(searches: Searches, whole: tuple[str, str]) -> None:
    states = {"COMPLETE": "complete", "PRUNED": "pruned"}
    summary, study = searches.summary("whole"), searches.study("whole")
    model = summary["models"]["builtin/nano"]
    assert model["baseline"]["high_entropy_loss"] == study.trials[0].value
    best = model["best"]
    known = [t for t in study.trials[1:] if is_known(t)]
    assert best["high_entropy_loss"] == min(min(t.intermediate_values.values()) for t in known)
    assert best["params"]["curriculum"]["shape"] == study.trials[best["trial"]].params["curriculum.shape"]
    assert sum(model["trials"].values()) == len(study.trials)
    assert set(model["trials"]) == {"complete", "pruned", "failed", "running"}
    trained = sum(max(t.intermediate_values) for t in study.trials)
    full = max(study.trials[0].intermediate_values)
    assert model["tokens"] == {"trained": trained, "saved": len(study.trials) * full - trained}
    assert set(summary["timing"]) == {"wall_s", "prepare_s", "slot_start_s", "trial_overhead_s"}
    assert 0 < summary["timing"]["trial_overhead_s"] < 5
    assert [row["state"] for row in model["trials_table"]] == [states[t.state.name] for t in study.trials]
    assert 0 < model["device_s"] == pytest.approx(sum(row["device_s"] for row in model["trials_table"]))
    for hash_name in ("data_hash", "evaluation_hash"):
        assert len(model[hash_name]) == 64


@pytest.mark.integration
def test_mlflow_has_a_parent_and_a_child_for_each_trial(searches: Searches, whole: tuple[str, str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{searches.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("entrodrop")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parent = client.get_run(searches.search_run_id("whole"))
    assert (parent.info.run_name, parent.data.tags["kind"]) == ("tiny", "search")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    study, summary = searches.study("whole"), searches.summary("whole")
    searched = [r for r in children if r.data.tags["stage"] == "search"]
    run_ids = searches.run_ids("whole", len(study.trials))
    assert sorted(r.info.run_id for r in searched) == sorted(run_ids)
    confirming = [r for r in children if r.data.tags["stage"] == "confirmation"]
    assert len(confirming) == 4
    assert all(r.data.metrics["test.best.high_entropy_loss"] > 0 for r in confirming)
    assert not any(name.startswith("test.") for r in searched for name in r.data.metrics)
    best = summary["models"]["builtin/nano"]["best"]
    assert best["mlflow_run_id"] == run_ids[best["trial"]]
    for trial in study.trials:
        run = client.get_run(run_ids[trial.number])
        history = client.get_metric_history(run.info.run_id, "high_entropy_loss")
        assert {m.step: m.value for m in history} == pytest.approx(trial.intermediate_values)
        for name in ("loss", "low_entropy_loss", "mask_rate", "curriculum_strength", "learning_rate", "tokens_per_s"):
            assert len(client.get_metric_history(run.info.run_id, name)) == len(history)
        assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["trial.html"]
        # MLflow shows them as system metrics.
        assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
        assert run.data.tags["state"] == trial.state.name.lower()
        assert run.info.status == "FINISHED"
        (used,) = run.inputs.dataset_inputs
        assert summary["models"]["builtin/nano"]["data_hash"].startswith(used.dataset.digest)
        if trial.number:
            assert run.data.params["curriculum.shape"] == trial.params["curriculum.shape"]
            assert float(run.data.params["mask_ratio"]) == trial.params["mask_ratio"]
    assert parent.data.metrics["builtin-nano.best.high_entropy_loss"] == best["high_entropy_loss"]
    assert parent.data.params["builtin-nano.data_hash"] == summary["models"]["builtin/nano"]["data_hash"]
    confirmation = summary["models"]["builtin/nano"]["confirmation"]
    assert parent.data.tags["builtin-nano.verdict"] == confirmation["verdict"]
    found = confirmation["difference"]["best"]
    assert parent.data.metrics["builtin-nano.test.best.difference.low"] == found["low"]
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"space.yaml", "resolved.yaml", "summary.json", "rebound.png", "report.html"} <= artifacts
    assert Verdict(confirmation["verdict"]).words in parent.data.tags["mlflow.note.content"]


@pytest.mark.integration
def test_the_recommended_model_is_registered(searches: Searches, whole: tuple[str, str]) -> None:
    import mlflow
    from mlflow import MlflowClient

    uri = f"sqlite:///{searches.folder}/mlflow.db"
    (version,) = MlflowClient(uri).search_model_versions("name = 'tiny-builtin-nano'")
    confirmation = searches.summary("whole")["models"]["builtin/nano"]["confirmation"]
    arm = confirmation["chosen"] if confirmation["verdict"] == Verdict.BETTER else BASELINE
    assert version.tags == {"model": "builtin/nano", "arm": arm, "verdict": confirmation["verdict"]}
    assert version.description.startswith("use ")
    # Of the first seed's run; the others' weights are not kept.
    (number,) = (path.name for path in (searches.folder / "whole/models/builtin-nano-confirmation").iterdir())
    ran = searches.study("whole", "builtin/nano/confirmation").trials[int(number)]
    assert (ran.user_attrs["seed"], ran.user_attrs["arm"]) == (1, arm)
    assert [version.run_id] == searches.run_ids("whole", int(number) + 1, "builtin/nano/confirmation")[-1:]
    # The events tell it, and can be read.
    assert status.main([str(searches.folder / "whole")]) == 0
    mlflow.set_tracking_uri(uri)
    card = Path(mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/model/README.md")).read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert version.description in card
    loaded = mlflow.transformers.load_model("models:/tiny-builtin-nano/1")
    assert loaded("Anna has 2 apples.", max_new_tokens=2)[0]["generated_text"].startswith("Anna has 2 apples.")


@pytest.mark.integration
def test_plain_lines_and_last_words(searches: Searches, whole: tuple[str, str]) -> None:
    out, _ = whole
    assert not any(ord(c) < 32 and c != "\n" for c in out)
    assert "Traceback" not in "".join(whole)
    assert "builtin/nano trial 0 no dropout: complete" in out
    assert "high-entropy test loss against no dropout" in out
    assert "to confirm" in out
    assert f"mlflow ui --backend-store-uri sqlite:///{searches.folder}/mlflow.db" in out
    assert not (searches.folder / "whole" / "checkpoints").exists()
    assert not (searches.folder / "whole" / "ray").exists()
    ended = [event["stage"] for event in searches.events("whole", "trial_ended")]
    assert (ended.count("search"), ended.count("confirmation")) == (len(searches.study("whole").trials), 4)


@pytest.mark.integration
def test_winners_are_confirmed_with_seeds_and_documents_that_did_not_choose_them(
    searches: Searches, whole: tuple[str, str]
) -> None:
    confirmation = searches.summary("whole")["models"]["builtin/nano"]["confirmation"]
    runs = searches.study("whole", "builtin/nano/confirmation").trials
    assert {t.state.name for t in runs} == {"COMPLETE"}
    assert [t.user_attrs["seed"] for t in runs] == [1, 1, 2, 2]
    assert {t.user_attrs["trial"] for t in runs if t.user_attrs["arm"] == "none"} == {0}
    assert all(len(t.intermediate_values) == 6 for t in runs)
    assert set(confirmation["arms"]) == {"none", "entrodrop"}
    ours, none = (confirmation["arms"][arm]["test"]["best"]["high_entropy_loss"] for arm in ("entrodrop", "none"))
    found = confirmation["arms"]["entrodrop"]["against_none"]["best"]["high_entropy_loss"]
    assert found["mean"] == pytest.approx(ours - none)
    assert found["low"] < found["mean"] < found["high"]
    assert Verdict(confirmation["verdict"]).words in whole[0]
    assert (
        Verdict(confirmation["verdict"]).words
        in (searches.folder / "whole" / "best_schedule.builtin-nano.yaml").read_text()
    )


@pytest.mark.integration
def test_a_search_goes_on_after_an_interruption_with_a_larger_budget(
    searches: Searches, whole: tuple[str, str], holds: Holds, capsys: pytest.CaptureFixture[str]
) -> None:
    # When the first of the two trials before it has ended.
    holds.hold("builtin-nano/2@2")
    process = searches.start("interrupted", program=PROGRAM, environment=holds.environment)
    holds.wait(process)
    output = searches.folder / "interrupted"
    with mock.patch.dict(os.environ):
        assert main([str(searches.space), "--output", str(output), "--resume"]) == 2
    assert "another search is running" in capsys.readouterr().err
    assert status.main([str(output)]) == 0
    assert capsys.readouterr().out.endswith("running\n")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "once more ends the search at once" in out
    assert "Traceback" not in err
    _, left = psutil.wait_procs(children, timeout=120)
    assert left == []
    assert status.main([str(output)]) == 0
    assert capsys.readouterr().out.endswith(err.rpartition("interrupted; ")[2])
    before = {row[0]: row for row in searches.table("interrupted")}
    assert before[2][1] == "RUNNING"
    assert any(row[1] in ("COMPLETE", "PRUNED") for row in before.values())
    searches.run("interrupted", "--resume", "--set", "budget.trials=8")
    # After six, the smaller budget may have let a slot wait.
    assert searches.table("interrupted")[:6] == searches.table("whole")[:6]
    assert len(searches.table("interrupted")) >= 8
    for row in searches.table("interrupted"):
        if row[0] in before and before[row[0]][1] in ("COMPLETE", "PRUNED"):
            assert before[row[0]] == row
    runs = searches.study("interrupted", "builtin/nano/confirmation").trials
    best = searches.summary("interrupted")["models"]["builtin/nano"]["best"]["trial"]
    assert {(best, 1), (best, 2)} <= {(t.user_attrs["trial"], t.user_attrs["seed"]) for t in runs}


@pytest.mark.faults
def test_a_search_that_a_full_disk_ended_goes_on(searches: Searches, whole: tuple[str, str]) -> None:
    output = searches.folder / "full"
    shutil.copytree(searches.folder / "whole", output)
    larger = ["--resume", "--set", "budget.trials=8"]
    events = output / "events.jsonl"
    events.rename(searches.folder / "events.jsonl")
    events.symlink_to("/dev/full")
    _, err = searches.run("full", *larger, code=1)
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert "--resume" in err
    # Room was made.
    (searches.folder / "events.jsonl").replace(events)
    searches.run("full", *larger)
    assert searches.table("full")[:6] == searches.table("whole")
    assert len(searches.table("full")) >= 8


@pytest.mark.faults
def test_a_search_that_is_interrupted_while_it_prepares_ends_before_the_data_is_prepared(
    tmp_path: Path, holds: Holds
) -> None:
    searches = Searches(tmp_path)
    holds.hold(PREPARATION)
    process = searches.start("early", program=PROGRAM, environment=holds.environment)
    holds.wait(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "interrupted; go on with: python -m search.run" in err


@pytest.mark.integration
def test_the_best_schedule_trains_a_model_as_its_trial_did(
    searches: Searches, whole: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTRODROP_CACHE", str(searches.cache))
    confirmation = searches.summary("whole")["models"]["builtin/nano"]["confirmation"]
    confirmed = confirmation["arms"]["entrodrop" if confirmation["verdict"] == Verdict.BETTER else BASELINE]
    schedule = searches.folder / "whole" / "best_schedule.builtin-nano.yaml"
    assert finetune([str(schedule)]) == 0
    output = tmp_path / "finetuned" / "tiny-best-builtin-nano"
    evaluations = json.loads((output / "losses.json").read_text())["evaluations"]
    trained = {int(metrics["tokens"]): metrics["high_entropy_loss"] for metrics in evaluations}
    trial = searches.study("whole").trials[confirmed["trial"]]
    assert {tokens: trained[tokens] for tokens in trial.intermediate_values} == pytest.approx(
        trial.intermediate_values, abs=1e-4
    )
    assert AutoModelForCausalLM.from_pretrained(output / "model")
    # It is a space as well, in which nothing is left to search.
    assert main([str(schedule), "--dry-run"]) == 0


@pytest.mark.faults
def test_arms_are_compared_in_a_table_and_one_that_diverges_fails_also_with_two_workers_and_behind_a_url(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    decay = "{name: decay, schedule: null, training: {weight_decay: 1.0}}"
    diverging = "{name: diverging, schedule: null, training: {learning_rate: 1.0e+30}}"
    arms = f"arms=[{{name: none, schedule: null}}, {{name: entrodrop}}, {decay}, {diverging}]"
    small = ["--set", "budget.trials=2", "--set", "budget.epochs=2"]
    two = ["--set", "resources.slots=1", "--set", "resources.workers=2"]
    url = f"file://{searches.folder}/arms"
    # MLflow is away until the search has ended, and nothing keeps the password.
    away = ["--set", "tracking.uri=http://me:hunter2@127.0.0.1:9/?token=hunter2"]
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    out, err = searches.run("arms", "--set", arms, *small, *two, *away, "--output", url)
    assert "python -m search.sync" in err
    kept = [path for path in searches.folder.glob("arms/**/*") if path.is_file()]
    assert "hunter2" not in out + err
    assert not [path for path in kept if b"hunter2" in path.read_bytes()]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{searches.folder}/mlflow.db")
    assert sync.main([url]) == 0
    assert f"results: {url}/ (" in out
    assert not list((searches.folder / "arms" / "checkpoints").glob("*/*/*"))
    assert [t.user_attrs["arm"] for t in searches.study("arms").trials].count("entrodrop") == 2
    failed = [t for t in searches.study("arms").trials if t.user_attrs["arm"] == "diverging"]
    assert [(t.state.name, t.user_attrs["reason"]) for t in failed] == [("FAIL", "nan")]
    client = MlflowClient(f"sqlite:///{searches.folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.state = 'failed'")
    assert [(run.info.status, run.data.tags["reason"].partition(":")[0]) for run in runs] == [("FAILED", "nan")]
    assert "failed (the loss is not finite" in out
    assert searches.summary("arms")["models"]["builtin/nano"]["trials"]["failed"] == 1
    confirmation = searches.summary("arms")["models"]["builtin/nano"]["confirmation"]
    assert set(confirmation["arms"]) == {"none", "entrodrop", "decay"}
    row = next(line for line in out.splitlines() if "decay" in line and " to " in line and "confirmed" not in line)
    assert f"{confirmation['arms']['decay']['test']['best']['high_entropy_loss']:.4f}" in row
    assert (searches.folder / "arms" / "verdict.png").stat().st_size > 10_000


@pytest.mark.faults
def test_a_search_that_an_error_ends_has_failed_for_everyone(
    searches: Searches, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    _, err = searches.run("failed", "--set", "budget.tokens=10", code=2)
    assert err.startswith("--set budget.tokens=10: budget.tokens: given 10; allowed: ")
    assert err.count("\n") == 1
    assert status.main([str(searches.folder / "failed")]) == 0
    assert "failed: budget.tokens: given 10; allowed: " in capsys.readouterr().out
    run = MlflowClient(f"sqlite:///{searches.folder}/mlflow.db").get_run(searches.search_run_id("failed"))
    assert run.info.status == "FAILED"
    assert "budget.tokens: given 10" in run.data.tags["mlflow.note.content"]


@pytest.mark.faults
def test_right_answers_are_searched_for_within_a_constraint(tmp_path: Path) -> None:
    space = tiny.space(
        tmp_path,
        objective="exact_match",
        evaluation={"exact_match": 10, "max_new_tokens": 2, "answer_pattern": r"^(\S+)"},
        constraints={"general_loss": 0.5},
        general={"source": "files", "path": "general.jsonl", "template": "{t}", "documents": 8},
        budget={"trials": 3, "epochs": 6},
        training={"batch_size": 2, "sequence_length": 48, "learning_rate": 0.02},
        confirmation={"best": 1, "seeds": 2},
        tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    )
    space["data"] |= {"prompt": "{p} ", "template": "{t}", "answer": "{t}", "train": 20}
    splits, general = tiny.splits(), tiny.splits(7)
    for name, documents in (("data", splits.train + splits.validation + splits.test), ("general", general.train)):
        halves = [(words[:4], words[4:]) for words in (document.text.split() for document in documents)]
        lines = [json.dumps({"p": " ".join(asked), "t": " ".join(answer)}) for asked, answer in halves]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    searches = Searches(tmp_path, space)
    out, _ = searches.run("out")
    summary = searches.summary("out")["models"][str(tmp_path / "tiny")]
    study = searches.study("out", str(tmp_path / "tiny"))
    assert [trial.value for trial in study.trials] == [1 - trial.user_attrs["exact_match"] for trial in study.trials]
    assert [row["objective"] for row in summary["trials_table"]] == [t.user_attrs["exact_match"] for t in study.trials]
    assert 0 < summary["baseline"]["exact_match"] <= 1
    assert summary["baseline"]["general_loss"] > 0
    confirmation = summary["confirmation"]
    for arm in confirmation["arms"].values():
        for read in arm["test"].values():
            assert 0 <= read["exact_match"] <= 1
            assert read["general_loss"] > 0
    own = confirmation["arms"][confirmation["chosen"]]["test"]["final"]["exact_match"]
    without = confirmation["arms"]["none"]["test"]["final"]["exact_match"]
    assert confirmation["difference"]["final"]["mean"] == pytest.approx(own - without)
    assert "share of right test answers against no dropout" in out
    assert "; general loss " in out
    assert "% right (best " in out
    assert "share of right test answers" in (tmp_path / "out" / "report.html").read_text()
    client = MlflowClient(space["tracking"]["uri"])
    run = client.get_run(searches.run_ids("out", 1, str(tmp_path / "tiny"))[0])
    assert run.data.metrics["objective_value"] == run.data.metrics["exact_match"] == summary["baseline"]["exact_match"]
    assert run.data.metrics["objective.general_loss"] == pytest.approx(summary["baseline"]["general_loss"])
