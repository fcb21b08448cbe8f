"""Problems that ask how often a letter appears in some words, with a short worked answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from trainables.data.problems.english import listed

WORDS = listed(
    "afternoon almond animal answer apron arrow autumn balance balloon banana barrel basket battery beetle berry "
    "blanket blossom bottle branch breeze bridge bubble button cabbage cabinet camera candle canyon captain carpet "
    "castle cellar cherry chimney circle circus coffee collar compass copper corner cottage cotton cousin cricket "
    "curtain cushion daisy dinner dolphin dragon drawer dream eagle earring engine evening exercise fabric feather "
    "ferry fiddle finger forest fountain garage garden ginger giraffe glacier goose grammar grass guitar hammer harbor "
    "harvest hazelnut hollow honey horizon island ivory jacket jelly jungle kettle kitchen kitten ladder lantern "
    "leather lemon letter lettuce lighthouse lizard lobster lullaby machine magnet mango marble market meadow melon "
    "mirror mitten monkey morning mountain mushroom mustard narrow needle noodle notebook nutmeg ocean office onion "
    "orchard otter oven oyster paddle palace parrot pebble pencil pepper picture pillow pistachio planet pocket potato "
    "pottery puddle pumpkin puzzle rabbit raccoon railroad raspberry recipe ribbon river rocket saddle sandwich "
    "sapphire satellite scissors season shadow shelter shoulder silver sister spinach squirrel stairs station "
    "strawberry summer sunset tailor tattoo teapot telephone tennis theater thunder ticket tiger tomato tower tractor "
    "tulip tunnel turtle umbrella valley vanilla velvet village violin volcano wagon walnut weather whistle willow "
    "window winter yellow zebra zipper"
)


@dataclass(frozen=True)
class LetterCount:
    """A question, its worked answer, whose last line is "#### " and the number, and the number."""

    question: str
    solution: str
    answer: str


def letter_count(seed: int, index: int) -> LetterCount:
    """A pure function of its arguments, the same on every machine."""
    dice = Random(f"letter counting {seed} {index}")
    words = dice.sample(WORDS, dice.choice((1, 2, 2, 3, 3)))
    letter = dice.choice(sorted(set("".join(words))) if dice.random() < 0.85 else "abcdefghilmnoprstuw")
    text = " ".join(words)
    where = "word" if len(words) == 1 else dice.choice(("text", "words"))
    times = [word.count(letter) for word in words]
    lines = [f'In "{word}" it appears {_times(number)}.' for word, number in zip(words, times, strict=True)]
    if len(words) > 1:
        lines.append(f"{' + '.join(map(str, times))} = {sum(times)}")
    question = f'How many times does the letter "{letter}" appear in the {where} "{text}"?'
    return LetterCount(question, "\n".join([*lines, f"#### {sum(times)}"]), str(sum(times)))


def generate(seed: int) -> Iterator[LetterCount]:
    """letter_count(seed, 0), letter_count(seed, 1) and so on, without end."""
    return (letter_count(seed, index) for index in count())


def _times(number: int) -> str:
    return ("not at all", "once", "twice")[number] if number < 3 else f"{number} times"
