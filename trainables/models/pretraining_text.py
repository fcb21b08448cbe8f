"""Text that the built-in models are pretrained on: a story, puzzles of many kinds that are mostly words, word problems.

Without word problems in it, twelve epochs on the data of spaces/math.yaml only teach their form, and nothing overfits.
No structure of them is in that data. Letter counting is what the model should not forget.
"""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import islice, pairwise
from random import Random

from trainables.data.problems.english import counted, listed, plural, with_article
from trainables.data.problems.letter_counting import WORDS, letter_count
from trainables.data.problems.scenes import MEN, WOMEN
from trainables.data.problems.word_problems import generate

_PER_KIND, _WORD_PROBLEMS = 280, 100
_NAMES = sorted((*MEN, *WOMEN))
_ANIMALS = {
    "dog": 4,
    "cat": 4,
    "hen": 2,
    "spider": 8,
    "ant": 6,
    "horse": 4,
    "duck": 2,
    "crab": 10,
    "beetle": 6,
    "owl": 2,
}
_KINDS = listed("bird frog flower teacher doctor painter student farmer robot sailor singer tailor dancer pilot baker")
_COLORS = listed("red blue green yellow white black purple orange brown gray")
_TRAITS = listed("tall quiet clever brave kind lazy famous patient careful strong")
_PLACES = listed("kitchen garden library station museum harbor market theater office forest")
_DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_LIKES = listed("likes loves enjoys dislikes prefers avoids admires misses")
_HOBBIES = listed(
    "swimming in the lake|playing chess|baking bread|reading old letters|the color green|long walks|loud music|"
    "mending clothes|watching birds|riding a horse|rainy days|painting portraits|climbing trees|cold soup|early trains|"
    "singing in a choir|black tea|the smell of hay|fast cars|quiet evenings|collecting stones|learning French",
    "|",
)
_UNITS = (
    ("feet", "inches", 12), ("yards", "feet", 3), ("hours", "minutes", 60), ("minutes", "seconds", 60),
    ("days", "hours", 24), ("weeks", "days", 7), ("meters", "centimeters", 100), ("kilograms", "grams", 1000),
    ("years", "months", 12), ("gallons", "quarts", 4), ("pounds", "ounces", 16), ("kilometers", "meters", 1000),
)  # fmt: skip


@cache
def texts() -> tuple[str, ...]:
    """The same on every machine."""
    story = (
        files("trainables.models").joinpath("prose", "in_the_year_2889.txt").read_text(encoding="utf-8").splitlines()
    )
    puzzles = (kind(Random(f"{kind.__name__} {index}")) for kind in _GENERATORS for index in range(_PER_KIND))
    problems = (f"{each.question}\n{each.solution}" for each in generate(0, pretraining=True))
    return (*story, *("\n".join(puzzle) for puzzle in puzzles), *islice(problems, _WORD_PROBLEMS))


_Puzzle = tuple[str, str]


def _letters(dice: Random) -> _Puzzle:
    one = letter_count(1, dice.randrange(10**9))
    return one.question, one.solution


def _syllogism(dice: Random) -> _Puzzle:
    a, b, c = (plural(kind) for kind in dice.sample(_KINDS, 3))
    first, second, claim, holds = dice.choice(
        (
            (f"All {a} are {b}", f"All {b} are {c}", f"All {a} are {c}", True),
            (f"All {a} are {b}", f"No {b} are {c}", f"No {a} are {c}", True),
            (f"Some {a} are {b}", f"All {b} are {c}", f"Some {a} are {c}", True),
            (f"All {a} are {b}", f"All {c} are {b}", f"All {a} are {c}", False),
            (f"Some {a} are {b}", f"Some {b} are {c}", f"Some {a} are {c}", False),
            (f"No {a} are {b}", f"No {b} are {c}", f"No {a} are {c}", False),
        )
    )
    statements = [first, second] if dice.random() < 0.5 else [second, first]
    question = f"Consider these statements: {statements[0]}. {statements[1]}. Does it follow that {claim.lower()}?"
    return question, f"{'Yes' if holds else 'No'}, it {'follows' if holds else 'does not follow'}."


def _clock(minutes: int) -> str:
    hour, minute = divmod(minutes % 1440, 60)
    return f"{hour % 12 or 12}:{minute:02} {'a.m.' if hour < 12 else 'p.m.'}"


def _interval(dice: Random) -> _Puzzle:
    start, length = dice.randrange(0, 1200, 5), dice.randrange(10, 600, 5)
    begins, ends = dice.choice(
        (("train leaves", "arrives"), ("meeting begins", "is over"), ("film starts", "ends"), ("shop opens", "closes"))
    )
    hours, minutes = divmod(length, 60)
    parts = [counted(n, unit) for n, unit in ((hours, "hour"), (minutes, "minute")) if n]
    first, last = _clock(start), _clock(start + length)
    question = f"If the {begins} at {first} and {ends} at {last}, how long is it from the beginning to the end?"
    return question, f"From {first} to {last} it is {' and '.join(parts)}."


