"""A commented space for some data, with what suits it."""

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.drafting.data import FEWEST, MOST, FoundData
from search.hardware import ClusterResources
from search.space import fewest_documents
from trainables.config.command_line import invocation
from trainables.errors import ConfigError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainables.data.formats import Format

# Records that are tokenized.
_TOKENIZED = 2_000
_CONFIDENCE = 0.95
# Characters of a line.
_WIDTH = 120
# What a built-in model's tokenizer is taken for, where the model's own is not here.
_STAND_IN = "builtin/micro"


@dataclass
class Draft:
    """The lines of a space that is written.

    Attributes:
        guesses, asked: lines for the terminal.
    """

    lines: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        self.lines.append(line)

    def block(self, name: str) -> None:
        self.lines += ["", f"{name}:"]
        self._block = f"{name}."

    def put(self, key: str, value: Any, why: str = "", guess: bool = True) -> None:
        """A setting of the block, and why it has this value."""
        told = f"guess: {why}" if guess and why else why
        line = f"  {key}: {_format_value(value)}"
        if not told or len(line) + len(told) < _WIDTH - 5:
            self.lines.append(f"{line}   # {told}" if told else line)
        else:
            self.lines += [*(f"  # {part}" for part in textwrap.wrap(told, _WIDTH - 4)), line]
        if guess and why:
            self.guesses.append(f"{self._block}{key}: {_format_value(value)} ({why})")

    def ask(self, key: str, question: str, indent: str = "  ") -> None:
        """A setting without a value, which the schema refuses."""
        self.lines += [f"{indent}# TO DO: {question}", f'{indent}{key}: ""']
        self.asked.append(f"{key}: {question}")


def draft_space(data: FoundData, named: str, models: Mapping[str, str], output: Path) -> Draft:
    """The space.

    Args:
        named: what the person named.
        models: the names of the models as they stand in the file, by what they are.
    """
    from trainables.data.formats import columns_of, recognize

    count = len(data.records)
    if count < FEWEST:
        counted = f"{count} document{'' if count == 1 else 's'}"
        raise ConfigError(f"{one_line(named)}: given {counted}; allowed: at least {FEWEST}")
    found = recognize(data.records)
    draft = Draft()
    many = f"{count:,}" if data.whole else f"{count:,} and more"
    draft.say(f"# Which EntroDrop schedule suits {_format_comment(named)}? {many} records.")
    draft.say("#")
    draft.say(f"#   {invocation('search.run')} {_format_comment(str(output))}")
    draft.say("#")
    draft.say("# What says guess is one: see whether it is right. All settings: spaces/REFERENCE.md")
    draft.say()
    if models:
        draft.say(f"models: {_format_value(list(models.values()))}")
    else:
        question = "which model, as in [hub:owner/name]? A folder, and builtin/nano and builtin/micro, will do as well"
        draft.ask("models", question, "")
    draft.block("data")
    for key, (value, why) in data.block.items():
        draft.put(key, value, why)
    if found is None:
        columns = ", ".join(columns_of(data.records))
        draft.ask("template", f'which columns are the text, as in "{{answer}}"? There are: {_format_comment(columns)}')
        draft.say('  # prompt: "{question}\\n"    what stands before it, if anything does')
    else:
        _put_format(draft, found)
    train = _put_splits(draft, data)
    lengths, name = _count_tokens(data.records, found, list(models))
    counted_by = f"the tokenizer of {models.get(name, name)}"
    if models and name not in models:
        counted_by = f"{counted_by} (the model's own, which is not here, may make fewer)"
    if found is not None and "messages" in found.settings:
        counted_by = f"{counted_by}; a chat template may add some"
    epochs = 12 if train <= 100 else 8 if train <= 1000 else 4 if train <= 10_000 else 2
    draft.block("budget")
    draft.put("trials", 8, "full ones for each model; trial 0 is the baseline without dropout", guess=False)
    draft.put("epochs", epochs, f"about {train:,} documents to train on; with less data, more epochs show the rebound")
    _put_training(draft, list(models), lengths, counted_by, train)
    draft.say()
    objective, why = ("best", "the loss falls, then rises: what counts is the best evaluation, which you would keep")
    if epochs < 4:
        objective, why = "final", "in so few epochs the loss hardly rises again: what counts is the end"
    draft.lines += [f"# guess: {why}", f"objective: {objective}"]
    draft.guesses.append(f"objective: {objective} ({why})")
    if found is not None and found.answer:
        _say_answers(draft, found)
    _put_resources(draft, list(models))
    draft.say()
    draft.say("tracking:")
    draft.say(f"  experiment: {_format_value(f'entrodrop-{output.stem}')}   # in MLflow")
    return draft


