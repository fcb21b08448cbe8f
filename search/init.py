"""Writes a space for your data, with what suits it: looks at a file, a folder, or a data set of the hub.

    python -m search.init problems.jsonl --model hub:owner/name
    python -m search.init texts/ --model builtin/nano --model builtin/micro --output mine.yaml
    python -m search.init owner/name --model models/mine --no-dry-run

What it guesses stands in the file as a comment, and on the terminal; what it cannot tell it asks for in the file.

Exit codes: 0 written, 1 the system refused, 2 something in the arguments or the data is wrong, 130 interrupted.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from search.hardware import ClusterResources
from search.space import fewest_documents
from trainables.config.command_line import exit_code, invocation
from trainables.config.model_names import ModelName
from trainables.errors import ConfigError, describe_problem, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainables.data.files import Files
    from trainables.data.formats import Format
    from trainables.data.hub import Hub

# Records that are looked at; and those of them that are tokenized.
_RECORDS, _TOKENIZED = 20_000, 2_000
# Names of splits, and of files with one.
_NAMES = {"validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
# Documents that are advised at most: an evaluation reads the validation split, the verdict gains little from more.
_MOST = {"validation": 300, "test": 1000}
# Documents without which there is nothing to train on and to compare.
_FEWEST = 20
_CONFIDENCE = 0.95
# Characters of a line.
_WIDTH = 120
# What a built-in model's tokenizer is taken for, where the model's own is not here.
_STAND_IN = "builtin/micro"


@dataclass
class _Draft:
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
        line = f"  {key}: {_flow(value)}"
        if not told or len(line) + len(told) < _WIDTH - 5:
            self.lines.append(f"{line}   # {told}" if told else line)
        else:
            self.lines += [*(f"  # {part}" for part in textwrap.wrap(told, _WIDTH - 4)), line]
        if guess and why:
            self.guesses.append(f"{self._block}{key}: {_flow(value)} ({why})")

    def ask(self, key: str, question: str, indent: str = "  ") -> None:
        """A setting without a value, which the schema refuses."""
        self.lines += [f"{indent}# TO DO: {question}", f'{indent}{key}: ""']
        self.asked.append(f"{key}: {question}")


@dataclass
class _Looked:
    """What the data is.

    Attributes:
        block: the settings that say where it is, with those that are guesses and why.
        held_out: of splits with a source of their own, the setting, and the number of documents.
        whole: whether all records were read.
    """

    block: dict[str, tuple[Any, str]]
    records: list[Mapping[str, Any]]
    held_out: dict[str, tuple[dict[str, Any], int]]

    @property
    def whole(self) -> bool:
        return len(self.records) < _RECORDS


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _init(options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.init"), description="Writes a space for your data, and prints what its search will do."
    )
    parser.add_argument("data", metavar="DATA", help="a file, a folder, or a data set of the hub: owner/name")
    parser.add_argument("--model", metavar="NAME", action="append", default=[], help="a model, as in hub:owner/name")
    parser.add_argument("--name", metavar="NAME", help="the configuration of the data set of the hub")
    parser.add_argument("--output", metavar="FILE", help="the space's file (default: the data's name with .yaml)")
    parser.add_argument("--overwrite", action="store_true", help="write the file even if it exists")
    parser.add_argument("--no-dry-run", action="store_true", help="do not check the space and print the plan")
    return parser.parse_args(arguments)


def _init(options: argparse.Namespace) -> int:
    stem = re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9_]", "-", Path(options.data).name.partition(".")[0]) or "space"
    output = Path(options.output or f"{stem}.yaml")
    if output.exists() and not options.overwrite:
        raise ConfigError(f"--output: {one_line(str(output))} exists already; name another file, or add --overwrite")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: the folder {one_line(str(output.parent))} does not exist; name another")
    models = {_resolved(name): _model_from(name, output.parent) for name in options.model}
    from trainables.errors import DataError, ModelError

    try:
        looked = _look(options, output.parent)
        draft = _draft(looked, options.data, models, output)
    except ModelError as error:
        raise ConfigError(f"--model: {describe_problem(error.given, error.allowed, error.nearest)}") from None
    except DataError as error:
        problem = describe_problem(error.given, error.allowed, error.nearest)
        raise ConfigError(f"{one_line(options.data)}: {problem}") from None
    from trainables.storage.files import write_atomic

    write_atomic(output, "\n".join(draft.lines) + "\n")
    print(f"written: {output}")
    print("\n".join(f"  guessed  {line}" for line in draft.guesses))
    command = f"{invocation('search.run')} {shlex.quote(str(output))}"
    if draft.asked:
        print("\n".join(f"  asked    {line}" for line in draft.asked))
        print(f"write into the file what is asked there; then: {command} --dry-run")
        return 0
    if not options.no_dry_run:
        from search.run import main as run

        print(f"\n{command} --dry-run", flush=True)
        if code := run([str(output), "--dry-run"]):
            return code
    print(f"\nsearch with: {command}")
    return 0


def _resolved(name: str) -> str:
    """The name of a model, of a path the whole of it; ConfigError if there is none of this name."""
    try:
        return str(TypeAdapter(ModelName).validate_python(name, context={"folder": Path().absolute()}))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["ctx"]["problem"]
        raise ConfigError(f"--model: {problem}") from None


def _look(options: argparse.Namespace, folder: Path) -> _Looked:
    """Reads the data.

    Raises:
        DataError: it cannot be read.
        ConfigError: there is none.
    """
    from trainables.data.documents import SplitSizes
    from trainables.data.files import KINDS, Files, kind_of
    from trainables.data.hub import Hub, is_saved
    from trainables.data.templates import Templates

    text, sizes = options.data.removeprefix("hub:"), SplitSizes("all", 0, 0)
    path = Path(text)
    files: list[Path] = []
    if path.is_dir():
        # What is in folders within it is read as the hub's data sets are.
        own = [] if is_saved(path) else sorted(file for file in path.iterdir() if file.is_file())
        kinds = Counter(kind for file in own if (kind := kind_of(file)) in KINDS)
        # What there is most of: a README.txt may lie beside the data.
        files = [file for file in own if kinds and kind_of(file) == max(KINDS, key=lambda kind: kinds[kind])]
        if not files and not any(kind_of(file) in (*KINDS, ".arrow") for file in path.rglob("*")):
            names = ", ".join(KINDS)
            raise ConfigError(f"{one_line(text)}: no file in this folder ends in {names}; name one with data")
    elif path.exists() or kind_of(path) in KINDS:
        files = [path]
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        allowed = "a file or a folder that exists, or a data set of the hub: owner/name"
        raise ConfigError(f"DATA: given {one_line(text)}; allowed: {allowed}")
    if files:
        return _look_at_files(files, path, folder, lambda paths, by: Files(paths, Templates("{text}"), sizes, by))
    hub = Hub(text, options.name, "train", None, None, Templates("{text}"), sizes)
    # As everywhere, the folder of a data set is one from where the command runs.
    return _look_at_hub(hub, text if "/" in text else f"./{text}")


def _look_at_files(files: list[Path], path: Path, folder: Path, make: Any) -> _Looked:
    if path.is_dir():
        by_split: dict[str, list[Path]] = {}
        for file in files:
            by_split.setdefault(_split_of(file.name), []).append(file)
        own = by_split.pop("train", None) or [file for part in by_split.values() for file in part]
    else:
        own = files
        beside = [file for file in path.parent.iterdir() if "train" in path.name] if path.is_file() else []
        names = {path.name.replace("train", word): split for split, words in _NAMES.items() for word in words}
        by_split = {split: [file for file in sorted(beside) if names.get(file.name) == split] for split in _NAMES}
    sample_by, why = _sampled_by(own)
    read: Files = make(tuple(map(str, own)), sample_by)
    block: dict[str, tuple[Any, str]] = {"source": ("files", ""), "path": (_listed(own, folder), "")}
    if why:
        block["sample_by"] = (sample_by, why)
    held_out = {}
    for split, part in by_split.items():
        if part and part[0] not in own:
            count = sum(1 for _ in make(tuple(map(str, part)), sample_by).records())
            held_out[split] = _held_out(split, {"path": _listed(part, folder)}, count)
    return _Looked(block, [record for _, record in islice(read.records(), _RECORDS)], held_out)


def _look_at_hub(hub: "Hub", place: str) -> _Looked:
    from dataclasses import replace

    names = hub.split_names()
    hub = replace(hub, split="train" if "train" in names else names[0])
    block: dict[str, tuple[Any, str]] = {"source": ("hub", ""), "path": (place, "")}
    if hub.name is not None:
        block["name"] = (hub.name, "")
    if hub.split != "train":
        block["split"] = (hub.split, f"there is no split 'train', but {', '.join(names)}")
    held_out = {}
    for split, words in _NAMES.items():
        if name := next((word for word in words if word in names and word != hub.split), None):
            count = sum(1 for _ in replace(hub, split=name).records())
            held_out[split] = _held_out(split, {"split": name}, count)
    return _Looked(block, [record for _, record in islice(hub.records(), _RECORDS)], held_out)


def _held_out(split: str, setting: dict[str, Any], count: int) -> tuple[dict[str, Any], int]:
    """A split with a source of its own, and its documents, limited where there are many."""
    most = _MOST[split]
    return ({**setting, "documents": most}, most) if count > most else (setting, count)


def _split_of(name: str) -> str:
    """The split that the name of a file speaks of; train if of none."""
    words = re.split("[^a-z]+", name.lower())
    return next((split for split, names in _NAMES.items() if any(word in words for word in names)), "train")


def _sampled_by(files: Sequence[Path]) -> tuple[str, str]:
    """What of text files is a document, and why; an empty reason for other files."""
    from trainables.data.files import kind_of, matching_files

    if kind_of(files[0]) != ".txt":
        return "line", ""
    there = [file for pattern in files for file in matching_files(str(pattern)) if file.is_file()]
    if len(there) >= _FEWEST:
        return "document", f"there are {len(there)} text files: each is a document"
    begins = b""
    for file in there[:1]:
        with file.open("rb") as content:
            begins = content.read(2**16)
    if re.search(rb"\S[^\n]*\r?\n[ \t]*\r?\n\s*\S", begins):
        return "paragraph", "there are empty lines between paragraphs: each is a document"
    return "line", "there are no empty lines: each line is a document"


def _listed(files: Sequence[Path], folder: Path) -> str | list[str]:
    names = [_relative(file, folder) for file in files]
    return names[0] if len(names) == 1 else names


def _relative(path: Path, folder: Path) -> str:
    return str(path) if path.is_absolute() else os.path.relpath(path, folder)


def _draft(looked: _Looked, data: str, models: Mapping[str, str], output: Path) -> _Draft:
    """The space.

    Args:
        models: the names of the models as they stand in the file, by what they are.
    """
    from trainables.data.formats import columns_of, recognize

    count = len(looked.records)
    if count < _FEWEST:
        counted = f"{count} document{'' if count == 1 else 's'}"
        raise ConfigError(f"{one_line(data)}: given {counted}; allowed: at least {_FEWEST}")
    found = recognize(looked.records)
    draft = _Draft()
    many = f"{count:,}" if looked.whole else f"{count:,} and more"
    draft.say(f"# Which EntroDrop schedule suits {_commented(data)}? {many} records.")
    draft.say("#")
    draft.say(f"#   {invocation('search.run')} {_commented(str(output))}")
    draft.say("#")
    draft.say("# What says guess is one: see whether it is right. All settings: spaces/REFERENCE.md")
    draft.say()
    if models:
        draft.say(f"models: {_flow(list(models.values()))}")
    else:
        question = "which model, as in [hub:owner/name]? A folder, and builtin/nano and builtin/micro, will do as well"
        draft.ask("models", question, "")
    draft.block("data")
    for key, (value, why) in looked.block.items():
        draft.put(key, value, why)
    if found is None:
        columns = ", ".join(columns_of(looked.records))
        draft.ask("template", f'which columns are the text, as in "{{answer}}"? There are: {_commented(columns)}')
        draft.say('  # prompt: "{question}\\n"    what stands before it, if anything does')
    else:
        _put_format(draft, found)
    train = _put_splits(draft, looked)
    lengths, name = _lengths(looked.records, found, list(models))
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
    draft.say(f"  experiment: {_flow(f'entrodrop-{output.stem}')}   # in MLflow")
    return draft


def _put_format(draft: _Draft, found: "Format") -> None:
    words = f"{found.name}, by the column{'s' if len(found.columns) > 1 else ''} {', '.join(found.columns)}"
    gaps = f"; {found.gaps} records lack one of them" if found.gaps else ""
    for index, (key, value) in enumerate(found.settings.items()):
        draft.put(key, value, _commented(words + gaps) if not index else "")
    if "prompt" in found.settings:
        draft.put("train_on_prompt", False, "the model reads a prompt, and learns its answer")


def _put_splits(draft: _Draft, looked: _Looked) -> int:
    """The splits. Returns about how many documents there are to train on."""
    left = count = len(looked.records)
    draft.put("train", "all", "that the other splits leave", guess=False)
    fewest = fewest_documents(_CONFIDENCE)
    for split, purpose in (("validation", "they choose the settings"), ("test", "they decide the verdict")):
        if split in looked.held_out:
            setting, documents = looked.held_out[split]
            draft.put(split, setting, f"{documents} documents; {purpose}")
            continue
        share = 0.2 if split == "test" or count < 500 else 0.1
        if count * share > _MOST[split]:
            taken: int | float = _MOST[split]
        else:
            taken = share if count * share >= fewest else fewest
        left -= math.floor(taken * count) if isinstance(taken, float) else taken
        draft.put(split, taken, f"there is no such split beside the data; {purpose}")
    return left


def _lengths(
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
        texts = [document.prompt + document.text for document in templates.documents(placed, "the data")]
    if not texts:
        return [], ""
    name, tokenizer = _tokenizer(models)
    return sorted(len(ids) + 1 for ids in tokenizer(texts)["input_ids"]), name


def _tokenizer(models: Sequence[str]) -> "tuple[str, PreTrainedTokenizerBase]":
    """The tokenizer of the first model that is here, or else of a built-in one."""
    from trainables.models.builtin import ARCHITECTURES, unweighted
    from trainables.models.loading import load_tokenizer
    from trainables.models.resolve import at_hand, model_folder
    from trainables.storage.cache import default_root

    for name in models:
        if name not in ARCHITECTURES and at_hand(name):
            return name, load_tokenizer(model_folder(name, default_root()))
    name = next((name for name in models if name in ARCHITECTURES), _STAND_IN)
    return name, unweighted(name)[1]


def _put_training(draft: _Draft, models: Sequence[str], lengths: Sequence[int], counted_by: str, train: int) -> None:
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
        if (most := _context(models)) is not None:
            length = min(length, most)
        why = f"95 % of the documents have at most {covered} tokens, the longest {longest}"
        why = f"{why}, by {counted_by}"
        rows = math.ceil(sum(lengths) / len(lengths) * train / length)
        draft.put("sequence_length", length, _commented(why))
    batch = 4 if rows < 64 else 8 if rows < 512 else 16
    draft.put("batch_size", batch, f"an epoch has about {rows:,} rows, and so {math.ceil(rows / batch):,} steps")


def _context(models: Sequence[str]) -> int | None:
    """The longest row that all models were made for, as far as it is known here."""
    from trainables.models.builtin import ARCHITECTURES
    from trainables.models.loading import context_length
    from trainables.models.resolve import at_hand, model_folder
    from trainables.storage.cache import default_root

    known = [ARCHITECTURES[name].context for name in models or [_STAND_IN] if name in ARCHITECTURES]
    here = [name for name in models if name not in ARCHITECTURES and at_hand(name)]
    known += [most for name in here if (most := context_length(model_folder(name, default_root()))) is not None]
    return min(known, default=None)


def _say_answers(draft: _Draft, found: "Format") -> None:
    """What counts right answers, as comments: it takes time."""
    pattern = found.answer.get("answer_pattern")
    settings = {"exact_match": 20, **({"answer_pattern": pattern} if pattern else {})}
    draft.say()
    draft.say("# To count right answers at the end of each run, add to data:")
    draft.say(f"#   answer: {_flow(found.answer['answer'])}")
    draft.say(f"# and: evaluation: {_flow(settings)}")


def _put_resources(draft: _Draft, models: Sequence[str]) -> None:
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


def _model_from(name: str, folder: Path) -> str:
    """The name of a model as it stands in a file in `folder`."""
    if name.startswith(("hub:", "package:", "builtin/", "~")) or Path(name).is_absolute():
        return name
    relative = os.path.relpath(name, folder)
    return relative if "/" in relative else f"./{relative}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    match value:
        case dict():
            return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in value.items())}}}"
        case list():
            return f"[{', '.join(map(_flow, value))}]"
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


def _commented(text: str) -> str:
    return one_line(text, 300)


if __name__ == "__main__":
    sys.exit(main())