def _word_order(dice: Random) -> _Puzzle:
    words = dice.sample(WORDS, dice.randrange(3, 7))
    down = dice.random() < 0.3
    order = "in reverse alphabetical order" if down else "in alphabetical order"
    return f"Put these words {order}: {', '.join(words)}.", ", ".join(sorted(words, reverse=down))


def _number_order(dice: Random) -> _Puzzle:
    numbers = dice.sample(range(1, 1000), dice.randrange(3, 7))
    down = dice.random() < 0.5
    order = "from the largest to the smallest" if down else "from the smallest to the largest"
    return f"Sort these numbers {order}: {', '.join(map(str, numbers))}.", ", ".join(
        map(str, sorted(numbers, reverse=down))
    )


def _sequence(dice: Random) -> _Puzzle:
    first, step, twice = dice.randrange(1, 40), dice.randrange(2, 12), dice.random() < 0.25
    numbers = [first * 2**i if twice else first + step * i for i in range(6)]
    rule = "Each number is twice the one before it" if twice else f"Each number is {step} more than the one before it"
    question = f"What number comes next in this sequence: {', '.join(map(str, numbers[:5]))}?"
    return question, f"{rule}, so the next one is {numbers[5]}."


def _conversion(dice: Random) -> _Puzzle:
    large, small, factor = dice.choice(_UNITS)
    number = dice.randrange(2, 20)
    if dice.random() < 0.5:
        return f"How many {small} are {number} {large}?", f"{number} {large} are {number * factor} {small}."
    return f"How many {large} are {number * factor} {small}?", f"{number * factor} {small} are {number} {large}."


def _chain(dice: Random) -> _Puzzle:
    number = dice.randrange(2, 50)
    told, worked = [f"Start with the number {number}."], []
    for _ in range(dice.randrange(2, 5)):
        k, before = dice.randrange(2, 20), number
        match dice.choice(("add", "subtract", "double")):
            case "subtract" if k <= number:
                number -= k
                told.append(f"Subtract {k}.")
                worked.append(f"{before} - {k} = {number}.")
            case "double":
                number *= 2
                told.append("Double it.")
                worked.append(f"{before} * 2 = {number}.")
            case _:
                number += k
                told.append(f"Add {k}.")
                worked.append(f"{before} + {k} = {number}.")
    return f"{' '.join(told)} What number is it now?", f"{' '.join(worked)} It is {number}."


def _seats(dice: Random) -> _Puzzle:
    names = dice.sample(_NAMES, dice.randrange(3, 6))
    clues = [f"{b} sits directly to the right of {a}." for a, b in pairwise(names)]
    dice.shuffle(clues)
    at = dice.randrange(len(names))
    place = ("first", "second", "third", "fourth", "fifth")[at]
    intro = f"{', '.join(sorted(names)[:-1])} and {sorted(names)[-1]} sit in a row."
    answer = f"From left to right they are {', '.join(names)}. {names[at]} sits in the {place} seat."
    return f"{intro} {' '.join(clues)} Who sits in the {place} seat from the left?", answer


def _family(dice: Random) -> _Puzzle:
    a, c, e = dice.sample(WOMEN, 3)
    b, d, f = dice.sample(MEN, 3)
    child, word, parent = dice.choice(((c, "daughter", "mother"), (d, "son", "father")))
    spouse = f if child == c else e
    grandchild = dice.choice([name for name in _NAMES if name not in (a, b, c, d, e, f)])
    kin = "grandson" if grandchild in MEN else "granddaughter"
    told = [
        f"{a} is married to {b}. They have a {word}, {child}.",
        f"{child} is married to {spouse}. They have a child, {grandchild}.",
    ]
    asked, answer = dice.choice(
        (
            (f"What is {grandchild} to {a}?", f"{grandchild} is the {kin} of {a}."),
            (f"What is {a} to {spouse}?", f"{a} is the mother-in-law of {spouse}."),
            (f"What is {b} to {grandchild}?", f"{b} is the grandfather of {grandchild}."),
            (f"What is {child} to {grandchild}?", f"{child} is the {parent} of {grandchild}."),
        )
    )
    return f"{' '.join(told if dice.random() < 0.7 else told[::-1])} {asked}", answer


def _legs(dice: Random) -> _Puzzle:
    herd = [(animal, dice.randrange(1, 10)) for animal in dice.sample(sorted(_ANIMALS), dice.randrange(2, 4))]
    shown = ", ".join(counted(n, animal) for animal, n in herd)
    worked = [f"{counted(n, animal)}: {n} * {_ANIMALS[animal]} = {n * _ANIMALS[animal]} legs." for animal, n in herd]
    total = sum(n * _ANIMALS[animal] for animal, n in herd)
    return f"How many legs do these animals have together: {shown}?", f"{' '.join(worked)} Together they have {total}."


