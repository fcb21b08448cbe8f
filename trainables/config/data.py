"""The blocks data and general: where documents come from."""

import glob
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trainables.config.fields import Block, Count, OneOrMore, Text
from trainables.config.validation_messages import shown, wrong
from trainables.data.documents import SplitSizes
from trainables.data.templates import Field as TemplateField
from trainables.data.templates import parse

if TYPE_CHECKING:
    from trainables.data.documents import Reader, Source


def _has_columns(template: str) -> str:
    try:
        has_fields = any(isinstance(part, TemplateField) for part in parse(template))
    except ValueError as error:
        raise wrong((), shown(template), f"text with {{columns}} in braces; {{{{ for a brace ({error})") from None
    if not has_fields:
        raise wrong((), shown(template), "text with at least one {column} of the data, each with its name")
    return template


Template = Annotated[str, AfterValidator(_has_columns)]


def _beside(folder: Path, path: str) -> str:
    """A path or a pattern from the folder of the YAML file, whose own name is no pattern."""
    if glob.has_magic(path) and not os.path.exists(folder / path):
        return os.path.join(glob.escape(str(folder)), path)
    return str(folder / path)


class _Paths(Block):
    path: OneOrMore[Text]
    """Where the documents are: a file, or a pattern such as "texts/*.jsonl", or a list of these; relative to the folder
    of this YAML file."""

    @field_validator("path")
    @classmethod
    def _from_the_folder_of_the_yaml_file(cls, path: str | list[str], info: ValidationInfo) -> str | list[str]:
        if not info.context:
            return path
        folder: Path = info.context["folder"]
        found = [_beside(folder, os.path.expanduser(one)) for one in ([path] if isinstance(path, str) else path)]
        return found if isinstance(path, list) else found[0]

    def paths(self) -> tuple[str, ...]:
        return tuple(self.path) if isinstance(self.path, list) else (self.path,)


class _Builtin(Block):
    """Problems that this project generates itself."""

    source: Literal["builtin"]
    """Where the documents come from: builtin, files, hub, or reasoning_gym."""
    task: Literal["word_problems", "letter_counting"]
    """The problems: word_problems (grade-school arithmetic with worked solutions) or letter_counting."""


class _ReasoningGym(Block):
    """Problems that the package reasoning-gym generates offline."""

    source: Literal["reasoning_gym"]
    """Where the documents come from: reasoning_gym, builtin, files, or hub."""
    task: Text
    """The generator, such as gsm_symbolic (grade-school arithmetic with worked solutions): a name of reasoning-gym."""


class _Templates(Block):
    template: Template | None = None
    """The text of a document: text with at least one {column} of the data, such as "{question}\\n{answer}"; {column?}
    where records may lack it; null where documents are chats."""
    prompt: Template | None = None
    """What stands before that text: text with at least one {column}; null for nothing."""
    messages: Text | None = None
    """The column with a chat, a list of OpenAI's messages (role, content) or ShareGPT's (from, value): a name; null
    without a template for messages or conversations, whichever there is."""

    @model_validator(mode="after")
    def _documents_are_texts_or_chats(self) -> Self:
        if self.template is not None and self.messages is not None:
            raise wrong(("messages",), "there is a template as well; leave out one of them")
        if self.template is None and self.prompt is not None:
            raise wrong(("prompt",), "there is no template that follows it; add one, or leave it out")
        return self

    @property
    def has_chats(self) -> bool:
        return self.template is None


class _Files(_Paths, _Templates):
    """Files of your own: JSON lines, JSON, CSV, TSV, Parquet or plain text, compressed or not."""

    source: Literal["files"]
    """Where the documents come from: files, hub, builtin, or reasoning_gym."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What of a plain text file is one {text}: line, paragraph, or document (the whole file)."""


class _Hub(_Templates):
    """A data set of the Hugging Face hub, or of its local cache."""

    source: Literal["hub"]
    """Where the documents come from: hub, files, builtin, or reasoning_gym."""
    path: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*/[^\x00-\x1f\x7f]*$"), AfterValidator(os.path.expanduser)]
    """The data set: owner/name, or the path of a folder, with a / in it."""
    name: Text | None = None
    """The configuration of the data set: a name; null for its default one."""
    split: Text = "train"
    """The split of the data set that all documents are taken from: a name."""
    revision: Text | None = None
    """The version of the data set: a commit, tag or branch; null for the newest."""
    files: Text | None = None
    """The files of the data set that are read: a pattern such as "python/train-00000-*"; null for all."""


class _OwnSplit(Block):
    documents: Count | None = None
    """How many of its documents are used: an integer of at least 1; null for all."""


