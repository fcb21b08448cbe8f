"""Exact-match accuracy of generated answers.

Shapes: K questions, T positions.
"""

import re
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainables import parallel
from trainables.models.loading import context_length, load_tokenizer
from trainables.preparation.prepared import Prepared, Question
from trainables.settings import ExactMatch


def exact_match(model: PreTrainedModel, prepared: Prepared, how: ExactMatch, precision: torch.dtype) -> float:
    """The share of validation questions whose greedily generated answer equals the expected one, over all ranks."""
    right = right_answers(model, prepared, prepared.questions[: how.questions], how, precision)
    return sum(right) / max(len(right), 1)


@torch.no_grad()
def right_answers(
    model: PreTrainedModel,
    prepared: Prepared,
    questions: Sequence[Question | None],
    how: ExactMatch,
    precision: torch.dtype,
) -> list[float]:
    """For each question 1 if its greedily generated answer equals the expected one, and 0 if not, over all ranks; 0 for
    None."""
    model.eval()
    tokenizer = load_tokenizer(prepared.folder)
    longest = context_length(prepared.folder)
    # Of the base model's own settings its stop tokens count, not a penalty for repetition and the like.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(_stops(model, tokenizer) | prepared.stops), pad_token_id=tokenizer.eos_token_id
    )
    right_K = torch.zeros(len(questions), dtype=torch.float64, device=model.device)
    # One question at a time: without padding, what is generated does not depend on its neighbours.
    for k in range(parallel.rank(), len(questions), parallel.size()):
        # A question that the model cannot read is not answered.
        if (question := questions[k]) is None or not question.tokens:
            continue
        token_1T = torch.tensor([question.tokens], dtype=torch.int64, device=model.device)
        room = how.max_new_tokens if longest is None else min(how.max_new_tokens, longest - token_1T.shape[1])
        if room < 1:
            continue
        with torch.autocast(model.device.type, dtype=precision, enabled=precision != torch.float32):
            answer_1T = model.generate(  # type: ignore[operator]
                token_1T,
                attention_mask=torch.ones_like(token_1T),
                max_new_tokens=room,
                do_sample=False,
            )
        text = str(tokenizer.decode(answer_1T[0, token_1T.shape[1] :], skip_special_tokens=True))
        right_K[k] = float(answers_agree(text, question.answer, how.pattern))
    right: list[float] = parallel.sum_over_ranks(right_K).tolist()
    return right


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: those of the base model, and the one that ends each document in training."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    return {tokenizer.eos_token_id, *(own if isinstance(own, list) else [] if own is None else [own])}


def answers_agree(text: str, answer: str, pattern: str | None) -> bool:
    """Whether the answer in a generated text is the expected one.

    Args:
        pattern: a regular expression whose last match gives the answer (its first group, if it has one), in both texts;
            None compares the whole texts. Spaces and the commas in numbers do not count.
    """
    return _answer(text, pattern) == _answer(answer, pattern, whole=True)


def _answer(text: str, pattern: str | None, whole: bool = False) -> str | None:
    if pattern is not None:
        matches = list(re.finditer(pattern, text))
        if matches:
            text = matches[-1].group(matches[-1].re.groups and 1)
        elif not whole:
            return None
    return re.sub(r"\s+", " ", re.sub(r"(?<=\d),(?=\d{3})", "", text)).strip()
