"""The built-in problems: what they say, that it is right, and how they are split."""

import hashlib
import re
from fractions import Fraction
from itertools import islice

import pytest

from trainables.data.builtin import Builtin
from trainables.data.documents import SplitSizes, general_documents
from trainables.data.problems import letter_counting
from trainables.data.problems.word_problems import Problem, generate, problem
from trainables.errors import DataError
from trainables.models.pretraining_text import texts

# A change of the problems changes what is measured on them: say so in LOG.md.
FIRST_200 = "82438bcaea7372645b7823507a70bc3de3735e3b5e8513dbdeadd33420e424b6"
NUMBER = r"\$?\d+(?:\.\d+)?(?:/\d+)?"
EQUATION = re.compile(rf"({NUMBER}(?: ?[-+*/x] ?{NUMBER})+) ?= ?({NUMBER})")


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return [problem(0, index) for index in range(2000)]


def value(text: str) -> Fraction:
    """Of a sum of products, without parentheses."""
    total, sign = Fraction(0), 1
    for term in re.split(r"([-+])", text.replace(" ", "").replace("$", "")):
        if term in "+-":
            sign = 1 if term == "+" else -1
            continue
        factors = re.split(r"([*/x])", term)
        product = Fraction(factors[0])
        for operation, factor in zip(factors[1::2], factors[2::2], strict=True):
            product = product / Fraction(factor) if operation == "/" else product * Fraction(factor)
        total += sign * product
    return total


def test_a_problem_is_a_function_of_seed_and_index(problems: list[Problem]) -> None:
    assert problem(0, 7) == problems[7]
    assert problem(1, 7) != problems[7]
    assert len({p.question for p in problems}) == len(problems)


def test_the_problems_of_a_seed_stay_as_they_are(problems: list[Problem]) -> None:
    told = "\n".join(f"{p.question}\n{p.solution}\n{p.answer}\n{p.structure}" for p in problems[:200])
    assert hashlib.sha256(told.encode()).hexdigest() == FIRST_200


def test_the_arithmetic_is_right(problems: list[Problem]) -> None:
    for one in problems:
        equations = EQUATION.findall(one.solution)
        assert len(equations) == one.solution.count("="), one
        for left, right in equations:
            assert value(left) == value(right), one


def test_the_answer_is_the_last_line_and_follows_from_the_one_before(problems: list[Problem]) -> None:
    for one in problems:
        *_, before, last = one.solution.split("\n")
        assert last == f"#### {one.answer}"
        assert re.fullmatch(r"\d+(\.\d\d)?", one.answer), one
        assert value(EQUATION.findall(before)[-1][1]) == Fraction(one.answer), one


def test_a_problem_takes_two_to_six_steps(problems: list[Problem]) -> None:
    assert {p.solution.count("\n") for p in problems} == {2, 3, 4, 5, 6}


def test_there_are_many_structures(problems: list[Problem]) -> None:
    assert len({p.structure for p in problems}) > 1000


def test_the_english_is_clean(problems: list[Problem]) -> None:
    for one in problems:
        assert not re.search(r"[][{}<>|^_]|  | [.,?]|\b[Aa] [aeio]|\b[Aa]n [^aeiouh]|\.\.", one.question + one.solution)
        assert re.search(r"(?<!\?) [^.]*\?$", one.question), one
        assert one.question.count("?") == 1
        assert not re.search(r"\b(xs?|ys|zs|items?)\b(?! \d)", one.question), one
        assert not re.search(r"(?<![\d.$/])1 \w+s\b(?! (is|was))", re.sub(r"\b1 (more|less)\b", "", one.solution)), one
        for sentence in (*re.split(r"(?<=[.?]) ", one.question), *one.solution.split("\n")[:-1]):
            assert sentence[-1] in ".?", one
            assert not sentence[0].islower(), one


def test_no_structure_stands_in_two_splits_and_each_document_has_its_own() -> None:
    splits = Builtin("word_problems", SplitSizes(24, 20, 20)).splits(seed=0)
    structures = [[d.group for d in part] for part in (splits.train, splits.validation, splits.test)]
    assert list(map(len, structures)) == [24, 20, 20]
    assert len(set().union(*structures)) == 64


def test_general_documents_are_none_of_the_splits() -> None:
    splits = Builtin("word_problems", SplitSizes(12, 6, 5)).splits(seed=0)
    general = general_documents(Builtin("word_problems", SplitSizes(20, 0, 0)), 0, splits)
    groups = {d.group for part in (splits.train, splits.validation, splits.test) for d in part}
    assert len(general) == 20
    assert not groups & {d.group for d in general}


def test_letters_are_counted_right() -> None:
    for one in islice(letter_counting.generate(0), 500):
        letter, text = re.findall(r'"([^"]*)"', one.question)
        assert int(one.answer) == text.count(letter)
        assert one.solution.endswith(f"#### {one.answer}")


def test_an_unknown_task_is_told_with_the_nearest() -> None:
    with pytest.raises(DataError) as caught:
        Builtin("word_problem", SplitSizes(1, 1, 1)).splits(seed=0)
    assert (caught.value.field, caught.value.given, caught.value.nearest) == (
        "data.task",
        "word_problem",
        "word_problems",
    )


@pytest.mark.faults
def test_the_pretraining_text_has_no_structure_of_the_data() -> None:
    assert texts() == texts.__wrapped__()
    assert sum(map(len, texts())) > 800_000
    assert not any("Gutenberg" in text for text in texts())
    pretrained = {each.structure for each in islice(generate(0, pretraining=True), 600)}
    splits = Builtin("word_problems", SplitSizes(60, 30, 30)).splits(seed=1)
    data = {d.group.removeprefix("word_problems/") for d in (*splits.train, *splits.validation, *splits.test)}
    assert len(pretrained) > 300
    assert not pretrained & data
