"""What --dry-run says that a search would do and take, here or on GPUs that are elsewhere."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from search.learned_text import describe_split
from search.run import main
from tests import ROOT, tiny
from tests.search.commands import SMALL, refused
from trainables.data.packing import Packed
from trainables.models.loading import load_tokenizer

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.faults
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


def test_the_plan_says_how_many_documents_are_in_each_split(capsys: pytest.CaptureFixture[str]) -> None:
    for name, numbers in (("train", range(40)), ("test", range(38, 50))):
        lines = [json.dumps({"q": f"What is {n} and {n}?"}) for n in numbers]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    data = 'source: files, path: train.jsonl, template: "{q}", train: all, validation: 0.25, test: {path: test.jsonl}'
    Path("space.yaml").write_text(f"models: [builtin/nano]\ndata: {{{data}}}\nbudget: {{trials: 3, epochs: 2}}\n")
    assert main(["space.yaml", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "documents 29 train, 9 validation, 12 test\n" in plan
    note = "          2 documents in train.jsonl are left out, as their text or prompt is in data.test; the first"
    assert f"{note}: 'What is " in plan


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


@pytest.mark.faults
def test_the_plan_says_what_each_part_costs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL + ARMS)
    plan = planned(capsys)
    assert plan["builtin/nano:"] == "7 trials of 2 epochs"
    assert plan["arms"] == "none 1, entrodrop 3, wd 3"
    trial = tokens(plan["a"])
    assert trial > 100
    assert tokens(plan["search"]) == 7 * trial
    # The baseline, and the two best settings of two arms, with six seeds each at most.
    assert plan["confirm"].startswith("at most 30 runs; ")
    assert tokens(plan["confirm"]) == 30 * trial
    assert tokens(plan["in"]) == 37 * trial
    assert re.match(r"differences from about 0\.\d+ nats at the best evaluation, ", plan["tells"])
    for part in ("a", "search", "confirm", "in"):
        assert "of device time" in plan[part]
    assert "limits" not in plan
    assert "confirm" not in planned(capsys, "confirmation=null")


@pytest.mark.faults
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


@pytest.mark.faults
def test_each_setting_has_a_baseline_of_its_learning_rate_where_that_is_searched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("space.yaml").write_text(SMALL)
    assert planned(capsys)["confirm"].startswith("at most 18 runs; ")
    rate = "training.learning_rate={low: 0.0001, high: 0.01, log: true}"
    assert planned(capsys, rate)["confirm"].startswith("at most 30 runs; ")


@pytest.mark.faults
def test_a_plan_with_fewer_trials_than_samples(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    trial = tokens(planned(capsys)["a"])
    plan = planned(capsys, "budget.trials=9", f"budget.tokens={trial}")
    assert {"0:", "1:"} <= set(plan)
    assert "2:" not in plan


SPACES = ROOT / "spaces"


@pytest.mark.faults
@pytest.mark.parametrize("domain", ["math", "code", "general"])
def test_the_domains_on_built_in_models_are_planned_as_they_stand(
    domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(SPACES / f"{domain}.yaml"), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"search {domain}: builtin/nano, builtin/micro; seed 0\n")
    assert "expected" in out
    assert err == ""


@pytest.mark.faults
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


@pytest.mark.faults
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


@pytest.mark.faults
def test_what_gpus_may_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    assert "add --dry-run" in refused(capsys, ["space.yaml", "--gpus", "8xH100"])
    assert "did you mean '8xH100'?" in refused(capsys, ["space.yaml", "--dry-run", "--gpus", "8xH10"])
    line = refused(capsys, ["space.yaml", "--dry-run", "--gpus", "8xH100"])
    assert line == "space.yaml:2: resources.gpus_per_worker: given 0; allowed: above 0, with --gpus"
    halves = ["--dry-run", "--gpus", "1xL4", "--set", "resources.gpus_per_worker=0.5"]
    line = refused(capsys, ["space.yaml", *halves, "--set", "resources.slots=3"])
    assert "resources.slots: given 3; allowed: at most 2: each takes 0.5 of the 1 GPUs there are" in line
    few = ["--dry-run", "--gpus", "1xH100", "--set", "models=[hub:Qwen/Qwen3-8B]", "--set", "resources.workers=auto"]
    line = refused(capsys, ["space.yaml", *few, "--set", "resources.gpus_per_worker=1"])
    assert "resources.workers: hub:Qwen/Qwen3-8B fits with no number of workers: it takes " in line


@pytest.mark.parametrize("presentation", ["input", "input_mask_token"])
def test_the_plan_knows_the_mask_token(presentation: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    given = ["schedule.mask_token=<none>", f"schedule.presentation={presentation}"]
    line = refused(capsys, ["space.yaml", "--dry-run", *(f"--set={override}" for override in given)])
    assert line.startswith("--set schedule.mask_token=<none>: schedule.mask_token: given <none>; allowed: one token of")


def test_the_plan_knows_how_often_an_epoch_can_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(SMALL)
    line = refused(capsys, ["space.yaml", "--dry-run", "--set=evaluation.per_epoch=5"])
    allowed = "at most 1, the optimizer steps in an epoch of builtin/nano"
    assert line.endswith(f"evaluation.per_epoch: given 5; allowed: {allowed}")


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
    told = "this one has a token 5000 (more), and its embedding (vocab_size in config.json) has 58 from 0 on"
    assert told in refused(capsys, ["space.yaml", "--dry-run"])


def write_chats(folder: Path) -> None:
    """A space for the model "tiny" with chats, and some that are too long for a row."""
    tiny.save("tiny", folder / "tiny")
    chats = tiny.chats()
    messages = [d.chat.messages for d in (*chats.train, *chats.validation, *chats.test) if d.chat is not None]
    lines = [json.dumps({"messages": list(each)}) for each in messages]
    (folder / "chats.jsonl").write_text("\n".join(lines))
    (folder / "own.jinja").write_text(tiny.CHAT_TEMPLATE)
    data = {"source": "files", "path": "chats.jsonl", "train": 20, "validation": 10, "test": 6}
    space = {
        "models": ["./tiny"],
        "data": {**data, "chat_template": "own.jinja"},
        "training": {"batch_size": 2, "sequence_length": 24},
        "confirmation": None,
    }
    (folder / "space.yaml").write_text(json.dumps(space))


def test_the_plan_shows_what_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    write_chats(Path.cwd())
    assert main(["space.yaml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tokens    \u27e6learned, may be dropped\u27e7, \u27e8learned, never dropped\u27e9, read only" in lines
    documents = tiny.chats()
    known = {d.text: d for d in (*documents.train, *documents.validation, *documents.test)}
    for split, count in (("train", 20), ("validation", 10), ("test", 6)):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  {split}: "))
        found = re.fullmatch(
            rf"  {split}: {count} documents, (the longest of \d+ tokens of at most 24|"
            r"\d+ of them longer than training.sequence_length \(24 tokens\), and cut)",
            lines[at],
        )
        assert found is not None
        dropped = r", of which (\d+) may be dropped \(\d+%\)" if split == "train" else "()"
        counts = re.fullmatch(
            rf"    one of them: (\d+) tokens, (\d+) learned \(\d+%\){dropped}, (\d+) read only \(\d+%\)", lines[at + 2]
        )
        assert counts is not None
        total, learned, droppable, read = (int(number or 0) for number in counts.groups())
        assert total == learned + read
        begin, end = "\u27e6\u27e7" if split == "train" else "\u27e8\u27e9"
        closing = "(\u27e8 <end>\u27e9)?" if split == "train" else "( <end>)?"
        closing = f"{end}{closing}" if split == "train" else f"{closing}{end}"
        shown = re.fullmatch(
            rf"    \| <unknown> <unknown> (.*) <end> <unknown> <unknown>{begin} ((?:(?! <end>)[^{end}])*){closing}",
            lines[at + 3],
        )
        assert shown is not None
        (document,) = [d for text, d in known.items() if text.startswith(shown[2]) and d.prompt == shown[1]]
        assert droppable == (len(shown[2].split()) if split == "train" else 0)
        assert learned == len(shown[2].split()) + (shown[3] is not None)
        assert (document.text == shown[2]) == (shown[3] is not None)


def test_on_a_terminal_colours_show_what_is_learned() -> None:
    packed = Packed(
        *(torch.tensor([row]) for row in ([1, 2, 3, 4, 0, 0], [0, 0, 0, 0, 0, -1], [0, 1, 2, 3, 4, 0])),
        special_RT=torch.tensor([[False, False, False, False, True, False]]),
        trained_RT=torch.tensor([[False, False, True, True, True, False]]),
    )
    lines = list(describe_split("train", packed, 0, tiny.tokenizer(), coloured=True))
    assert lines[0].plain == "  train: 1 documents, the longest of 5 tokens of at most 6"
    counts = "5 tokens, 3 learned (60%), of which 2 may be dropped (40%), 2 read only (40%)"
    assert [line.plain for line in lines[1:3]] == [f"    all of them: {counts}", f"    one of them: {counts}"]
    styled = {str(span.style): lines[3].plain[span.start : span.end] for span in lines[3].spans}
    assert styled == {"dim": "<unknown> has", "green": " buys more", "yellow": " <end>"}
    marked = list(describe_split("train", packed, 0, tiny.tokenizer(), coloured=False))
    assert marked[3].plain == "    | <unknown> has\u27e6 buys more\u27e7\u27e8 <end>\u27e9"
    assert marked[3].spans == []
    held_out = list(describe_split("test", packed, 1, tiny.tokenizer(), coloured=False, drops=False))
    assert (
        held_out[0].plain == "  test: 1 documents, 1 of them longer than training.sequence_length (6 tokens), and cut"
    )
    assert held_out[1].plain == "    all of them: 5 tokens, 3 learned (60%), 2 read only (40%)"
    assert held_out[3].plain == "    | <unknown> has\u27e8 buys more <end>\u27e9"


def swap_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["anna"], vocabulary["ben"] = vocabulary["ben"], vocabulary["anna"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def not_finite(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] *= torch.nan
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def more_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"mask_token": "<new>", "eos_token": "<close>"})
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("model", "damage", "told"),
    [
        (
            "other",
            swap_tokens,
            "schedule.reference: {folder}/other has another tokenizer than {folder}/tiny; name",
        ),
        (
            "tiny",
            not_finite,
            "models: given {folder}/tiny; allowed: a model with finite weights: the loss of this",
        ),
        ("tiny", more_tokens, "schedule.presentation: the tokenizer has no mask token that the model has an embedding"),
    ],
)
def test_a_dry_run_finds_what_a_trial_would_end_with(
    model: str, damage: Callable[[Path], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {"reference": "./other"} if model == "other" else {"presentation": ["input_mask_token"]}
    here = Path.cwd()
    Path("space.yaml").write_text(json.dumps(tiny.space(here, schedule=schedule)))
    damage(here / model)
    assert main(["space.yaml", "--dry-run"]) == 2
    assert told.format(folder=here) in capsys.readouterr().err.replace(str(here.resolve()), str(here))


def test_a_dry_run_for_gpus_looks_at_the_weights_too(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path.cwd()
    Path("space.yaml").write_text(json.dumps(tiny.space(here, resources={"gpus_per_worker": 1, "slots": 1})))
    assert main(["space.yaml", "--dry-run", "--gpus", "1xH100"]) == 0
    not_finite(here / "tiny")
    assert main(["space.yaml", "--dry-run", "--gpus", "1xH100"]) == 2
    assert "allowed: a model with finite weights" in capsys.readouterr().err