def _put_format(draft: Draft, found: "Format") -> None:
    words = f"{found.name}, by the column{'s' if len(found.columns) > 1 else ''} {', '.join(found.columns)}"
    gaps = f"; {found.gaps} records lack one of them" if found.gaps else ""
    for index, (key, value) in enumerate(found.settings.items()):
        draft.put(key, value, _format_comment(words + gaps) if not index else "")
    if "prompt" in found.settings:
        draft.put("train_on_prompt", False, "the model reads a prompt, and learns its answer")


def _put_splits(draft: Draft, data: FoundData) -> int:
    """The splits. Returns about how many documents there are to train on."""
    left = count = len(data.records)
    draft.put("train", "all", "that the other splits leave", guess=False)
    fewest = fewest_documents(_CONFIDENCE)
    for split, purpose in (("validation", "they choose the settings"), ("test", "they decide the verdict")):
        if split in data.held_out:
            setting, documents = data.held_out[split]
            draft.put(split, setting, f"{documents} documents; {purpose}")
            continue
        share = 0.2 if split == "test" or count < 500 else 0.1
        if count * share > MOST[split]:
            taken: int | float = MOST[split]
        else:
            taken = share if count * share >= fewest else fewest
        left -= math.floor(taken * count) if isinstance(taken, float) else taken
        draft.put(split, taken, f"there is no such split beside the data; {purpose}")
    return left