class FilesSplit(_OwnSplit, _Paths):
    """A split of its own, in files that are read like those of data.path."""


class HubSplit(_OwnSplit):
    """A split of its own, in the same data set."""

    split: Text
    """The split of the data set that these documents are taken from: a name."""


_Share = Annotated[float, Field(gt=0, lt=1)]


def _kind(size: object) -> str:
    return "share" if isinstance(size, float) else "own" if isinstance(size, dict | BaseModel) else "count"


if TYPE_CHECKING:
    TrainSize = Union[int, float, Literal["all"]]  # noqa: UP007
    FilesSize = Union[int, float, FilesSplit]  # noqa: UP007
    HubSize = Union[int, float, HubSplit]  # noqa: UP007
else:
    # Tagged, as errors then name the setting alone.
    _Sized = Annotated[Count, Tag("count")] | Annotated[_Share, Tag("share")]
    _All = Annotated[Literal["all"], Tag("all")]
    TrainSize = Annotated[
        _Sized | _All,
        Discriminator(lambda size: "share" if isinstance(size, float) else "all" if size == "all" else "count"),
    ]
    FilesSize = Annotated[_Sized | Annotated[FilesSplit, Tag("own")], Discriminator(_kind)]
    HubSize = Annotated[_Sized | Annotated[HubSplit, Tag("own")], Discriminator(_kind)]


class _Splits(Block):
    train: TrainSize
    validation: int | float | _OwnSplit
    test: int | float | _OwnSplit
    train_on_prompt: bool = True
    """Whether the tokens of a document's prompt are learned too, which those of chats never are: true or false."""

    @property
    def learns_prompts(self) -> bool:
        return self.train_on_prompt


class _Counts(_Splits):
    train: Count
    """Documents to train on: an integer of at least 1."""
    validation: Count
    """Documents that choose among the trials: an integer of at least 1."""
    test: Count
    """Documents that the winners are confirmed on, never used before: an integer of at least 1."""


def _template_text(given: str, info: ValidationInfo) -> str:
    """A chat template; that of a file, if it is the path of one: then the whole of it is known later on."""
    if "{%" in given or "{{" in given or not info.context:
        return given
    file: Path = info.context["folder"] / os.path.expanduser(given)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise wrong((), shown(given), f"text with {{{{ or {{%, or a readable file with it ({reason})") from None


class _WithAnswer(_Templates, _Splits):
    train: TrainSize
    """Documents to train on: an integer of at least 1, a share of the documents below 1 such as 0.8, or all (that the
    other splits leave)."""
    answer: Template | None = None
    """What a generated text is compared with (evaluation.exact_match): text with at least one {column}; null for
    nothing, or for the last answer of a chat that is learned."""
    train_on_answers: Literal["all", "last"] = "all"
    """Which messages of the assistant in a chat are learned: all, or last."""
    chat_template: Annotated[str, Field(min_length=1), AfterValidator(_template_text)] | None = None
    """What turns a chat into text: a template in Jinja, or a file with one, relative to the folder of this YAML file;
    null for the tokenizer's own."""

    @property
    def learns_prompts(self) -> bool:
        return self.train_on_prompt and not self.has_chats

    @model_validator(mode="after")
    def _has_a_prompt_where_one_is_needed(self) -> Self:
        if self.has_chats:
            return self
        if self.train_on_answers != "all":
            raise wrong(("train_on_answers",), "there is data.template, and so no chat; leave it out")
        if self.prompt is None and self.answer is not None:
            raise wrong(("answer",), "there is no data.prompt to answer; add one, or write null here")
        if self.prompt is None and not self.train_on_prompt:
            raise wrong(("train_on_prompt",), "there is no data.prompt to leave out; add one, or write true here")
        return self

    @model_validator(mode="after")
    def _shares_leave_documents(self) -> Self:
        sizes = split_sizes(self)
        held_out = sum(size for size in (sizes.validation, sizes.test) if isinstance(size, float))
        # 0.7 + 0.3 may be a little above 1 in floating point.
        if held_out > 1 - 1e-9:
            raise wrong(("train",), "data.validation and data.test leave no documents; lower one of these shares")
        if isinstance(sizes.train, float) and sizes.train + held_out > 1 + 1e-9:
            allowed = f"at most {1 - held_out:g}, the share that data.validation and data.test leave; or all"
            raise wrong(("train",), shown(sizes.train), allowed)
        return self


class BuiltinData(_Builtin, _Counts):
    """Problems that this project generates itself."""


class ReasoningGymData(_ReasoningGym, _Counts):
    """Problems that the package reasoning-gym generates offline."""


