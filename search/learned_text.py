"""What is learned of the documents, to be seen: one document of each split in --dry-run, with its tokens told apart."""

from collections.abc import Iterator
from itertools import groupby

from rich.text import Text
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainables.data.packing import Packed

# What stands around what may be dropped, and what is learned and stays: rare in texts; with the colours instead of it.
_MARKS = {"read": ("", "", "dim"), "kept": ("\u27e8", "\u27e9", "yellow"), "droppable": ("\u27e6", "\u27e7", "green")}
# Characters of a stretch of tokens that are shown of its beginning and of its end.
_SHOWN = 300


def legend(coloured: bool) -> Text:
    """What the marks of `describe_split` mean."""
    names = {"droppable": "learned, may be dropped", "kept": "learned, never dropped", "read": "read only"}
    return Text("tokens    ").append_text(Text(", ").join(_mark(name, kind, coloured) for kind, name in names.items()))


def describe_split(
    name: str, packed: Packed, cut: int, tokenizer: PreTrainedTokenizerBase, coloured: bool, drops: bool = True
) -> Iterator[Text]:
    """Lines of a split: counts and shares of its tokens, its longest document, and the text of its first one.

    Args:
        cut: how many of its documents are cut.
        coloured: whether colours tell the tokens apart, or marks.
        drops: whether tokens of it are dropped: of what is trained on, if there is a schedule.
    """
    there_RT, droppable_RT = packed.document_RT >= 0, packed.droppable_RT & drops
    documents, length = int(packed.document_RT.max()) + 1, packed.token_RT.shape[1]
    longest = f"the longest of {int(packed.position_RT.max()) + 1:,} tokens of at most {length:,}"
    if cut:
        longest = f"{cut:,} of them longer than training.sequence_length ({length:,} tokens), and cut"
    yield Text(f"  {name}: {documents:,} documents, {longest}")
    yield Text(f"    all of them: {_counts(packed.trained_RT, droppable_RT, there_RT, drops)}")
    one_RT = packed.document_RT == 0
    yield Text(f"    one of them: {_counts(packed.trained_RT, droppable_RT, one_RT, drops)}")
    for line in _text(packed, droppable_RT, one_RT, tokenizer, coloured).split("\n", allow_blank=True):
        yield Text("    | ").append_text(line)


def _counts(trained_RT: Tensor, droppable_RT: Tensor, which_RT: Tensor, drops: bool) -> str:
    total, learned = int(which_RT.sum()), int((trained_RT & which_RT).sum())
    droppable = int((droppable_RT & which_RT).sum())
    may_be_dropped = f", of which {droppable:,} may be dropped ({droppable / total:.0%})" if drops else ""
    return (
        f"{total:,} tokens, {learned:,} learned ({learned / total:.0%}){may_be_dropped}, "
        f"{total - learned:,} read only ({1 - learned / total:.0%})"
    )


def _text(
    packed: Packed, droppable_RT: Tensor, which_RT: Tensor, tokenizer: PreTrainedTokenizerBase, coloured: bool
) -> Text:
    ids = packed.token_RT[which_RT].tolist()
    flags = zip(packed.trained_RT[which_RT].tolist(), droppable_RT[which_RT].tolist(), strict=True)
    kinds = ["droppable" if droppable else "kept" if trained else "read" for trained, droppable in flags]
    whole, text, end = Text(), "", 0
    for kind, run in groupby(kinds):
        end += len(list(run))
        # All that stands before it too: some tokenizers write the space before a word only within a text.
        longer = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        whole.append_text(_mark(_shorten(longer[len(text) :]), kind, coloured))
        text = longer
    return whole


def _mark(text: str, kind: str, coloured: bool) -> Text:
    before, after, style = _MARKS[kind]
    return Text(text, style) if coloured else Text(f"{before}{text}{after}")


def _shorten(text: str) -> str:
    """A text without its middle, and without what a terminal would take for a command."""
    if len(text) > 2 * _SHOWN:
        text = f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
