"""What data, tokenizer and model must agree on before anything is trained."""

import math

from transformers import PreTrainedTokenizerBase

from trainables.data.packing import Packed
from trainables.data.text_tokens import special_ids
from trainables.errors import DataError, ModelError


def other_tokenizer(reference: str, model: str) -> DataError:
    problem = f"{reference} has another tokenizer than {model}; name a model with the same one"
    return DataError("schedule.reference", problem)


def of_reference(error: ModelError) -> DataError:
    """What is wrong with a model, told of the reference."""
    field = error.field.replace("models", "schedule.reference")
    return DataError(field, error.given, error.allowed, error.nearest)


def check_length(length: int, longest: int | None, model: str) -> None:
    """Raises DataError if rows of so many tokens are longer than the model was made for, where that is known."""
    if longest is not None and length > longest:
        allowed = f"at most {longest}, the longest that {model} was made for"
        raise DataError("training.sequence_length", str(length), allowed)


def check_evaluations(per_epoch: int, rows: int, batch_size: int, model: str) -> None:
    """Raises DataError if an epoch of so many rows has fewer optimizer steps than evaluations."""
    steps = math.ceil(rows / batch_size)
    if per_epoch > steps:
        allowed = f"at most {steps}, the optimizer steps in an epoch of {model}"
        raise DataError("evaluation.per_epoch", str(per_epoch), allowed)


def check_learnable(packed: Packed, split: str, train_on_prompt: bool) -> None:
    """Raises DataError if none of the documents of a split has a token to predict but its end."""
    if bool(packed.droppable_RT.any()):
        return
    field = "general.documents" if split == "general" else f"data.{split}"
    if train_on_prompt:
        raise DataError(field, "documents of at most one token", "documents of two tokens or more")
    given = f"documents whose prompts fill the {packed.token_RT.shape[1]} tokens of a row"
    raise DataError(field, given, "a longer training.sequence_length")


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the tokens that are not special."""
    return sorted(set(tokenizer.get_vocab().values()) - special_ids(tokenizer))


def mask_token_of(
    tokenizer: PreTrainedTokenizerBase, text: str | None, needed: bool, words: int | None = None
) -> int | None:
    """The id of the token with this text, or if that is None of the tokenizer's own mask token.

    Args:
        words: how many tokens the model has embeddings of; None: not known.

    Raises:
        DataError: there is no token with this text; or none at all, and one is needed; or none that has an embedding.
    """
    found: int | None = tokenizer.get_vocab().get(tokenizer.mask_token if text is None else text)
    check_mask_token(found, text, needed, words)
    return found


def check_mask_token(found: int | None, text: str | None, needed: bool, words: int | None) -> None:
    """Raises DataError if `found`, what `mask_token_of` gives, cannot be shown to the model and one is asked for."""
    if found is not None and (words is None or found < words or not needed):
        return
    if text is not None:
        which = "" if found is None else f" that it has an embedding of, which are the first {words}"
        raise DataError("schedule.mask_token", text, f"one token of the model's vocabulary{which}")
    if needed:
        none = "no mask token" if found is None else "no mask token that the model has an embedding of,"
        problem = f"the tokenizer has {none} for input_mask_token; set schedule.mask_token to one of its tokens"
        raise DataError("schedule.presentation", problem)