def _weekday(dice: Random) -> _Puzzle:
    day, later = dice.randrange(7), dice.randrange(2, 30)
    weeks, rest = divmod(later, 7)
    worked = f"{counted(later, 'day')} are {counted(weeks, 'week')} and {counted(rest, 'day')}."
    question = f"Today is {_DAYS[day]}. What day of the week will it be in {later} days?"
    return question, f"{worked} It will be {_DAYS[(day + rest) % 7]}."


def _likings(dice: Random) -> _Puzzle:
    names = dice.sample(_NAMES, dice.randrange(6, 16))
    hobbies = dice.sample(_HOBBIES, len(names))
    likes = [dice.choice(_LIKES) for _ in names]
    told = [f"{name} {verb} {hobby}." for name, verb, hobby in zip(names, likes, hobbies, strict=True)]
    at = dice.randrange(len(names))
    return f"{' '.join(told)} Who {likes[at]} {hobbies[at]}?", f"{names[at]} {likes[at]} {hobbies[at]}."


def _journey(dice: Random) -> _Puzzle:
    name, other = dice.sample(_NAMES, 2)
    thing = dice.choice(WORDS)
    places = dice.sample(_PLACES, 3)
    told = [
        f"{name} finds {with_article(thing)} in the {places[0]} and takes it to the {places[1]}.",
        f"{other} stays in the {places[2]}.",
        f"Then {name} goes to the {places[2]} and gives the {thing} to {other}.",
        f"{other} carries it to the {places[0]}.",
    ]
    steps = dice.randrange(1, 5)
    where = (places[1], places[1], places[2], places[0])[steps - 1]
    return f"{' '.join(told[:steps])} Where is the {thing} now?", f"The {thing} is in the {where}."


def _comparison(dice: Random) -> _Puzzle:
    more, most = dice.choice(
        (("taller", "tallest"), ("older", "oldest"), ("faster", "fastest"), ("stronger", "strongest"))
    )
    names = dice.sample(_NAMES, dice.randrange(3, 6))
    clues = [f"{a} is {more} than {b}." for a, b in pairwise(names)]
    dice.shuffle(clues)
    ordered = ", then ".join(names)
    return f"{' '.join(clues)} Who is the {most}?", f"The order is {ordered}. So {names[0]} is the {most}."


def _boxes(dice: Random) -> _Puzzle:
    things, colors = dice.sample(WORDS, 4), dice.sample(_COLORS, 4)
    told = [f"The {thing} is in the {color} box." for thing, color in zip(things, colors, strict=True)]
    a, b = dice.sample(range(4), 2)
    moved = f"Somebody swaps what is in the {colors[a]} box and what is in the {colors[b]} box."
    asked = dice.choice((a, b))
    place = colors[b if asked == a else a]
    return f"{' '.join(told)} {moved} Where is the {things[asked]}?", f"The {things[asked]} is in the {place} box."


def _liars(dice: Random) -> _Puzzle:
    a, b = dice.sample(_NAMES, 2)
    trait, honest = dice.choice(_TRAITS), dice.random() < 0.5
    kind = "always tells the truth" if honest else "always lies"
    said = dice.random() < 0.5
    truth = said == honest
    question = f'{a} {kind}. {a} says: "{b} is {"" if said else "not "}{trait}." Is {b} {trait}?'
    because = "so what is said is true" if honest else "so what is said is false"
    return question, f"{a} {kind}, {because}. {b} is {'' if truth else 'not '}{trait}."


def _scrambled(dice: Random) -> _Puzzle:
    name, other = dice.sample(_NAMES, 2)
    sentence = (
        f"{name} {dice.choice(('met', 'saw', 'called', 'visited', 'thanked'))} {other} in the {dice.choice(_PLACES)} "
        f"{dice.choice(('yesterday', 'last night', 'before dinner', 'on Monday', 'after the storm'))} and "
        f"{dice.choice(('bought', 'found', 'carried', 'painted', 'sold', 'repaired'))} a {dice.choice(_COLORS[:5])} "
        f"{dice.choice(WORDS)}"
    )
    words = sentence.split()
    dice.shuffle(words)
    return f"Put these words in order: {' '.join(words)}", f"{sentence}."


_GENERATORS: tuple[Callable[[Random], _Puzzle], ...] = (
    _letters, _syllogism, _interval, _word_order, _number_order, _sequence, _conversion, _chain, _seats, _family, _legs,
    _weekday, _likings, _journey, _comparison, _boxes, _liars, _scrambled,
)  # fmt: skip
