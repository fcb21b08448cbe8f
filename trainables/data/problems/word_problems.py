"""Grade-school word problems with worked solutions, in the style of GSM8K (Cobbe et al., 2021).

    python -m trainables.data.problems.word_problems --seed 0 --count 5

A problem is composed of steps (steps.py, their numbers from numbers.py)
within a scene (scenes.py): there are thousands of structures, each worded in many ways.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from zlib import crc32

from trainables.data.problems import english
from trainables.data.problems.numbers import Dice, Now, Numbers, UnfitError, Value
from trainables.data.problems.scenes import MEN, NEXT_DAY, SCENES, WOMEN, Scene
from trainables.data.problems.steps import STEPS, Step


@dataclass(frozen=True)
class Problem:
    """A word problem.

    Attributes:
        solution: sentences, each on a line of its own; the last line is "#### " and the answer.
        structure: the scene and the kinds of the steps. Problems of one structure differ in words and numbers only.
    """

    question: str
    solution: str
    answer: str
    structure: str


def problem(seed: int, index: int) -> Problem:
    """A pure function of its arguments, the same on every machine."""
    dice = Dice(f"word problem {seed} {index}")
    while True:
        try:
            return _Story(dice, _plan(dice)).told()
        except UnfitError:
            continue


def generate(seed: int, pretraining: bool = False) -> Iterator[Problem]:
    """problem(seed, 0), problem(seed, 1) and so on, without end, but for those of structures that are not asked for.

    Args:
        pretraining: one structure in five is for the text that the built-in models are pretrained on, and the others
            for data: a model knows what a word problem is, as real ones do, and none of the structures that it is
            tuned and tested on.
    """
    problems = (problem(seed, index) for index in count())
    return (each for each in problems if (crc32(each.structure.encode()) % 5 == 0) == pretraining)


@dataclass(frozen=True)
class _Person:
    name: str
    pronouns: tuple[str, str, str, str]
    many: bool = False


_SHE, _HE, _THEY = (
    ("she", "her", "her", "herself"),
    ("he", "him", "his", "himself"),
    ("they", "them", "their", "themselves"),
)


@dataclass
class _Placed:
    """A step in its place: with its numbers, who it is about, and what it goes on from, in words."""

    step: Step
    numbers: Numbers
    subject: _Person
    all: str = ""


@dataclass
class _Plan:
    scene: Scene
    hero: _Person
    friend: _Person
    pair: _Person
    placed: list[_Placed]
    structure: str


# Computations in a problem.
_FEWEST, _MOST = 2, 6
_LARGEST = {"income": 1_000_000, "money": 1_000_000, "bill": 1_000_000}
_BY_TYPE: dict[str, list[Step]] = {}
for _step in STEPS:
    for _type in _step.takes.split():
        _BY_TYPE.setdefault(_type, []).append(_step)


def _plan(dice: Dice) -> _Plan:
    """Chooses the people and the steps, with their numbers.

    Raises:
        UnfitError: the steps lead nowhere.
    """
    scene = dice.choice(SCENES)
    hero, friend = _people(dice)
    pair = _Person(f"{hero.name} and {friend.name}", _THEY, many=True)
    wanted = dice.choice((2, 2, 3, 3, 3, 4, 4, 5, 6))
    placed: list[_Placed] = []
    kinds: list[str] = []
    current, now, subject, done = scene.start, Now(0, scene), hero, 0
    while done < wanted:
        options = [step for step in _BY_TYPE.get(current, ()) if _may_follow(step, placed)]
        if not options:
            break
        step = dice.choices(options, [option.weight for option in options])[0]
        kind = step.kind
        if step.branch:
            own = dice.choice([option for option in _BY_TYPE[scene.start] if option.gives == "@"])
            numbers = own.draw(dice, Now(0, scene))
            placed.append(_Placed(own, numbers, friend))
            now, done, kind = Now(now.number, scene, int(numbers["r"])), done + len(own.work), f"{kind} ({own.kind})"
        numbers = {"n": now.number, **step.draw(dice, now)}
        placed.append(_Placed(step, numbers, subject, _all(current, placed)))
        kinds.append(kind)
        done += len(step.work)
        current = step.gives.replace("@", scene.gives).replace("=", current)
        now = Now(int(numbers["r"]), scene)
        if not 2 <= now.number <= _LARGEST.get(current, 5000):
            raise UnfitError
        subject = pair if step.role == "pair" else subject
    if not _FEWEST <= done <= _MOST or not placed[-1].step.ask:
        raise UnfitError
    return _Plan(scene, hero, friend, pair, placed, f"{scene.name}: {' > '.join(kinds)}")


def _all(current: str, placed: list[_Placed]) -> str:
    """What there is of a quantity of this type, after these steps."""
    before = " ".join(placed[-1].step.work) if placed else ""
    things = "money" if current in ("income", "money") else "{items}"
    if "[save]" in before:
        return "{his} savings"
    if re.search(r"left\b|\[leave-\]|\[keep\]", before):
        return f"the rest|the remaining {things}|the rest of the {things}"
    return f"the {things}|all the {things}|all of the {things}"


def _people(dice: Dice) -> tuple[_Person, _Person]:
    one, two = (dice.choice(((WOMEN, _SHE), (MEN, _HE))) for _ in range(2))
    hero = _Person(dice.choice(one[0]), one[1])
    return hero, _Person(dice.choice([name for name in two[0] if name != hero.name]), two[1])


def _may_follow(step: Step, placed: list[_Placed]) -> bool:
    before = [one.step for one in placed]
    return not (
        any(one is step for one in before)
        or (step.role and any(one.role for one in before))
        or any(one.kind in step.after_not for one in before)
        or ("{day1}" in step.tell and any("{day1}" in one.tell for one in before))
    )


_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\$?\w+)(?: (\w+))?\}")
_VERB = re.compile(r"\[(\w+)([+-]?)\]")
# Something that somebody does, and does not just have or want.
_EVENT = re.compile(r"\{she\} \[(?!have|need|want|be|earn|HOLD)")
# What may stand behind "if".
_SUPPOSED = re.compile(r"\{(she|kin|part|q)\}|it |each |every |one |an? |the ")
_MONEY_FIELD = re.compile(r"\$(?=[\d.]+ [-+*/=] )")
# A share of the problems.
_NUMBERS_IN_WORDS = 0.35


@dataclass(frozen=True)
class _Fact:
    """A sentence of the question, and the step that it is about. `event`: somebody does something in it."""

    template: str
    one: _Placed
    event: bool = False


@dataclass
class _Story:
    """Tells a plan."""

    dice: Dice
    plan: _Plan
    words: dict[str, str] = field(default_factory=dict)
    mentioned: set[str] = field(default_factory=set)
    solving: bool = False

    def told(self) -> Problem:
        dice, placed = self.dice, self.plan.placed
        self.past = dice.random() < 0.5
        self.numbers_in_words = dice.random() < _NUMBERS_IN_WORDS
        last = placed[-1]
        question = self._question()
        self.solving, self.mentioned = True, set()
        solution = self._solution()
        amount = last.numbers["r"]
        answer = self._money(int(amount)) if "{$r}" in last.step.work[-1] else str(amount)
        return Problem(question, f"{solution}\n#### {answer}", answer, self.plan.structure)

    def _question(self) -> str:
        dice, last = self.dice, self.plan.placed[-1]
        facts = self._facts()
        sentences: list[str] = []
        before = None  # the subject, if the sentence before tells of one event
        for fact in facts:
            template, one = fact.template, fact.one
            supposed = fact is facts[-1] and one is last and len(facts) > 1 and _SUPPOSED.match(template)
            if supposed and ". " not in template and dice.random() < 0.4:
                sentences.append(f"if {self._say(template, one)}, {self._say(one.step.ask, one)}")
                return _paragraph(sentences)
            event = one.subject if fact.event and ". " not in template else None
            if event and event is before and dice.random() < 0.6:
                if " and " not in sentences[-1] and dice.random() < 0.5:
                    rest = self._say(template.removeprefix("{she} "), one)
                    sentences[-1] += dice.choice((" and ", " and then ", ", and then ")) + rest
                    before = None
                    continue
                sentences.append(dice.choice(("then ", "after that, ", "later, ", "next, ")) + self._say(template, one))
            else:
                sentences.append(self._say(template, one))
            before = event
        sentences.append(self._say(last.step.ask, last))
        return _paragraph(sentences)

    def _facts(self) -> list[_Fact]:
        """What the question says before it asks, in its order."""
        dice, plan = self.dice, self.plan
        facts: list[_Fact] = []
        early: list[_Fact] = []
        for one in plan.placed:
            if one.step.tell:
                template = self._choose(one.step.tell)
                free = template.startswith("^") and one.subject is plan.hero and dice.random() < 0.4
                template = template.removeprefix("^")
                (early if free else facts).append(_Fact(template, one, bool(_EVENT.match(template))))
            if one.step.role == "pair" and one is not plan.placed[-1] and plan.scene.start == "stuff":
                put = _Placed(one.step, one.numbers, plan.pair)
                facts.append(
                    _Fact(self._choose("{she} [put] their {items} together|{she} [combine] their {items}"), put)
                )
        about = _Placed(plan.placed[0].step, {}, plan.hero)
        if early or plan.scene.start == "yard" or dice.random() < 0.55:
            facts.insert(0, _Fact(self._choose(self._word("opening")), about))
        facts[1:1] = early
        if dice.random() < 0.12:
            facts.insert(dice.between(1, len(facts)), _Fact(self._choose(self._word("aside")), about))
        return facts

    def _solution(self) -> str:
        dice = self.dice
        sign = dice.choice(("*", "*", "x"))
        spaces, dollars = dice.random() < 0.75, dice.random() < 0.5
        lines: list[str] = []
        every = [(sentence, one) for one in self.plan.placed for sentence in one.step.work]
        for number, (sentence, one) in enumerate(every):
            template = self._choose(sentence)
            text = self._say(template, one)
            if number and template.startswith(("{she} ", "the ", "there [be+] {n}")) and dice.random() < 0.35:
                final = ("therefore, ", "thus, ", "so ", "so, ") if number == len(every) - 1 else ()
                text = dice.choice(("so ", "then ", "this means ", "that means ", "so, ", *final)) + text
            text = text if dollars else _MONEY_FIELD.sub("", text)
            text = text.replace(" * ", f" {sign} ")
            if not spaces:
                text = re.sub(r"(?<=\d) ([-+*/x=]) (?=[\d$])", r"\1", text)
            lines.append(_sentence(text))
        return "\n".join(lines)

    def _choose(self, template: str) -> str:
        """Settles the alternatives."""
        template = f"<{template}>"
        while "<" in template:
            template = _ALTERNATIVES.sub(lambda match: self.dice.choice(match[1].split("|")).strip(" "), template)
        return template

    def _say(self, template: str, one: _Placed) -> str:
        text = self._choose(template)
        while "{" in text:
            text = self._choose(_SLOT.sub(lambda match: self._slot(match[1], match[2], one), text))
        return _VERB.sub(lambda match: self._verb(match[1], match[2], one.subject.many), text)

    def _verb(self, word: str, number: str, many: bool) -> str:
        phrase = self._word(word.lower()) if word.isupper() else word
        return english.verb(phrase, {"+": True, "-": False}.get(number, many), self.past)

    def _slot(self, name: str, noun: str | None, one: _Placed) -> str:
        if name == "an":
            return english.with_article(self._noun(str(noun), one.numbers))
        if name.removeprefix("$") in one.numbers or name == "z":
            value = one.numbers.get(name.removeprefix("$"), 0) if name != "z" else self.dice.between(2, 12)
            return self._value(value, name[0] == "$", noun and self._noun(noun, one.numbers))
        match name.lower():
            case "she" | "him" | "his" as case:
                return self._person(one.subject, ("she", "him", "his").index(case))
            case "himself":
                return one.subject.pronouns[3]
            case "name":
                return self._person(one.subject, None)
            case "other" | "kin":
                return self._person(self.plan.friend, None)
            case "they":
                return "they"
        if name == "all":
            return f"<{one.all}>"
        if name == "day2":
            return NEXT_DAY[self._word("day1")]
        if name.isupper():
            return self._word(name.lower())
        return self._noun(name, one.numbers)

    def _noun(self, name: str, numbers: Numbers) -> str:
        """A word of the step or of the scene; with an s behind its name, the plural."""
        if name in numbers:
            return str(numbers[name])
        if name in self.plan.scene.words:
            return self._word(name)
        for ending in ("s", "es"):
            one = name.removesuffix(ending)
            if one != name and (one in numbers or one in self.plan.scene.words):
                return english.plural(self._noun(one, numbers))
        return name

    def _word(self, name: str) -> str:
        """A word of the scene; the choice stays."""
        if name not in self.words:
            self.words[name] = self.dice.choice(self.plan.scene.words[name].split(" | "))
        return self.words[name]

    def _value(self, value: Value, money: bool, noun: str | None) -> str:
        if isinstance(value, str):
            return value
        if money:
            return f"${self._money(value)}"
        shown = english.in_words(value) if self.numbers_in_words and not self.solving and value > 1 else str(value)
        if value == 1 and noun and not self.solving:
            shown = "one"
        return english.counted(value, noun, shown) if noun else shown

    @staticmethod
    def _money(cents: int) -> str:
        return f"{cents // 100}" if cents % 100 == 0 else f"{cents // 100}.{cents % 100:02}"

    def _person(self, person: _Person, case: int | None) -> str:
        plan = self.plan
        first = person.name not in self.mentioned and not person.many
        self.mentioned.add(person.name)
        name = person.name
        if first and person is plan.friend and not self.solving and plan.hero.name in self.mentioned:
            relation = self._word("sister" if person.pronouns == _SHE else "brother")
            name = relation.replace("{his}", plan.hero.pronouns[2]) + f" {name}"
        both = {plan.hero.name, plan.friend.name} <= self.mentioned
        unclear = both and plan.hero.pronouns == plan.friend.pronouns and not person.many
        if case in (1, 2) and not first:
            return person.pronouns[case]
        if case is None or first or (unclear and case == 0) or self.dice.random() < (0.3 if self.solving else 0.12):
            return f"{name}'s" if case == 2 else name
        return person.pronouns[case]


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" (?=[.,?])", "", text)
    text = re.sub(r"(?:^|(?<=[.?] ))[a-z]", lambda match: match[0].upper(), text)
    return text if text.endswith("?") else text + "."


def _paragraph(sentences: list[str]) -> str:
    return " ".join(map(_sentence, sentences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5)
    arguments = parser.parse_args()
    for one in islice(generate(arguments.seed), arguments.count):
        print(one.question, one.solution, f"({one.structure})", sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
