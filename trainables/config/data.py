"""The blocks data and general: where documents come from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

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


class _Files(_Templates):
    """Files of your own: JSON lines, JSON, CSV, TSV, Parquet or plain text, compressed or not."""

    source: Literal["files"]
    """Where the documents come from: files, hub, builtin, or reasoning_gym."""
    path: OneOrMore[Text]
    """Where the documents are: a file, or a pattern such as "texts/*.jsonl", or a list of these; relative to the folder
    of this YAML file."""
    sample_by: Literal["line", "paragraph", "document"] = "line"
    """What of a plain text file is one {text}: line, paragraph, or document (the whole file)."""

    @field_validator("path")
    @classmethod
    def _from_the_folder_of_the_yaml_file(cls, path: str | list[str], info: ValidationInfo) -> str | list[str]:
        if not info.context:
            return path
        folder: Path = info.context["folder"]
        found = [str(folder / os.path.expanduser(one)) for one in ([path] if isinstance(path, str) else path)]
        return found if isinstance(path, list) else found[0]

    def paths(self) -> tuple[str, ...]:
        return tuple(self.path) if isinstance(self.path, list) else (self.path,)


class _Hub(_Templates):
    """A data set of the Hugging Face hub, or of its local cache."""

    source: Literal["hub"]
    """Where the documents come from: hub, files, builtin, or reasoning_gym."""
    path: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*/[^\x00-\x1f\x7f]*$")]
    """The data set: owner/name, or the path of a folder, with a / in it."""
    name: Text | None = None
    """The configuration of the data set: a name; null for its default one."""
    split: Text = "train"
    """The split of the data set that all documents are taken from: a name."""
    revision: Text | None = None
    """The version of the data set: a commit, tag or branch; null for the newest."""
    files: Text | None = None
    """The files of the data set that are read: a pattern such as "python/train-00000-*"; null for all."""


class _Splits(Block):
    train: Count
    """Documents to train on: an integer of at least 1."""
    validation: Count
    """Documents that choose among the trials: an integer of at least 1."""
    test: Count
    """Documents that the winners are confirmed on, never used before: an integer of at least 1."""
    train_on_prompt: bool = True
    """Whether the tokens of a document's prompt are learned too, which those of chats never are: true or false."""

    @property
    def learns_prompts(self) -> bool:
        return self.train_on_prompt


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


class BuiltinData(_Builtin, _Splits):
    """Problems that this project generates itself."""


class ReasoningGymData(_ReasoningGym, _Splits):
    """Problems that the package reasoning-gym generates offline."""


class FilesData(_Files, _WithAnswer):
    """Files of your own: JSON lines, JSON, CSV, TSV, Parquet or plain text, compressed or not."""


class HubData(_Hub, _WithAnswer):
    """A data set of the Hugging Face hub, or of its local cache."""


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
    """The source that a block describes; a general one has all its documents in the training split."""
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


def is_on_hub(data: Data | General) -> bool:
    """Whether reading the data may download it."""
    return isinstance(data, _Hub) and not Path(data.path).is_dir()


def split_sizes(data: _Splits) -> SplitSizes:
    return SplitSizes(data.train, data.validation, data.test)