class FilesData(_Files, _WithAnswer):
    """Files of your own: JSON lines, JSON, CSV, TSV, Parquet or plain text, compressed or not."""

    validation: FilesSize
    """Documents that choose among the trials: an integer of at least 1, a share of the documents below 1 such as 0.1,
    or files of their own such as {path: validation.jsonl}."""
    test: FilesSize
    """Documents that the winners are confirmed on, never used before: an integer of at least 1, a share of the
    documents below 1 such as 0.1, or files of their own such as {path: test.jsonl}."""


class HubData(_Hub, _WithAnswer):
    """A data set of the Hugging Face hub, or of its local cache."""

    validation: HubSize
    """Documents that choose among the trials: an integer of at least 1, a share of the documents below 1 such as 0.1,
    or a split of their own such as {split: validation}."""
    test: HubSize
    """Documents that the winners are confirmed on, never used before: an integer of at least 1, a share of the
    documents below 1 such as 0.1, or a split of their own such as {split: test}."""


class _Documents(Block):
    documents: Count
    """Documents to measure on: an integer of at least 1."""


class BuiltinGeneral(_Builtin, _Documents):
    """Problems that this project generates itself."""


class ReasoningGymGeneral(_ReasoningGym, _Documents):
    """Problems that the package reasoning-gym generates offline."""


class FilesGeneral(_Files, _Documents):
    """Files of your own: JSON lines, JSON, CSV, TSV, Parquet or plain text, compressed or not."""


class HubGeneral(_Hub, _Documents):
    """A data set of the Hugging Face hub, or of its local cache."""


Data = Annotated[BuiltinData | FilesData | HubData | ReasoningGymData, Field(discriminator="source")]
General = Annotated[BuiltinGeneral | FilesGeneral | HubGeneral | ReasoningGymGeneral, Field(discriminator="source")]


def source_of(data: Data | General) -> "Source":
    """The source that a block describes, without the splits that have their own; a general one has all its documents in
    the training split."""
    from trainables.data.builtin import Builtin
    from trainables.data.chats import Chats
    from trainables.data.files import Files
    from trainables.data.hub import Hub
    from trainables.data.reasoning_gym import ReasoningGym
    from trainables.data.templates import Templates

    sizes = SplitSizes(data.documents, 0, 0) if isinstance(data, _Documents) else split_sizes(data)
    if isinstance(data, _Builtin):
        return Builtin(data.task, sizes)
    if isinstance(data, _ReasoningGym):
        return ReasoningGym(data.task, sizes)
    answer, learned = (data.answer, data.train_on_answers) if isinstance(data, _WithAnswer) else (None, "all")
    reader: Reader = Chats(data.messages, learned, answer)
    if data.template is not None:
        reader = Templates(data.template, data.prompt, answer)
    if isinstance(data, _Files):
        return Files(data.paths(), reader, sizes, data.sample_by)
    return Hub(data.path, data.name, data.split, data.revision, data.files, reader, sizes)


def own_sources(data: Data) -> "dict[str, tuple[Source, str]]":
    """Of each split that has a source of its own that source, and the key that names it (see `read_splits`)."""
    from trainables.data.files import Files
    from trainables.data.hub import Hub

    sources: dict[str, tuple[Source, str]] = {}
    source = source_of(data)
    for name, own in (("validation", data.validation), ("test", data.test)):
        if isinstance(own, FilesSplit | HubSplit):
            sizes = SplitSizes(own.documents or "all", 0, 0)
            if isinstance(source, Files) and isinstance(own, FilesSplit):
                sources[name] = replace(source, paths=own.paths(), sizes=sizes), "path"
            if isinstance(source, Hub) and isinstance(own, HubSplit):
                sources[name] = replace(source, split=own.split, sizes=sizes), "split"
    return sources


def is_on_hub(data: Data | General) -> bool:
    """Whether reading the data may download it."""
    return isinstance(data, _Hub) and not Path(data.path).is_dir()


def split_sizes(data: _Splits) -> SplitSizes:
    """Of the source of `data`; none of its documents are in a split that has a source of its own."""
    sizes = [0 if isinstance(size, _OwnSplit) else size for size in (data.train, data.validation, data.test)]
    return SplitSizes(*sizes)


def count_setting(data: Data) -> str | None:
    """The setting that gives more test documents; None where they are all of a source, or would be missing in the
    training split."""
    if isinstance(data.test, _OwnSplit):
        return "data.test.documents" if data.test.documents is not None else None
    return "data.test" if isinstance(data.test, int) and isinstance(data.train, int) else None


def stated_count(size: int | float | str | _OwnSplit) -> int | None:
    """The documents of a split, where the file states how many; None if that shows when they are read."""
    count = size.documents if isinstance(size, _OwnSplit) else size
    return count if isinstance(count, int) else None
