"""A commented space for some data, with what suits it."""

import json
import math
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.drafting.data import FEWEST, MOST, FoundData
from search.hardware import ClusterResources
from search.space import fewest_documents
from trainables.config.command_line import invocation
from trainables.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainables.data.documents import Document, Reader
    from trainables.data.formats import Format

# Records that are tokenized, and that are searched for final answers.
_TOKENIZED, _ANSWERS = 2_000, 200
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
    from trainables.data.documents import alike
    from trainables.data.formats import columns_of, recognize

    found = recognize(data.records)
    documents = _read_documents(data.records, found)
    count = len({alike(d.prompt + d.text) for d in documents}) if documents else len(data.records)
    if count < FEWEST:
        counted = f"{count} document{'' if count == 1 else 's'}"
        if count < len(data.records):
            counted = f"{len(data.records)} records with {count} different document{'' if count == 1 else 's'}"
        raise ConfigError(f"{one_line(named)}: given {counted}; allowed: at least {FEWEST}")
    draft = Draft()
    more = "" if data.whole else " and more"
    draft.say(f"# Which EntroDrop schedule suits {_format_comment(named)}? {count:,}{more} different records.")
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
        *before, example = _find_examples(data.records) or ["{answer}"]
        question = f"which columns are the text, as in {_format_value(example)}? There are: {columns}"
        draft.ask("template", _format_comment(question))
        if before:
            prompt = _format_comment(_format_value(f"{before[0]}\n"))
            draft.say(f"  # prompt: {prompt}    what stands before it, if anything does")
    else:
        _put_format(draft, found)
    name, tokenizer = _find_tokenizer(list(models)) if documents else ("", None)
    shown, is_own = models.get(name, name), name in models
    has_chats = found is not None and "messages" in found.settings
    if has_chats and is_own and tokenizer is not None and not tokenizer.chat_template:
        question = f"which chat template, as text or as a file? The tokenizer of {shown} has none"
        draft.ask("chat_template", question)
    train = _put_splits(draft, data, found, count)
    lengths = _count_tokens(documents, tokenizer, shown)
    counted_by = f"the tokenizer of {shown}"
    if models and not is_own:
        counted_by = f"{counted_by} (the model's own, which is not here, may make fewer)"
    if has_chats and tokenizer is not None and not tokenizer.chat_template:
        counted_by = f"{counted_by}; a chat template may add some"
    epochs = 12 if train <= 100 else 8 if train <= 1000 else 4 if train <= 10_000 else 2
    draft.block("budget")
    draft.put("trials", 8, "full ones for each model; trial 0 is the baseline without dropout", guess=False)
    many = f"{'about' if data.whole else 'more than'} {train:,} documents to train on"
    draft.put("epochs", epochs, f"{many}; with less data, more epochs show the rebound")
    _put_training(draft, list(models), lengths, counted_by, train)
    draft.say()
    objective, why = ("best", "the loss falls, then rises: what counts is the best evaluation, which you would keep")
    if epochs < 4:
        objective, why = "final", "in so few epochs the loss hardly rises again: what counts is the end"
    draft.lines += [f"# guess: {why}", f"objective: {objective}"]
    draft.guesses.append(f"objective: {objective} ({why})")
    if found is not None and found.answer:
        _say_answers(draft, found, data.records)
    _put_resources(draft, list(models))
    draft.say()
    draft.say("tracking:")
    draft.say(f"  experiment: {_format_value(f'entrodrop-{output.stem}')}   # in MLflow")
    return draft


def _put_format(draft: Draft, found: "Format") -> None:
    words = f"{found.name}, by the column{'s' if len(found.columns) > 1 else ''} {', '.join(found.columns)}"
    gaps = f"; {found.gaps} records lack one of them" if found.gaps else ""
    if found.unused:
        gaps += f"; not used: {', '.join(found.unused)}"
    for index, (key, value) in enumerate(found.settings.items()):
        draft.put(key, value, _format_comment(words + gaps) if not index else "")
    if "prompt" in found.settings:
        draft.put("train_on_prompt", False, "the model reads a prompt, and learns its answer")


def _put_splits(draft: Draft, data: FoundData, found: "Format | None", count: int) -> int:
    """The splits. Returns about how many documents there are to train on.

    Args:
        count: different documents of the data.
    """
    left = count
    draft.put("train", "all", "that the other splits leave", guess=False)
    fewest = fewest_documents(_CONFIDENCE)
    for split, purpose in (("validation", "they choose the settings"), ("test", "they decide the verdict")):
        why = "there is no such split beside the data"
        if (own := data.held_out.get(split)) is not None:
            missing = [column for column in (found.columns if found is not None else ()) if column not in own.columns]
            if not missing and own.documents >= fewest:
                draft.put(split, own.setting, f"{own.documents} documents; {purpose}")
                continue
            has = f"has no column {missing[0]}" if missing else f"has {own.documents} documents, fewer than {fewest}"
            why = _format_comment(f"{own.named} {has}")
        share = 0.2 if split == "test" or count < 500 else 0.1
        if count * share > MOST[split]:
            taken: int | float = MOST[split]
        else:
            taken = share if count * share >= fewest else fewest
        left -= math.floor(taken * count) if isinstance(taken, float) else taken
        draft.put(split, taken, f"{why}; {purpose}")
    return left


