"""One run without a search, by its command line."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from tests import tiny
from trainables import finetune
from trainables.config.recipe import load_recipe
from trainables.errors import DataError
from trainables.finetune import main
from trainables.models.loading import load_tokenizer
from trainables.training.run import Run

RECIPE = """\
name: tiny
models: [builtin/nano]
data: {source: files, path: data.txt, template: "{text}", train: 24, validation: 10, test: 10}
budget: {epochs: 4}
training: {learning_rate: 0.01, sequence_length: 48, batch_size: 4}
schedule:
  entropy_threshold: {quantile: 0.5}
  mask_ratio: 0.5
  curriculum: [{shape: linear}]
"""

# Six documents, eight times: the last weights are not the best ones.
REBOUND = [
    f"--set={one}" for one in ("schedule=null", "data.train=6", "budget.epochs=8", "training.learning_rate=0.05")
]


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTRODROP_CACHE", str(cache))
    Path("tiny.yaml").write_text(RECIPE)
    splits = tiny.splits()
    documents = {d.text for d in (*splits.train, *splits.validation, *splits.test)}
    # More than are asked for, as some of the random ones are alike.
    documents |= {d.text for d in tiny.splits(1).train}
    Path("data.txt").write_text("\n".join(sorted(documents)))
    # Made before a test looks at what is printed.
    tiny.folder("tiny", cache)
    with mock.patch("trainables.preparation.prepare.model_folder", lambda _, *how: tiny.folder("tiny", *how)):
        yield


def losses(folder: str) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((Path(folder) / "losses.json").read_text())["evaluations"]
    return [{name: value for name, value in metrics.items() if name != "tokens_per_s"} for metrics in history]


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int = 2) -> str:
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err.strip()


def test_entropies_are_computed_on_the_device_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRODROP_CACHE", str(tmp_path / "new"))
    config, device = load_recipe("tiny.yaml").config, torch.device("meta")
    with (
        mock.patch(
            "trainables.preparation.scoring.score_folder", side_effect=DataError("data", "seen", "more")
        ) as scorer,
        pytest.raises(DataError, match="seen"),
    ):
        finetune._prepare(config, Console(quiet=True), device)
    assert scorer.call_args.kwargs == {"device": device}


@pytest.mark.integration
def test_the_best_weights_are_kept_and_load_with_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", *REBOUND]) == 0
    output = Path("finetuned/tiny")
    assert sorted(path.name for path in output.iterdir()) == ["losses.json", "losses.png", "model", "resolved.yaml"]
    high = [metrics["high_entropy_loss"] for metrics in losses("finetuned/tiny")]
    best = high.index(min(high))
    assert best < len(high) - 1
    model = AutoModelForCausalLM.from_pretrained(output / "model")
    tokenizer = load_tokenizer(output / "model")
    out = capsys.readouterr().out
    assert f"best at epoch {best + 1}: high-entropy loss {min(high):.4f}" in out
    assert "epoch 8/8" in out
    assert "left" in out

    # The kept weights have the loss of the best epoch.
    with mock.patch("trainables.preparation.prepare.model_folder", return_value=output / "model"):
        assert main(["tiny.yaml", *REBOUND, "--output", "again"]) == 0
    before = json.loads(Path("again/losses.json").read_text())["before"]
    assert before["loss"] == pytest.approx(losses("finetuned/tiny")[best]["loss"], rel=1e-5)
    assert (output / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert model.config.vocab_size >= len(tokenizer)


@pytest.mark.faults
def test_adapters_are_merged_into_the_weights() -> None:
    lora = "training.lora={rank: 4, alpha: 8, target_modules: [q_proj, up_proj]}"
    assert main(["tiny.yaml", "--set", lora]) == 0
    model = AutoModelForCausalLM.from_pretrained("finetuned/tiny/model")
    base = AutoModelForCausalLM.from_pretrained(tiny.folder("tiny", Path(os.environ["ENTRODROP_CACHE"])))
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, base.get_parameter(n))]
    assert changed
    assert all("q_proj" in name or "up_proj" in name for name in changed)
    adapted = PeftModel.from_pretrained(base, "finetuned/tiny/model/adapter")
    token_1T = torch.arange(1, 20).unsqueeze(0)
    torch.testing.assert_close(adapted(token_1T).logits, model(token_1T).logits, rtol=1e-4, atol=1e-4)


def test_adapters_on_unknown_layers_are_told_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", "--set", "training.lora={rank: 4, alpha: 8, target_modules: [lm_head]}"]) == 2
    told = capsys.readouterr().err
    assert "training.lora.target_modules: given 'lm_head'; allowed: linear layers of the decoder of qwen3: " in told
    assert told.count("\n") == 1
    assert not Path("finetuned/tiny").exists()


def test_general_documents_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    general = "general={source: files, path: general.txt, template: '{text}', documents: 3}"
    Path("general.txt").write_text("anna loses 3 books .\nben loses 4 coins .\ncarla loses 7 apples .\n")
    assert main(["tiny.yaml", "--set", general]) == 0
    assert all(metrics["general_loss"] > 0 for metrics in losses("finetuned/tiny"))
    assert ", general " in capsys.readouterr().out


@pytest.mark.faults
def test_an_interrupted_run_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", "--output", "whole"]) == 0
    advance = Run.advance
    turns = iter([None, None, KeyboardInterrupt()])

    def interrupted(run: Run, *arguments: Any) -> dict[str, float]:
        if (end := next(turns)) is not None:
            raise end
        return advance(run, *arguments)

    with mock.patch.object(Run, "advance", interrupted):
        line = refused(capsys, ["tiny.yaml", "--output", "half"], code=130)
    command = "python -m trainables.finetune tiny.yaml --output half --resume"
    assert line == f"interrupted; go on with: {command}"
    assert len(losses("half")) == 2
    assert main(command.split()[3:]) == 0
    assert losses("half") == losses("whole")
    ours, whole = (AutoModelForCausalLM.from_pretrained(f"{folder}/model") for folder in ("half", "whole"))
    assert all(map(torch.equal, ours.parameters(), whole.parameters()))


@pytest.mark.faults
def test_a_run_interrupted_before_its_first_evaluation_goes_on() -> None:
    assert main(["tiny.yaml", "--output", "whole"]) == 0
    with mock.patch.object(Run, "progress", property(mock.Mock(side_effect=KeyboardInterrupt))):
        assert main(["tiny.yaml", "--output", "half"]) == 130
    assert sorted(path.name for path in Path("half").iterdir()) == ["resolved.yaml"]
    assert main(["tiny.yaml", "--output", "half", "--resume"]) == 0
    assert losses("half") == losses("whole")
    assert main(["tiny.yaml", "--output", "half", "--resume"]) == 2, "it has ended"


@pytest.mark.faults
def test_a_run_killed_before_it_wrote_down_its_last_evaluation_writes_it_when_it_goes_on() -> None:
    record = finetune._record
    turns = iter([record, record, record, mock.Mock(side_effect=KeyboardInterrupt)])
    with mock.patch.object(finetune, "_record", lambda *what: next(turns)(*what)):
        assert main(["tiny.yaml"]) == 130
    assert len(losses("finetuned/tiny")) == 3
    assert main(["tiny.yaml", "--resume"]) == 0
    assert len(losses("finetuned/tiny")) == 4
    assert not Path("finetuned/tiny/checkpoint").exists()


def test_a_full_disk_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(Run, "save", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        line = refused(capsys, ["tiny.yaml"], code=1)
    assert line.startswith("the run cannot go on: [Errno 28] No space left on device; then go on with: python -m")


def cut_short(folder: Path) -> None:
    (folder / "checkpoint" / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "override", "told"),
    [
        (
            lambda _: None,
            "seed=1",
            "half/checkpoint belongs to another run; name the folder of",
        ),
        (cut_short, "seed=0", "half/checkpoint cannot be read: "),
    ],
)
def test_a_wrong_checkpoint_is_refused(
    damage: Callable[[Path], None], override: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(Run, "progress", property(mock.Mock(side_effect=[0.0, *[0.1] * 6, KeyboardInterrupt]))):
        assert main(["tiny.yaml", "--output", "half"]) == 130
    damage(Path("half"))
    before = sorted(Path("half").rglob("*"))
    capsys.readouterr()
    assert told in refused(capsys, ["tiny.yaml", "--output", "half", "--resume", "--set", override])
    assert sorted(Path("half").rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.yaml"], "there is no such file"),
        (["tiny.yaml", "--resume"], "--resume: finetuned/tiny holds no run to go on with"),
        (["tiny.yaml", "--output", "."], "--output: . already holds something"),
        (["tiny.yaml", "--output", "data.txt/a"], "--output: data.txt/a cannot be written"),
        (["tiny.yaml", "--output", "x" * 300], "cannot be read (File name too long)"),
        (["tiny.yaml", "--set", "data.path=none.txt"], "data.path: given none.txt; allowed: a readable UTF-8 file"),
        (["tiny.yaml", "--set", "data.template='{txt}'"], "the columns of data.txt: text; did you mean 'text'?"),
        (["tiny.yaml", "--set", "training.sequence_length=65"], "_length: given 65; allowed: at most 64, the"),
        (["tiny.yaml", "--set", "evaluation.per_epoch=9"], "evaluation.per_epoch: given 9; allowed: at most"),
        (["tiny.yaml", "--set", "schedule.mask_token=<none>"], "schedule.mask_token: given <none>; allowed: one token"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "mask_token" in arguments[-1]:
        arguments = [*arguments, "--set", "schedule.presentation=input_mask_token"]
    before = sorted(tmp_path.rglob("*"))
    assert told in refused(capsys, arguments)
    assert sorted(tmp_path.rglob("*")) == before, "something was written"


def test_a_diverged_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", "--set", "training.learning_rate=1.0e+30"]) == 1
    assert "a lower training.learning_rate may help" in capsys.readouterr().out


@pytest.mark.faults
def test_ray_is_not_needed() -> None:
    check = "import sys, trainables.finetune, trainables.training.run; "
    check += "sys.exit('ray' in sys.modules or 'mlflow' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", check], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ).returncode
        == 0
    )


def test_what_is_trained_on_chats_is_saved_with_their_template(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    documents = tiny.chats()
    chats = [d.chat.messages for d in (*documents.train, *documents.validation, *documents.test) if d.chat]
    Path("chats.jsonl").write_text("\n".join(json.dumps({"conversations": json.dumps(chat)}) for chat in chats))
    Path("own.jinja").write_text(tiny.CHAT_TEMPLATE)
    text = RECIPE.replace('path: data.txt, template: "{text}"', "path: chats.jsonl, chat_template: own.jinja")
    text = text.replace("train: 24", "train: 20").replace("test: 10", "test: 6")
    Path("chats.yaml").write_text(text + "evaluation: {exact_match: 3}\n")
    assert main(["chats.yaml", "--output=out", "--set=budget.epochs=1", "--set=training.sequence_length=24"]) == 0
    printed = capsys.readouterr().out
    assert "answers" in printed
    assert "cut at training.sequence_length: " in printed
    tokenizer = load_tokenizer(Path("out/model"))
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    # The folder is a model to fine-tune further, with the template that it has by now.
    again = text.replace("builtin/nano", "./out/model").replace(", chat_template: own.jinja", "")
    Path("again.yaml").write_text(again)
    with mock.patch("trainables.preparation.prepare.model_folder", lambda name, *_: Path(name)):
        assert main(["again.yaml", "--output=again", "--set=budget.epochs=1"]) == 0
    line = refused(capsys, ["again.yaml", "--output=none", "--set=models=[builtin/nano]"])
    assert line.endswith("the tokenizer of builtin/nano has no chat template; give one here, as text or as a file")