def _count_tokens(
    records: Sequence[Mapping[str, Any]], found: "Format | None", models: Sequence[str]
) -> tuple[list[int], str]:
    """Tokens of some of the documents, in order, and whose tokenizer says so; none if the text is not known."""
    from trainables.data.formats import chat_text
    from trainables.data.templates import Templates

    if found is None:
        return [], ""
    sample = records[:: max(1, len(records) // _TOKENIZED)]
    if "messages" in found.settings:
        column = found.settings["messages"]
        texts = [chat_text(record[column]) for record in sample if isinstance(record.get(column), list)]
    else:
        templates = Templates(found.settings["template"], found.settings.get("prompt"))
        placed = ((f"record {number}", record) for number, record in enumerate(sample, 1))
        texts = [
            document.prompt + document.text
            for document in templates.documents(placed, "the data")
            if document.text.strip()
        ]
    if not texts:
        return [], ""
    name, tokenizer = _find_tokenizer(models)
    return sorted(len(ids) + 1 for ids in tokenizer(texts)["input_ids"]), name


def _find_tokenizer(models: Sequence[str]) -> "tuple[str, PreTrainedTokenizerBase]":
    """The tokenizer of the first model that is here, or else of a built-in one."""
    from trainables.models.architectures import ARCHITECTURES
    from trainables.models.builtin import unweighted
    from trainables.models.loading import load_tokenizer
    from trainables.models.resolve import is_at_hand, model_folder
    from trainables.storage.cache import default_root

    for name in models:
        if name not in ARCHITECTURES and is_at_hand(name):
            return name, load_tokenizer(model_folder(name, default_root()))
    name = next((name for name in models if name in ARCHITECTURES), _STAND_IN)
    return name, unweighted(name)[1]


def _put_training(draft: Draft, models: Sequence[str], lengths: Sequence[int], counted_by: str, train: int) -> None:
    real = [name for name in models if not name.startswith("builtin/")]
    draft.block("training")
    if real:
        why = "usual for a pretrained model; {low: 0.00001, high: 0.0001, log: true} would search it"
        draft.put("learning_rate", 0.00005, why)
        draft.put("precision", "bf16", "usual for a pretrained model")
    length, rows = 512, train
    if lengths:
        covered, longest = lengths[math.ceil(0.95 * len(lengths)) - 1], lengths[-1]
        length = max(64, 64 * math.ceil(covered / 64))
        if (most := _find_context(models)) is not None:
            length = min(length, most)
        why = f"95 % of the documents have at most {covered} tokens, the longest {longest}"
        why = f"{why}, by {counted_by}"
        rows = math.ceil(sum(lengths) / len(lengths) * train / length)
        draft.put("sequence_length", length, _format_comment(why))
    batch = 4 if rows < 64 else 8 if rows < 512 else 16
    draft.put("batch_size", batch, f"an epoch has about {rows:,} rows, and so {math.ceil(rows / batch):,} steps")


def _find_context(models: Sequence[str]) -> int | None:
    """The longest row that all models were made for, as far as it is known here."""
    from trainables.models.architectures import ARCHITECTURES
    from trainables.models.loading import context_length
    from trainables.models.resolve import is_at_hand, model_folder
    from trainables.storage.cache import default_root

    known = [ARCHITECTURES[name].context for name in models or [_STAND_IN] if name in ARCHITECTURES]
    here = [name for name in models if name not in ARCHITECTURES and is_at_hand(name)]
    known += [most for name in here if (most := context_length(model_folder(name, default_root()))) is not None]
    return min(known, default=None)


def _say_answers(draft: Draft, found: "Format") -> None:
    """What counts right answers, as comments: it takes time."""
    pattern = found.answer.get("answer_pattern")
    settings = {"exact_match": 20, **({"answer_pattern": pattern} if pattern else {})}
    draft.say()
    draft.say("# To count right answers at the end of each run, add to data:")
    draft.say(f"#   answer: {_format_value(found.answer['answer'])}")
    draft.say(f"# and: evaluation: {_format_value(settings)}")


def _put_resources(draft: Draft, models: Sequence[str]) -> None:
    there = ClusterResources.here(with_gpus=True).resources
    cpus, gpus = int(there["CPU"]), int(there["GPU"])
    draft.block("resources")
    if gpus:
        draft.put("slots", "auto", f"as many trials at a time as the {gpus} GPUs of this machine are enough for")
        draft.put("workers", "auto", "for each model the fewest GPUs that hold it", guess=False)
        draft.put("gpus_per_worker", 1)
    elif all(name.startswith("builtin/") for name in models) and models:
        draft.put("slots", min(cpus, 8), f"trials at a time; this machine has {cpus} CPU cores and no GPU")
        draft.put("cpus_per_worker", 1)
    else:
        draft.put("slots", 1, f"a trial at a time, with all of the {cpus} CPU cores of this machine, which has no GPU")
        draft.put("cpus_per_worker", cpus)


def _format_value(value: Any) -> str:
    """A value as YAML on one line."""
    match value:
        case dict():
            return f"{{{', '.join(f'{key}: {_format_value(one)}' for key, one in value.items())}}}"
        case list():
            return f"[{', '.join(map(_format_value, value))}]"
        case str() if re.fullmatch(r"[A-Za-z][\w./-]*(:[\w./-]+)?", value) and value.lower() not in (
            "true",
            "false",
            "null",
        ):
            return value
        case str():
            quoted = json.dumps(value, ensure_ascii=False)
            return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
        case float():
            return f"{value:.10f}".rstrip("0")
    return json.dumps(value)


def _format_comment(text: str) -> str:
    return one_line(text, 300)