def _find_examples(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns as they stand in a template, or the first value within each; the likeliest text is the last."""
    from trainables.data.formats import columns_of, format_column

    found: list[tuple[bool, bool, str]] = []
    for name in columns_of(records):
        value = next((record[name] for record in records if record.get(name) not in (None, [], {})), None)
        keys: list[str] = []
        while isinstance(value, Mapping | list) and value:
            key, value = next(iter(value.items())) if isinstance(value, Mapping) else (0, value[0])
            keys.append(str(key))
        field = f"{{{name}{''.join(f'[{key}]' for key in keys)}}}" if keys else format_column(name, optional=False)
        # What lies within a column can be named if no name has brackets.
        if not keys or not re.search(r"[][{}]", "".join([name, *keys])):
            found.append((bool(keys), isinstance(value, str), field))
    return [field for *_, field in sorted(found, key=lambda one: one[:2])]


def _read_documents(records: Sequence[Mapping[str, Any]], found: "Format | None") -> "list[Document]":
    """The documents; none if the format is not known, or if one of them cannot be read: the dry run tells why."""
    from trainables.data.chats import Chats
    from trainables.data.templates import Templates

    if found is None:
        return []
    reader: Reader = Chats(found.settings.get("messages"))
    if "template" in found.settings:
        reader = Templates(found.settings["template"], found.settings.get("prompt"))
    placed = ((f"record {number}", record) for number, record in enumerate(records, 1))
    try:
        return [document for document in reader.documents(placed, "the data") if document.text.strip()]
    except DataError:
        return []


def _count_tokens(
    documents: "Sequence[Document]", tokenizer: "PreTrainedTokenizerBase | None", model: str
) -> list[int]:
    """Tokens of some of the documents, in order."""
    from trainables.data.chat_tokens import ChatTokenizer
    from trainables.data.formats import chat_text

    sample = documents[:: max(1, len(documents) // _TOKENIZED)]
    if tokenizer is None:
        return []
    chats = ChatTokenizer(tokenizer, None, model)
    try:
        if sample[0].chat is not None and tokenizer.chat_template:
            return sorted(len(chats.encode(d.chat, sys.maxsize)[0]) for d in sample if d.chat is not None)
    # The dry run tells why.
    except DataError:
        pass
    texts = [d.prompt + d.text if d.chat is None else chat_text(d.chat.messages) for d in sample]
    return sorted(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])


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
        if ClusterResources.here(with_gpus=True).resources["GPU"]:
            draft.put("precision", "bf16", "usual for a pretrained model on a GPU")
    length, rows = 512, train
    if lengths:
        covered, longest = lengths[math.ceil(0.95 * len(lengths)) - 1], lengths[-1]
        length = max(64, 64 * math.ceil(covered / 64))
        if (most := _find_context(models)) is not None:
            length = min(length, most)
        why = f"95 % of the documents have at most {covered} tokens, the longest {longest}"
        why = f"{why}, by {counted_by}"
        if length < longest:
            reason = " the model takes no more;" if length < covered else ""
            why = f"{why};{reason} longer ones are cut"
        rows = math.ceil(sum(min(one, length) for one in lengths) / len(lengths) * train / length)
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


def _say_answers(draft: Draft, found: "Format", records: Sequence[Mapping[str, Any]]) -> None:
    """What counts right answers, as comments: it takes time. Nothing if the texts do not show their final answers."""
    if (pattern := _find_pattern(found, records)) is None:
        return
    draft.say()
    draft.say("# To count right answers at the end of each run, add to data:")
    draft.say(f"#   answer: {_format_value(found.answer)}")
    draft.say(f"# and: evaluation: {_format_value({'exact_match': 20, 'answer_pattern': pattern})}")


def _find_pattern(found: "Format", records: Sequence[Mapping[str, Any]]) -> str | None:
    """What finds the final answer in the texts to learn, as far as it is known."""
    from trainables.data.formats import PATTERNS
    from trainables.data.templates import Templates
    from trainables.training.generate import answers_agree

    placed = ((f"record {number}", record) for number, record in enumerate(records[:_ANSWERS], 1))
    reader = Templates(found.settings["template"], found.settings.get("prompt"), found.answer)
    try:
        read = [(document.text, document.answer or "") for document in reader.documents(placed, "the data")]
    except DataError:
        return None

    def agrees(pattern: str) -> bool:
        return all(re.search(pattern, text) and answers_agree(text, answer, pattern) for text, answer in read)

    return next(filter(agrees, PATTERNS), None)


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
