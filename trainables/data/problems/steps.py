"""The steps that a word problem is composed of: the grammar of trainables/data/problems/word_problems.py.

A step goes on from a quantity of one type (`takes`) to one of another (`gives`); a problem is a chain of steps that
begins at its scene's `start`. So "picks 12 apples an hour for 5 hours" (stuff to goods), "gives 10 away" (goods to
goods), "packs them in bags of 5" (goods to boxes), "sells each bag for $4" (boxes to money).

Texts are templates:

    a|b         either; within a text <a|b>, which may be nested
    [pick]      the verb, in the problem's tense, agreeing with the subject; [be+] with a plural, [be-] with a singular
    {she}       the subject: a name or a pronoun; {him}, {his}, and {name}, which is never a pronoun
    {k}, {$k}   a number of the step; an amount of money, kept in cents. {n} is the number that the step goes on from
    {k item}    a number with a noun that agrees
    {item}      a word of the scene, the same throughout a problem; {items} its plural, {an item} with an article
    {all}       the things that the step goes on from, in words
    ^...        (in front of a sentence) needs nothing that stands before it, and so may be told earlier
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainables.data.problems import numbers as draw
from trainables.data.problems.numbers import Dice, Now, Numbers


@dataclass(frozen=True)
class Step:
    """A kind of step.

    Attributes:
        takes: types of quantity that it goes on from, with a space between them.
        gives: the type of its result; "@" stands for what the scene gives, "=" for the type it goes on from.
        draw: chooses its numbers, of which "r" is the result.
        tell: what the question says of it. ask: what it asks for if the step is the last.
        work: the solution's sentences.
        role: "other" if a second person comes in, "pair" if the two go on together.
        branch: whether the second person's quantity comes from a first step of their own.
        after_not: kinds that it does not follow.
        weight: how often it is drawn.
    """

    kind: str
    takes: str
    gives: str
    draw: Callable[[Dice, Now], Numbers]
    tell: str
    work: tuple[str, ...] = ()
    ask: str = ""
    role: str = ""
    branch: bool = False
    after_not: tuple[str, ...] = ()
    weight: float = 1.0


_START = (
    # Things that are made, picked or bought; also effort: points, laps and the like.
    Step(
        "amount",
        "stuff effort",
        "@",
        lambda d, now: {"r": d.between(12, 96)},
        tell="{she} [GET] {r item} {day1}|{she} [HOLD] {r item}",
        weight=2.0,
    ),
    Step(
        "rate",
        "stuff effort",
        "@",
        lambda d, now: draw.product(d.between(4, 25), d.between(2, 8)),
        tell="{she} [GET] {a item} <every|each|per> {span} for {b span}"
        "|<every|each> {span}, {she} [GET] {a item}. {she} [do] this for {b span}",
        work=(
            "{she} [GET] {a} * {b} = {r item} <in|over> {b span}|<in|over> {b span}, {she} [GET] {a} * {b} = {r item}",
        ),
        ask="how many {items} [do] {she} {GET} in <{b span}|all|total>?",
    ),
    Step(
        "batches",
        "stuff",
        "@",
        lambda d, now: draw.product(d.between(3, 12), d.between(4, 24)),
        tell="{she} [have] {a batch} <of|with> {items}, and <each|every> {batch} [have-] {b item} in it"
        "|{she} [GET] {a batch} of {items}. there [be+] {b item} in <each|every> {batch}",
        work=("{she} [have] {a} * {b} = {r item}|there [be+] {a} * {b} = {r item} in the {a batch}",),
        ask="how many {items} [do] {she} have <in all|altogether|in total>?",
    ),
    Step(
        "two days",
        "stuff effort",
        "@",
        lambda d, now: draw.total(d.between(5, 60), d.between(5, 60)),
        tell="{she} [GET] {a item} {day1} and {b item} {day2}"
        "|{day1}, {she} [GET] {a item}. {day2}, {she} [GET] {b item}",
        work=(
            "<in total|altogether|in all>, {she} [GET] {a} + {b} = {r item}"
            "|{she} [GET] {a} + {b} = {r item} <in all|altogether>",
        ),
        ask="how many {items} [do] {she} {GET} <in all|altogether|in total>?",
    ),
    Step(
        "times as many",
        "stuff effort",
        "@",
        lambda d, now: draw.with_times(d, d.between(6, 48)),
        tell="{she} [GET] {a item} {day1} and {times} as many {day2}"
        "|{she} [GET] {a item} {day1}. {day2}, {she} [GET] {times} as many <{items}|as {day1}>",
        work=(
            "{day2}, {she} [GET] {calc} = {c item}|{she} [GET] {calc} = {c item} {day2}",
            "{she} [GET] {a} + {c} = {r item} <in total|altogether|{day1} and {day2}>"
            "|in total, that [be-] {a} + {c} = {r item}",
        ),
        ask="how many {items} [do] {she} {GET} <{day1} and {day2}|in total|altogether>?",
    ),
    Step(
        "more than before",
        "stuff effort",
        "@",
        lambda d, now: draw.with_more(d, d.between(8, 60)),
        tell="{day1}, {she} [GET] {a item}. {day2}, {she} [GET] {k item} {more} than {day1}"
        "|{she} [GET] {k} {more} {items} {day2} than {day1}. {she} [GET] {a item} {day1}",
        work=(
            "{day2}, {she} [GET] {calc} = {c item}|{she} [GET] {calc} = {c item} {day2}",
            "<altogether|in total|in all>, {she} [GET] {a} + {c} = {r item}"
            "|that [make-] a total of {a} + {c} = {r item}",
        ),
        ask="how many {items} [do] {she} {GET} <{day1} and {day2}|in total|altogether>?",
    ),
    Step(
        "percent more",
        "stuff effort",
        "@",
        lambda d, now: draw.with_percent_more(d, d.between(20, 80, 4)),
        tell="{she} [GET] {a item} {day1}. {day2}, {she} [GET] {q}% more {items} than {day1}",
        work=(
            "{calc} = {c}, so {she} [GET] {a} + {c} = {e item} {day2}"
            "|{day2}, {she} [GET] {calc} = {c} more {items}, which [be-] {a} + {c} = {e item}",
            "<in total|altogether>, {she} [GET] {a} + {e} = {r item}|the total [be-] {a} + {e} = {r item}",
        ),
        ask="how many {items} [do] {she} {GET} <{day1} and {day2}|in total|altogether>?",
    ),
    Step(
        "three days",
        "effort",
        "average",
        lambda d, now: draw.average(d.between(4, 40), d.between(4, 40), d.between(4, 40)),
        tell="{she} [GET] {a item} {on} the first {session}, {b} {on} the second and {c} {on} the third",
        work=(
            "{she} [GET] {a} + {b} + {c} = {t item} <in total|altogether|in all>",
            "<the average [be-]|that [be-] an average of> {t} / 3 = {r item} <per|a> {session}",
        ),
        ask="how many {items} [do] {she} {GET} per {session} on average?"
        "|what [be-] the average number of {items} per {session}?",
    ),
    # Wages.
    Step(
        "hourly",
        "wages",
        "income",
        lambda d, now: draw.product(now.price(d), d.between(3, 40)),
        tell="{she} [earn] {$a} <an|per> hour and [work] {b hour} <one week|in a week|>"
        "|^{she} [get] {$a} for <each|every> hour of work. {she} [work] for {b hour}",
        work=("{she} [earn] {b} * {$a} = {$r}|for {b hour} of work, {she} [earn] {$a} * {b} = {$r}",),
        ask="how much <money|> [do] {she} earn?",
    ),
    Step(
        "hours and days",
        "wages",
        "income",
        lambda d, now: draw.three(d.between(2, 9), d.between(2, 6), now.price(d)),
        tell="{she} [earn] {$c} <an|per> hour. {she} [work] {a hour} a day for {b day}"
        "|{she} [work] {a hour} a day, {b} days <a|per> week, and [get] {$c} <an|per> hour",
        work=(
            "{she} [work] {a} * {b} = {e hour}|in {b day}, {she} [work] {a} * {b} = {e hour}",
            "{she} [earn] {e} * {$c} = {$r}|{she} [get] {$c} * {e} = {$r} for this",
        ),
        ask="how much <money|> [do] {she} earn in {b day}?",
    ),
    Step(
        "by the piece",
        "wages",
        "income",
        lambda d, now: draw.product(now.price(d), d.between(3, 15)),
        tell="{she} [earn] {$a} for <each|every> {item}, and {day1} {she} [GET] {b item}"
        "|{she} [GET] {b item} {day1} and [get] {$a} for each <of them|{item}>",
        work=("{she} [earn] {b} * {$a} = {$r} <{day1}|>",),
        ask="how much <money|> [do] {she} earn {day1}?",
    ),
    Step(
        "overtime",
        "wages",
        "income",
        lambda d, now: draw.overtime(
            now.price(d) // 100 * 100, now.dollars(d, 1, 8), d.between(5, 40, 5), d.between(2, 8)
        ),
        tell="{she} [earn] {$a} an hour on weekdays and {$k} more <an|per> hour on <weekends|Sundays>. <in one|one> "
        "week, {she} [work] {b hour} on weekdays and {c hour} on the weekend",
        work=(
            "on weekdays, {she} [earn] {b} * {$a} = {$e}",
            "on the weekend, {she} [earn] {$a} + {$k} = {$f} an hour",
            "so on the weekend {she} [make] {c} * {$f} = {$g}",
            "in total, {she} [earn] {$e} + {$g} = {$r}",
        ),
        ask="how much <money|> [do] {she} earn that week?",
    ),
    # Shopping.
    Step(
        "one thing",
        "shopping",
        "bill",
        lambda d, now: draw.bought(d, now, d.between(2, 9)),
        tell="{she} [buy] {a x} for {$p} each|^{an x} [cost-] {$p}. {she} [buy] {a} of them",
        work=("the {xs} [cost+] {a} * {$p} = {$r}",),
        ask="how much [do] {she} <pay|spend>?",
    ),
    Step(
        "two things",
        "shopping",
        "bill",
        lambda d, now: draw.bought(d, now, d.between(2, 8), d.between(2, 8)),
        tell="{she} [buy] {a x} for {$p} each and {b y} for {$q} each"
        "|^{an x} [cost-] {$p} and {an y} [cost-] {$q}. {she} [buy] {a x} and {b y}",
        work=(
            "the {xs} [cost+] {a} * {$p} = {$e}|{she} [spend] {a} * {$p} = {$e} on {xs}",
            "the {ys} [cost+] {b} * {$q} = {$f}|{she} [spend] {b} * {$q} = {$f} on {ys}",
            "<in total|altogether>, <that [be-]|{she} [spend]> {$e} + {$f} = {$r}|the total [be-] {$e} + {$f} = {$r}",
        ),
        ask="how much <money|> [do] {she} <spend|pay> <in total|altogether|>?|what [be-] the total cost?",
        weight=2.0,
    ),
    Step(
        "three things",
        "shopping",
        "bill",
        lambda d, now: draw.bought(d, now, 1, 1, 1),
        tell="{she} [buy] {an x} for {$p}, {an y} for {$q} and {an z} for {$s}",
        work=(
            "<in total|altogether>, {she} [spend] {$p} + {$q} + {$s} = {$r}"
            "|the three things [cost+] {$p} + {$q} + {$s} = {$r}",
        ),
        ask="how much <money|> [do] {she} spend <in total|altogether|>?|what [be-] the total cost?",
    ),
    Step(
        "dearer thing",
        "shopping",
        "bill",
        lambda d, now: draw.dearer(d, now),
        tell="{an y} [cost-] {k} times as much as {an x}, and {an x} [cost-] {$p}. {she} [buy] {a x} and one {y}"
        "|{she} [buy] {a x} for {$p} each, and {an y} that [cost-] {k} times as much as {an x}",
        work=(
            "the {xs} [cost+] {a} * {$p} = {$e}|{a x} [cost+] {a} * {$p} = {$e}",
            "the {y} [cost-] {$p} * {k} = {$q}|{an y} [cost-] {k} * {$p} = {$q}",
            "<in total|altogether>, {she} [spend] {$e} + {$q} = {$r}|the total [be-] {$e} + {$q} = {$r}",
        ),
        ask="how much <money|> [do] {she} spend <in total|altogether|>?",
    ),
    # A book.
    Step(
        "pages",
        "reading",
        "pages",
        lambda d, now: {"r": d.between(120, 480, 10)},
        tell="{she} [be] reading a book <with|of> {r page}|the book {she} [be] reading [have-] {r page}",
    ),
    Step(
        "chapters",
        "reading",
        "pages",
        lambda d, now: draw.product(d.between(6, 20), d.between(10, 30)),
        tell="{she} [be] reading a book with {a chapter}, <and each chapter [have-] {b page}|each of them {b pages} "
        "long>",
        work=("the book [have-] {a} * {b} = {r page}|there [be+] {a} * {b} = {r page} in the book",),
        ask="how many pages [do-] the book have?",
    ),
    Step(
        "two books",
        "reading",
        "pages",
        lambda d, now: draw.with_more(d, d.between(100, 300, 10)),
        tell="{she} [have] two books to read. the first one [have-] {a page}, and the second one [have-] {k page} "
        "{more} than the first",
        work=(
            "the second book [have-] {calc} = {c page}",
            "the two books [have+] {a} + {c} = {r page} <together|in total>",
        ),
        ask="how many pages [do] {she} have to read?",
    ),
    # On the road.
    Step(
        "speed",
        "driving",
        "miles",
        lambda d, now: draw.product(d.between(30, 70, 5), d.between(2, 8)),
        tell="{she} [drive] for {b hour} at <an average speed of|> {a} miles per hour"
        "|{she} [drive] at {a} miles per hour for {b hour}",
        work=("{she} [drive] {a} * {b} = {r mile}|in {b hour}, {she} [drive] {a} * {b} = {r mile}",),
        ask="how <many miles|far> [do] {she} drive?",
    ),
    Step(
        "two speeds",
        "driving",
        "miles",
        lambda d, now: draw.legs(d.between(40, 70, 5), d.between(2, 5), d.between(20, 60, 5), d.between(2, 5)),
        tell="{she} [drive] at {a} miles per hour for {b hour}, and then at {c} miles per hour for <another|the "
        "next> {k hour}",
        work=(
            "<first|in the first part of the trip>, {she} [drive] {a} * {b} = {e mile}",
            "<then|in the second part>, {she} [drive] {c} * {k} = {f mile}",
            "<in total|altogether>, {she} [drive] {e} + {f} = {r mile}"
            "|the <whole|> trip [be-] {e} + {f} = {r mile} long",
        ),
        ask="how <many miles|far> [do] {she} drive <in total|altogether>?",
    ),
    Step(
        "there and back",
        "driving",
        "round-miles",
        lambda d, now: draw.three(2, d.between(8, 60), d.between(3, 10)),
        tell="{she} [drive] {b mile} to <a customer|work|town> and {b mile} back, and [do] this {c} times"
        "|the trip to <town|the city> [be-] {b mile} each way. {she} [make] the round trip {c} times",
        work=(
            "<each|one> round trip [be-] {a} * {b} = {e mile}|there and back, that [be-] {b} + {b} = {e mile}",
            "{she} [drive] {e} * {c} = {r mile} <in all|in total|>|{c} trips [be+] {c} * {e} = {r mile}",
        ),
        ask="how many miles [do] {she} drive <in total|altogether>?",
    ),
    # Crowds.
    Step(
        "groups of people",
        "people",
        "people",
        lambda d, now: draw.product(d.between(3, 12), d.between(8, 30)),
        tell="there [be+] {a group} <with|of> {b crowd} each"
        "|there [be+] {a group}, and <each|every> {group} [have-] {b crowd}",
        work=(
            "there [be+] {a} * {b} = {r crowd} <in all|in total|altogether|>"
            "|{a group} of {b} [be+] {a} * {b} = {r crowd}",
        ),
        ask="how many {crowds} [be+] there <in all|in total|altogether>?",
    ),
    Step(
        "boys and girls",
        "people",
        "people",
        lambda d, now: draw.boys_and_girls(d, draw.with_times(d, d.between(10, 60))),
        tell="there [be+] {a} {x} and {times} as many {y}",
        work=(
            "there [be+] {calc} = {c} {y}",
            "<in total|altogether>, there [be+] {a} + {c} = {r crowd}|{a} + {c} = {r crowd} [be+] there",
        ),
        ask="how many {crowds} [be+] there <in all|in total|altogether>?",
    ),
    Step(
        "two kinds of people",
        "people",
        "people",
        lambda d, now: draw.with_more(d, d.between(20, 90)),
        tell="{a crowd} [come+] {day1}, and {k} {more} {day2}"
        "|there [be+] {a crowd} {day1}. {day2}, there [be+] {k} {more}",
        work=(
            "{day2}, there [be+] {calc} = {c crowd}|{calc} = {c crowd} [come+] {day2}",
            "<in total|altogether>, {a} + {c} = {r crowd} [come+]|there [be+] {a} + {c} = {r crowd} {day1} and {day2}",
        ),
        ask="how many {crowds} [be+] there <on the two days|in all|altogether>?",
    ),
    # Feeding.
    Step(
        "feed",
        "feeding",
        "food",
        lambda d, now: draw.three(d.between(3, 20), d.between(2, 12), d.between(3, 14)),
        tell="there [be+] {a animal}, and <each|every> {animal} [eat-] {b food} <a|per|every> day. {she} [need] "
        "enough <food|> for {c day}|{she} [feed] {a animal} for {c day}. <each|every> {animal} [eat-] {b food} "
        "<a|per> day",
        work=(
            "the {animals} [eat+] {a} * {b} = {e food} <a|per|every> day"
            "|<in one day|every day>, they [eat+] {a} * {b} = {e food}",
            "in {c day}, <that [be-]|they [eat+]> {e} * {c} = {r food}|for {c day}, {she} [need] {c} * {e} = {r food}",
        ),
        ask="how many {foods} [do] {she} need?",
        weight=2.0,
    ),
    Step(
        "two kinds of animals",
        "feeding",
        "food",
        lambda d, now: draw.legs(d.between(3, 15), d.between(4, 12), d.between(3, 15), d.between(1, 3)),
        tell="there [be+] {a} large {animals} and {c} small <ones|{animals}>. <each|every> large {animal} [eat-] {b "
        "food} a day, and <each|every> small one [eat-] {k}",
        work=(
            "the large {animals} [eat+] {a} * {b} = {e food} <a|per> day",
            "the small {animals} [eat+] {c} * {k} = {f food} <a|per> day",
            "<together|in total>, they [eat+] {e} + {f} = {r food} <a|every> day",
        ),
        ask="how many {foods} [do] {she} need <for one|every|each> day?",
    ),
    # Studying.
    Step(
        "exercises",
        "studying",
        "minutes",
        lambda d, now: draw.exercises(d, now, d.between(5, 20), d.between(2, 8)),
        tell="{she} [have] {a} {x} <problems|exercises> to do, and each one [take-] {him} {b minute}"
        "|each {x} <problem|exercise> [take-] {him} {b minute}, and {she} [have] {a} of them",
        work=("{she} [need] {a} * {b} = {r minute} for {x}|the {x} homework [take-] {a} * {b} = {r minute}",),
        ask="how many minutes [do-] the {x} homework take?",
    ),
    Step(
        "two subjects",
        "studying",
        "minutes",
        lambda d, now: {**draw.exercises(d, now, 0, 0), **draw.with_times(d, d.between(15, 60, 5))},
        tell="{she} [spend] {a minute} on {x} and {times} as <long|much time> on {y}"
        "|{she} [study] {x} for {a minute}. then {she} [study] {y} for {times} as long",
        work=(
            "{she} [spend] {calc} = {c minute} on {y}|{y} [take-] {calc} = {c minute}",
            "<together|in total>, that [be-] {a} + {c} = {r minute}|{she} [study] for {a} + {c} = {r minute} in all",
        ),
        ask="how many minutes [do] {she} <study|spend on {x} and {y}> <in total|altogether>?",
    ),
    Step(
        "days of study",
        "studying",
        "minutes",
        lambda d, now: draw.product(d.between(20, 90, 5), d.between(3, 7)),
        tell="{she} [study] <for|> {a minute} <a|every> day for {b day}",
        work=("{she} [study] for {a} * {b} = {r minute}|in {b day}, {she} [study] for {a} * {b} = {r minute}",),
        ask="how many minutes [do] {she} study in {b day}?",
    ),
    # A fence.
    Step(
        "around a rectangle",
        "yard",
        "length",
        lambda d, now: draw.around(d.between(8, 40), d.between(5, 30)),
        tell="it [be-] a rectangle that [be-] {a foot} long and {b foot} wide"
        "|the <garden|lawn> [be-] {a foot} long and {b foot} wide",
        work=(
            "<the length and the width add up to|one long and one short side are> {a} + {b} = {c foot}",
            "{she} [need] 2 * {c} = {r foot} of fence|all the way around, that [be-] {c} * 2 = {r foot}",
        ),
        ask="how many feet of fence [do] {she} need?",
    ),
    Step(
        "around a square",
        "yard",
        "length",
        lambda d, now: {"a": (a := d.between(8, 45)), "r": 4 * a},
        tell="it [be-] a square with sides of {a foot}|each of its four sides [be-] {a foot} long",
        work=(
            "{she} [need] 4 * {a} = {r foot} of fence|the four sides [be+] {a} * 4 = {r foot} long <in total|together>",
        ),
        ask="how many feet of fence [do] {she} need?",
    ),
)

_THINGS = (
    Step(
        "loses some",
        "goods things",
        "=",
        lambda d, now: now.less(d.between(2, max(2, now.number // 2))),
        tell="{she} {loses}",
        work=(
            "{she} [have] {n} - {c} = {r item} left|<this|that> [leave-] {n} - {c} = {r item}"
            "|{n} - {c} = {r item} [be+] left",
        ),
        ask="how many {items} [do] {she} have left?|how many {items} [be+] left?",
    ),
    Step(
        "part spoiled",
        "goods things",
        "=",
        lambda d, now: draw.left(now, draw.part(d, now.number)),
        tell="{part} of {all} [be+] {spoiled}, so {she} [throw] <them|those> away"
        "|{she} [find] that {part} of {all} [be+] {spoiled} and [throw] <them|those> away",
        work=(
            "{calc} = {c} of the {items} [be+] {spoiled}|{she} [throw] away {calc} = {c item}",
            "{she} [have] {n} - {c} = {r item} left|<this|that> [leave-] {n} - {c} = {r item}",
        ),
        ask="how many {items} [do] {she} have left?",
    ),
    Step(
        "percent used",
        "goods things",
        "=",
        lambda d, now: draw.left(now, draw.percent(d, now.number, 10, 20, 25, 30, 40, 50, 60, 75)),
        tell="{she} [USES] {q}% of {all}|{she} [set] aside {q}% of {all} for {his} family",
        work=(
            "that [be-] {calc} = {c item}|{q}% of {n} [be-] {calc} = {c item}",
            "{she} [have] {n} - {c} = {r item} left|<this|that> [leave-] {n} - {c} = {r item}",
        ),
        ask="how many {items} [do] {she} have left?",
    ),
    Step(
        "gets more",
        "goods things",
        "=",
        lambda d, now: {"c": (c := d.between(3, 40)), "r": now.number + c},
        tell="{giver} [give-] {him} {c} more <{items}|>|{she} [get] {c} more {items} from {giver}",
        work=(
            "<now {she} [have]|{she} now [have]|that [make-]> {n} + {c} = {r item}"
            "|with the {c} from {giver}, {she} [have] {n} + {c} = {r item}",
        ),
        ask="how many {items} [do] {she} have <now|then|in the end>?",
    ),
    Step(
        "gives to each",
        "goods things",
        "=",
        lambda d, now: draw.given(now, d.between(2, 6), d.between(2, 8)),
        tell="{she} [give] {a item} to each of {his} {b relation}"
        "|<each|every one> of {his} {b relation} [get-] {a item}",
        work=(
            "{she} [give] away {a} * {b} = {c item}|{his} {relations} [get+] {b} * {a} = {c item}",
            "{she} [have] {n} - {c} = {r item} left|<this|that> [leave-] {n} - {c} = {r item}",
        ),
        ask="how many {items} [do] {she} have left?",
    ),
    Step(
        "uses daily",
        "goods things",
        "=",
        lambda d, now: draw.given(now, d.between(2, 6), d.between(3, 7)),
        tell="{she} [USES] {a item} <a|each|every> day <for|over the next> {b day}",
        work=(
            "in {b day}, {she} [USES] {a} * {b} = {c item}|over {b day}, that [be-] {a} * {b} = {c item}",
            "{she} [have] {n} - {c} = {r item} left|<this|that> [leave-] {n} - {c} = {r item}",
        ),
        ask="how many {items} [do] {she} have left <after that|after {b day}>?",
    ),
    Step(
        "packs",
        "goods things",
        "=-boxes",
        lambda d, now: {"k": (k := d.divisor(now.number, 2, 15)), "r": now.number // k},
        tell="{she} [put] {all} <into|in> {boxes} of {k}"
        "|{she} [pack] {all} <into|in> {boxes}, with {k item} in each {box}",
        work=("{she} [need] {n} / {k} = {r box}|{she} [fill] {n} / {k} = {r box}|there [be+] {n} / {k} = {r box}",),
        ask="how many {boxes} [do] {she} <need|fill>?|how many {boxes} [be+] there?",
        weight=2.5,
    ),
    Step(
        "packs full boxes",
        "goods things",
        "rest",
        lambda d, now: draw.packed(now, d.between(5, 15)),
        tell="{she} [put] {all} <into|in> {boxes} of {k} and [keep] <what [be-] left over|the rest>"
        "|{she} [fill] as many {boxes} as possible with {k item} each",
        work=(
            "{she} [fill] {q box}, which [hold+] {q} * {k} = {c item}|{q box} of {k} [hold+] {q} * {k} = {c item}",
            "{n} - {c} = {r item} [be+] left over|{she} [have] {n} - {c} = {r item} left over",
        ),
        ask="how many {items} [be+] left over?",
        weight=0.5,
    ),
    Step(
        "shares",
        "goods things",
        "each",
        lambda d, now: draw.equally(d, now.number),
        tell="{she} [share] {all} equally with {his} {k relation}|{she} and {his} {k relation} [share+] {all} equally",
        work=(
            "there [be+] {k} + 1 = {m} people",
            "each of them [get-] {n} / {m} = {r item}|everyone [get-] {n} / {m} = {r item}",
        ),
        ask="how many {items} [do-] each <person|of them> get?",
        weight=0.7,
    ),
    Step(
        "sells each",
        "goods",
        "income",
        lambda d, now: draw.product(now.number, now.price(d)),
        tell="{she} [sell] {all} for {$b} each|^{an item} [sell-] for {$b}. {she} [sell] {all}",
        work=(
            "{she} [make] {n} * {$b} = {$r}|{she} [earn] {$b} * {n} = {$r} <from|by selling> the {items}"
            "|{n item} at {$b} each [bring+] in {n} * {$b} = {$r}",
        ),
        ask="how much <money|> [do] {she} <make|earn>?|how much money [do] {she} make from selling the {items}?",
        weight=2.5,
    ),
    Step(
        "sells at two prices",
        "goods",
        "income",
        draw.sold_in_two_ways,
        tell="{she} [sell] {part} of {all} for {$p} each and the <rest|others> for {$q} each",
        work=(
            "{she} [sell] {calc} = {c item} for {$p} each",
            "for these, {she} [get] {c} * {$p} = {$first}|these [bring+] in {c} * {$p} = {$first}",
            "the other {n} - {c} = {rest item} [bring+] in {rest} * {$q} = {$second}",
            "<altogether|in total>, {she} [make] {$first} + {$second} = {$r}",
        ),
        ask="how much <money|> [do] {she} <make|earn> <in total|altogether>?",
        weight=0.7,
    ),
    Step(
        "time for each",
        "goods things score",
        "minutes",
        lambda d, now: draw.product(now.number, d.between(2, 12)),
        tell="it [take-] {him} {b minute} to {handling} <each|one> {item}"
        "|{she} [need] {b minute} to {handling} each {item}",
        work=(
            "{she} [need] {n} * {b} = {r minute} <to {handling} them all|>"
            "|it [take-] {n} * {b} = {r minute} to {handling} {n item}",
        ),
        ask="how many minutes [do-] it take {him} to {handling} <the {items}|all of them>?",
        weight=0.7,
    ),
    Step(
        "keeps boxes",
        "goods-boxes things-boxes",
        "=",
        lambda d, now: now.less(d.between(1, max(1, now.number // 3))),
        tell="{she} [keep] {c} of the {boxes}|{she} [give] {c} of the {boxes} to {giver}",
        work=("{she} [have] {n} - {c} = {r box} left|<this|that> [leave-] {n} - {c} = {r box}",),
        ask="how many {boxes} [do] {she} have left?",
    ),
    Step(
        "pays for boxes",
        "goods-boxes things-boxes",
        "bill",
        lambda d, now: draw.product(now.number, d.between(50, 400, 50)),
        tell="<each|every> empty {box} [cost-] {$b}|{she} [pay] {$b} for each <empty|> {box}",
        work=("the {boxes} [cost+] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r} for the {boxes}",),
        ask="how much [do] {she} pay for the {boxes}?",
        after_not=("keeps boxes",),
        weight=0.5,
    ),
    Step(
        "sells boxes",
        "goods-boxes",
        "income",
        lambda d, now: draw.product(now.number, now.box_price(d)),
        tell="{she} [sell] <each|every> {box} for {$b}|^{she} [sell] the {items} for {$b} a {box}",
        work=(
            "{she} [make] {n} * {$b} = {$r}|{she} [earn] {$b} * {n} = {$r} from the {boxes}"
            "|{n box} at {$b} each [bring+] in {n} * {$b} = {$r}",
        ),
        ask="how much <money|> [do] {she} <make|earn>?|how much money [do] {she} make from selling the {boxes}?",
        weight=2.5,
    ),
)

_PEOPLE = (
    Step(
        "friend has times as many",
        "goods things score points",
        "=",
        lambda d, now: draw.with_times(d, now.number),
        tell="{kin} [HOLD-] {times} as many <{items}|> as {name}",
        role="pair",
        work=(
            "{other} [HOLD-] {calc} = {c item}",
            "<together|in total|altogether>, they [HOLD+] {a} + {c} = {r item}"
            "|that [be-] {a} + {c} = {r item} for the two of them",
        ),
        ask="how many {items} [do+] they {HOLD} <together|in all|altogether>?",
    ),
    Step(
        "friend has more",
        "goods things score points",
        "=",
        lambda d, now: draw.with_more(d, now.number),
        tell="{kin} [HOLD-] {k} {more} <{items}|> than {name}",
        role="pair",
        work=(
            "{other} [HOLD-] {calc} = {c item}",
            "<together|in total|altogether>, they [HOLD+] {a} + {c} = {r item}"
            "|the two of them [HOLD+] {a} + {c} = {r item}",
        ),
        ask="how many {items} [do+] they {HOLD} <together|in all|altogether>?",
    ),
    Step(
        "friend has as many times, compared",
        "goods things score points",
        "gap",
        lambda d, now: draw.gap(draw.times(d, now.number)),
        tell="{kin} [HOLD-] {times} as many <{items}|> as {name}",
        role="other",
        work=(
            "{other} [HOLD-] {calc} = {c item}",
            "the difference [be-] {minus} = {r item}|{ahead} [HOLD-] {minus} = {r} more {items} than {behind}",
        ),
        ask="how many more {items} [do-] {ahead} {HOLD} than {behind}?",
    ),
    Step(
        "friend's own, together",
        "goods things score points",
        "=",
        lambda d, now: draw.total(now.number, now.second),
        tell="",
        role="pair",
        branch=True,
        work=(
            "<together|in total|altogether>, they [HOLD+] {a} + {b} = {r item}"
            "|the two of them [HOLD+] {a} + {b} = {r item}",
        ),
        ask="how many {items} [do+] they {HOLD} <together|in all|altogether>?",
        weight=2.0,
    ),
    Step(
        "friend's own, compared",
        "goods things score points",
        "gap",
        lambda d, now: draw.gap({"a": now.number, "c": now.second}),
        tell="",
        role="other",
        branch=True,
        work=("{ahead} [HOLD-] {minus} = {r} more {items} than {behind}|the difference [be-] {minus} = {r item}",),
        ask="how many more {items} [do-] {ahead} {HOLD} than {behind}?",
    ),
    Step(
        "goal",
        "score points",
        "to go",
        lambda d, now: draw.goal(now.number, d.between(now.number + 5, 2 * now.number + 20, 5)),
        tell="{his} goal [be-] <to {GET}|> {g item}|{she} [want] to {GET} {g item}",
        work=(
            "{she} still [need] {g} - {n} = {r item}"
            "|to reach {his} goal, {she} [have] to {GET} {g} - {n} = {r} more {items}",
        ),
        ask="how many more {items} [do] {she} <need|have> to {GET}?",
    ),
    Step(
        "per day to go",
        "to go",
        "per day",
        lambda d, now: {"k": (k := d.divisor(now.number, 2, 10)), "r": now.number // k},
        tell="{she} [have] {k} {sessions} left",
        work=("<that [be-]|{she} [have] to {GET}> {n} / {k} = {r item} <per|each> {session}",),
        ask="how many {items} [do] {she} have to {GET} in each {session} <to reach {his} goal|>?",
    ),
    Step(
        "every week of effort",
        "score",
        "=",
        lambda d, now: draw.product(now.number, d.between(2, 8)),
        tell="{she} [do] <this|the same> every week for {b week}",
        work=("in {b week}, {she} [GET] {n} * {b} = {r item}|{she} [GET] {n} * {b} = {r item} <in|over> the {b week}",),
        ask="how many {items} [do] {she} {GET} <in|over> {b week}?",
        after_not=("rate",),
    ),
    Step(
        "some leave",
        "people",
        "=",
        lambda d, now: now.less(d.between(3, max(3, now.number // 3))),
        tell="{c} of them [be+] <absent|sick|late> <{day1}|>|{c crowd} [have+] to <leave early|stay at home>",
        work=("<this|that> [leave-] {n} - {c} = {r crowd}|{n} - {c} = {r crowd} [be+] there",),
        ask="how many {crowds} [be+] left?",
    ),
    Step(
        "part of the people",
        "people",
        "=",
        lambda d, now: draw.chosen(draw.part(d, now.number)),
        tell="{part} of the {crowds} [sign+] up for the {event}"
        "|{part} of them [want+] to <take part in|help with> the {event}",
        work=("{calc} = {r crowd} [sign+] up for the {event}|that [be-] {calc} = {r crowd}",),
        ask="how many {crowds} [sign+] up <for the {event}|>?",
    ),
    Step(
        "percent of the people",
        "people",
        "=",
        lambda d, now: draw.left(now, draw.percent(d, now.number, 10, 20, 25, 30, 40, 50, 60)),
        tell="{q}% of <the {crowds}|them> [leave+] <early|before lunch>|{q}% of them [go+] home early",
        work=(
            "{calc} = {c crowd} [leave+]|{q}% of {n} [be-] {calc} = {c}",
            "<this|that> [leave-] {n} - {c} = {r crowd}|there [be+] {n} - {c} = {r crowd} left",
        ),
        ask="how many {crowds} [be+] left?",
    ),
    Step(
        "teams",
        "people",
        "end",
        lambda d, now: {"k": (k := d.divisor(now.number, 3, 12)), "r": now.number // k},
        tell="{she} [divide] them into {teams} of {k}|the {crowds} [be+] split into {teams} of {k}",
        work=("there [be+] {n} / {k} = {r team}|{she} [get] {n} / {k} = {r team}",),
        ask="how many {teams} [be+] there?",
    ),
    Step(
        "vehicles",
        "people",
        "vehicles",
        lambda d, now: {"k": (k := d.divisor(now.number, 4, 50)), "r": now.number // k},
        tell="<each|every> {car} [hold-] {k crowd}|they [go+] to the {event} in {cars} that [hold+] {k crowd} each",
        work=("{she} [need] {n} / {k} = {r car}|they [need+] {n} / {k} = {r car}",),
        ask="how many {cars} [do] {she} need?",
    ),
    Step(
        "rent",
        "vehicles",
        "bill",
        lambda d, now: draw.product(now.number, d.between(20, 120, 5) * 100),
        tell="it [cost-] {$b} to rent one {car}|^{an car} [cost-] {$b} for the day",
        work=("the {cars} [cost+] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r} for the {cars}",),
        ask="how much [do-] <it cost to rent the {cars}|the {cars} cost>?",
    ),
    Step(
        "tickets",
        "people",
        "income",
        lambda d, now: draw.product(now.number, d.between(2, 15) * 100),
        tell="<each|every> {crowd} [pay-] {$b} for a ticket <to the {event}|>|^a ticket <to the {event}|> [cost-] {$b}",
        work=("the tickets [bring+] in {n} * {$b} = {$r}|they [pay+] {$b} * {n} = {$r}",),
        ask="how much money [do] {she} collect <for the tickets|in total>?",
    ),
    Step(
        "things for each",
        "people",
        "supplies",
        lambda d, now: {
            **draw.product(now.number, d.between(2, 6)),
            "x": d.choice(now.scene.words["things"].split(" | ")),
        },
        tell="{she} [want] to give each {crowd} {b x}|<each|every> {crowd} [get-] {b x}",
        work=("{she} [need] {n} * {b} = {r x}|for {n crowd}, that [be-] {b} * {n} = {r x}",),
        ask="how many {xs} [do] {she} need?",
        weight=1.5,
    ),
    Step(
        "packs of supplies",
        "supplies",
        "packs",
        lambda d, now: {"k": (k := d.divisor(now.number, 4, 25)), "r": now.number // k},
        tell="they [come+] in packs of {k}",
        work=("{she} [have] to buy {n} / {k} = {r pack}|that [be-] {n} / {k} = {r pack}",),
        ask="how many packs [do] {she} <need|have to buy>?",
    ),
)

_MEASURES = (
    Step(
        "reads some",
        "pages",
        "=",
        lambda d, now: now.less(d.between(10, max(10, now.number // 3), 5)),
        tell="{day1}, {she} [read] {c page}|{she} [read] {c page} {day1}",
        work=("{she} [have] {n} - {c} = {r page} left <to read|>|<this|that> [leave-] {n} - {c} = {r page}",),
        ask="how many pages [be+] left?|how many pages [do] {she} <still have to read|have left to read>?",
    ),
    Step(
        "reads a part",
        "pages",
        "=",
        lambda d, now: draw.left(now, draw.part(d, now.number)),
        tell="{she} [read] {part} of {all} on <the weekend|Saturday>",
        work=(
            "{she} [read] {calc} = {c page} <on <the weekend|Saturday>|>|that [be-] {calc} = {c page}",
            "{she} [have] {n} - {c} = {r page} left|<this|that> [leave-] {n} - {c} = {r page}",
        ),
        ask="how many pages [be+] left?|how many pages [do] {she} have left to read?",
    ),
    Step(
        "reads on two days",
        "pages",
        "=",
        lambda d, now: draw.two_days_left(now, draw.with_times(d, d.between(10, 50, 2))),
        tell="{day1}, {she} [read] {a page}, and {day2} {times} as many",
        work=(
            "{day2}, {she} [read] {calc} = {c page}",
            "{she} [read] {a} + {c} = {t page} <in these two days|so far>",
            "{she} [have] {n} - {t} = {r page} left|<this|that> [leave-] {n} - {t} = {r page}",
        ),
        ask="how many pages [be+] left?|how many pages [do] {she} have left to read?",
    ),
    Step(
        "reads daily",
        "pages",
        "=",
        lambda d, now: draw.given(now, d.between(8, 40), d.between(2, 7)),
        tell="{she} [read] {a page} <a|every> day for {b day}",
        work=(
            "in {b day}, {she} [read] {a} * {b} = {c page}",
            "{she} [have] {n} - {c} = {r page} left|<this|that> [leave-] {n} - {c} = {r page}",
        ),
        ask="how many pages [be+] left?|how many pages [do] {she} have left to read?",
    ),
    Step(
        "finishes",
        "pages",
        "end",
        lambda d, now: {"k": (k := d.divisor(now.number, 5, 60)), "r": now.number // k},
        tell="<after that|from then on>, {she} [read] {k page} <a|every> day",
        work=("{she} [need] {n} / {k} = {r day} <to finish|>|it [take-] {him} {n} / {k} = {r day} <to finish|>",),
        ask="how many <more|> days [do] {she} need to finish?",
        weight=1.5,
    ),
    Step(
        "reading time",
        "pages",
        "minutes",
        lambda d, now: draw.product(now.number, d.between(2, 4)),
        tell="{she} [need] {b minute} for <one|a> page|it [take-] {him} {b minute} to read <one|each> page",
        work=(
            "{she} [need] {n} * {b} = {r minute} for {n page}|to read {n page}, {she} [need] {n} * {b} = {r minute}",
        ),
        ask="how many minutes [do] {she} need for {all}?",
    ),
    Step(
        "drives on",
        "miles",
        "=",
        lambda d, now: {"c": (c := d.between(10, 120, 5)), "r": now.number + c},
        tell="after <a break|lunch>, {she} [drive] another {c mile}|{she} [drive] {c} more miles after <a break|lunch>",
        work=("<in total|altogether>, {she} [drive] {n} + {c} = {r mile}|that [make-] {n} + {c} = {r mile}",),
        ask="how <many miles|far> [do] {she} drive in total?",
    ),
    Step(
        "rest of the way",
        "miles",
        "rest-miles",
        lambda d, now: draw.goal(now.number, d.between(now.number + 20, now.number + 300, 10)),
        tell="the whole <trip|way> [be-] {g mile} long|^{she} [have] to drive {g mile} in all",
        work=("{she} still [have] {g} - {n} = {r mile} to go|{g} - {n} = {r mile} [be+] left",),
        ask="how many miles [be+] left?|how many miles [do] {she} still have to drive?",
    ),
    Step(
        "way back",
        "miles",
        "end",
        lambda d, now: draw.hours(d, now.number),
        tell="<on the way back|on the way home>, {she} [drive] at {k} miles per hour",
        work=("the way back [take-] {him} {n} / {k} = {r hour}|{she} [need] {n} / {k} = {r hour} for the way back",),
        ask="how many hours [do-] the way back take?",
        weight=0.5,
    ),
    Step(
        "hours for the rest",
        "rest-miles",
        "end",
        lambda d, now: draw.hours(d, now.number),
        tell="{she} [drive] the rest of the way at {k} miles per hour",
        work=("<this|that> [take-] {him} {n} / {k} = {r hour}|{she} [need] {n} / {k} = {r hour} for it",),
        ask="how many hours [do-] that take?|how many more hours [do] {she} drive?",
    ),
    Step(
        "gas",
        "miles rest-miles round-miles",
        "gallons",
        lambda d, now: {
            "k": (k := d.one(k for k in range(10, 45) if now.number % k == 0 and now.number > k)),
            "r": now.number // k,
        },
        tell="{his} {vehicle} [go-] {k mile} on one gallon of gas"
        "|^{his} {vehicle} [use-] one gallon of gas for every {k mile}",
        work=(
            "{she} [need] {n} / {k} = {r gallon} <of gas|> for {n mile}"
            "|the {vehicle} [use-] {n} / {k} = {r gallon} of gas",
        ),
        ask="how many gallons of gas [do] {she} need <in all|>?|how much gas [do] {she} need, in gallons?",
        weight=2.0,
    ),
    Step(
        "price of gas",
        "gallons",
        "bill",
        lambda d, now: draw.product(now.number, d.between(200, 500, 25)),
        tell="<a|one|each> gallon <of gas|> [cost-] {$b}|{she} [pay] {$b} <a|per> gallon",
        work=("the gas [cost-] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r} for gas",),
        ask="how much [do] {she} <pay|spend> for gas?|how much [do-] the gas cost {him}?",
        weight=2.0,
    ),
    Step(
        "food at hand",
        "food",
        "=",
        lambda d, now: now.less(d.between(5, max(5, now.number // 2), 5)),
        tell="{she} already [have] {c food}|there [be+] {c food} in the storeroom",
        work=("{she} [need] {n} - {c} = {r} more {foods}|{she} still [need] {n} - {c} = {r food}",),
        ask="how many more {foods} [do] {she} need?",
    ),
    Step(
        "bags of food",
        "food",
        "bags",
        lambda d, now: {"k": (k := d.divisor(now.number, 4, 50)), "r": now.number // k},
        tell="<a|one|each> bag [hold-] {k food}|the food [come-] in bags with {k food} each",
        work=("{she} [need] {n} / {k} = {r bag}|that [be-] {n} / {k} = {r bag}",),
        ask="how many bags [do] {she} need?",
        weight=2.0,
    ),
    Step(
        "price of bags",
        "bags",
        "bill",
        lambda d, now: draw.product(now.number, now.price(d)),
        tell="<a|one|each> bag [cost-] {$b}|{she} [pay] {$b} <a|per> bag",
        work=("the bags [cost+] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r}",),
        ask="how much [do] {she} <pay|spend> for the bags?|how much [do+] the bags cost?",
        weight=2.0,
    ),
    Step(
        "breaks",
        "minutes",
        "=",
        lambda d, now: draw.breaks(now, d.between(2, 5), d.between(5, 15, 5)),
        tell="{she} also [take] {a} breaks of {b minute} each",
        work=(
            "the breaks [take+] {a} * {b} = {c minute}",
            "with the breaks, that [be-] {n} + {c} = {r minute}"
            "|<altogether|in total>, {she} [need] {n} + {c} = {r minute}",
        ),
        ask="how many minutes [do] {she} need <in total|with the breaks>?",
    ),
    Step(
        "hours",
        "minutes",
        "end",
        lambda d, now: {"r": d.one([now.number // 60] if now.number % 60 == 0 and now.number > 60 else [])},
        tell="",
        work=("there [be+] 60 minutes in an hour, so that [be-] {n} / 60 = {r hour}|that [be-] {n} / 60 = {r hour}",),
        ask="how many hours [be-] that?|how many hours [do-] <that|it> take {him}?",
        weight=4.0,
    ),
    Step(
        "time left",
        "minutes",
        "end",
        lambda d, now: draw.time_left(now.number, d.between(max(2, now.number // 60 + 1), now.number // 60 + 3)),
        tell="{she} [have] {k hour} <for this|of free time>",
        work=(
            "{k hour} [be+] {k} * 60 = {c minute}",
            "{she} [have] {c} - {n} = {r minute} left|<this|that> [leave-] {him} {c} - {n} = {r minute}",
        ),
        ask="how many minutes [do] {she} have left?",
        weight=0.7,
    ),
    Step(
        "gate",
        "length",
        "=",
        lambda d, now: now.less(d.between(3, 8)),
        tell="{she} [leave] {c foot} <free|> for a gate|there [be-] a gate that [be-] {c foot} wide",
        work=("without the gate, that [be-] {n} - {c} = {r foot}|{she} [need] {n} - {c} = {r foot} without the gate",),
        ask="how many feet of fence [do] {she} need?",
    ),
    Step(
        "price of fence",
        "length",
        "bill",
        lambda d, now: draw.product(now.number, now.price(d)),
        tell="<the fence|the wood> [cost-] {$b} <a|per> foot|{she} [pay] {$b} for each foot of fence",
        work=("the fence [cost-] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r} for the fence",),
        ask="how much [do-] the fence cost?|how much [do] {she} pay for the fence?",
        weight=2.0,
    ),
    Step(
        "posts",
        "length",
        "posts",
        lambda d, now: {"k": (k := d.divisor(now.number, 3, 10)), "r": now.number // k},
        tell="{she} [put] up a post every {k foot}",
        work=("{she} [need] {n} / {k} = {r post}|that [be-] {n} / {k} = {r post}",),
        ask="how many posts [do] {she} need?",
    ),
    Step(
        "price of posts",
        "posts",
        "bill",
        lambda d, now: draw.product(now.number, now.price(d)),
        tell="<a|one|each> post [cost-] {$b}",
        work=("the posts [cost+] {n} * {$b} = {$r}|{she} [pay] {$b} * {n} = {$r} for the posts",),
        ask="how much [do+] the posts cost?",
    ),
)

_MONEY = (
    Step(
        "expenses",
        "income money",
        "money",
        lambda d, now: now.less(d.between(3, max(3, now.number // 200)) * 100),
        tell="{she} [spend] {$c} {expense}|{she} [have] to spend {$c} {expense}",
        work=(
            "{she} [have] {$n} - {$c} = {$r} left|<this|that> [leave-] {him} with {$n} - {$c} = {$r}"
            "|{his} profit [be-] {$n} - {$c} = {$r}",
        ),
        ask="how much <money|> [do] {she} have left?|how much profit [do] {she} make?",
    ),
    Step(
        "spends a part",
        "income money",
        "money",
        lambda d, now: draw.left(now, draw.part(d, now.number, money=True)),
        tell="{she} [spend] {part} of {all} on {spending}",
        work=(
            "{she} [spend] {calc} = {$c} on {spending}|{she} [pay] {calc} = {$c} for {spending}",
            "{she} [have] {$n} - {$c} = {$r} left|<this|that> [leave-] {him} {$n} - {$c} = {$r}",
        ),
        ask="how much <money|> [do] {she} have left?",
    ),
    Step(
        "saves a percentage",
        "income money",
        "money",
        lambda d, now: draw.chosen(draw.percent(d, now.number, 10, 15, 20, 25, 30, 40, 50, money=True)),
        tell="{she} [save] {q}% of {all}|{she} [put] {q}% of {all} in the bank",
        work=("{she} [save] {calc} = {$r}|{his} savings [be+] {calc} = {$r}",),
        ask="how much <money|> [do] {she} save?",
    ),
    Step(
        "pays tax",
        "income",
        "money",
        lambda d, now: draw.left(now, draw.percent(d, now.number, 10, 15, 20, 25, 30, money=True)),
        tell="{she} [have] to pay {q}% of {all} in taxes|{q}% of {all} [go-] to taxes",
        work=(
            "the taxes [be+] {calc} = {$c}|{she} [pay] {calc} = {$c} in taxes",
            "{she} [keep] {$n} - {$c} = {$r}|after taxes, {she} [have] {$n} - {$c} = {$r}",
        ),
        ask="how much <money|> [do] {she} <keep|have left> <after taxes|>?",
    ),
    Step(
        "adds savings",
        "income money",
        "money",
        lambda d, now: {"c": (c := now.dollars(d, 10, 120)), "r": now.number + c},
        tell="{she} already [have] {$c} <in the bank|saved|at home>|^{she} already [have] {$c} in {his} piggy bank",
        work=(
            "<with {his} savings|altogether|in total>, {she} [have] {$n} + {$c} = {$r}"
            "|{she} now [have] {$n} + {$c} = {$r}",
        ),
        ask="how much <money|> [do] {she} have <now|in total|altogether>?",
    ),
    Step(
        "buys with it",
        "income money",
        "money",
        lambda d, now: draw.buys(d, now),
        tell="{she} [use] {all} to buy {a treat} for {$p} each|{she} [buy] {a treat} that [cost+] {$p} each",
        work=(
            "the {treats} [cost+] {a} * {$p} = {$c}|{she} [pay] {$p} * {a} = {$c} for the {treats}",
            "{she} [have] {$n} - {$c} = {$r} left|<this|that> [leave-] {him} {$n} - {$c} = {$r}",
        ),
        ask="how much <money|> [do] {she} have left?",
    ),
    Step(
        "every week",
        "income",
        "=",
        lambda d, now: draw.product(now.number, d.between(2, 8)),
        tell="{she} [do] <this|the same> for {b week} in a row",
        work=("in {b week}, that [be-] {$n} * {b} = {$r}|over {b week}, {she} [get] {b} * {$n} = {$r}",),
        ask="how much <money|> [be-] that in {b week}?",
    ),
    Step(
        "splits it",
        "income money",
        "end",
        lambda d, now: draw.equally(d, now.number, 25),
        tell="{she} [share] {all} equally with {his} {k relation}",
        work=(
            "there [be+] {k} + 1 = {m} people",
            "each of them [get-] {$n} / {m} = {$r}|everyone [get-] {$n} / {m} = {$r}",
        ),
        ask="how much <money|> [do-] each <of them|person> get?",
        weight=0.6,
    ),
    Step(
        "wants a dream",
        "income money",
        "short of",
        lambda d, now: draw.goal(now.number, now.dollars(d, now.number // 100 + 10, 2 * now.number // 100 + 60)),
        tell="{she} [want] to buy {an dream} <that [cost-]|for> {$g}"
        "|^{she} [be] saving for {an dream} that [cost-] {$g}",
        work=("{she} still [need] {$g} - {$n} = {$r}|{she} [be] {$g} - {$n} = {$r} short <of the price|>",),
        ask="how much more <money|> [do] {she} need <for the {dream}|>?",
    ),
    Step(
        "saves weekly",
        "short of",
        "end",
        lambda d, now: draw.weekly(d, now.number),
        tell="{she} [save] {$k} <a|every|each> week",
        work=("{she} [need] {$n} / {$k} = {r week} <to save the rest|>|it [take-] {him} {$n} / {$k} = {r week}",),
        ask="how many weeks [do-] it take {him} to <save the rest|get there>?",
        weight=2.0,
    ),
    Step(
        "buys as many",
        "income money",
        "end",
        lambda d, now: draw.as_many(d, now.number),
        tell="{she} [spend] {all} on {treats} <that [cost+] {$k} each|for {$k} each>",
        work=(
            "{she} [get] {$n} / {$k} = {r treat}|{she} [have] enough for {$n} / {$k} = {r treat}"
            "|{$n} / {$k} = {r}, so {she} [buy] {r treat}",
        ),
        ask="how many {treats} [do] {she} <get|buy>?",
    ),
    # Bills.
    Step(
        "coupon",
        "bill",
        "=",
        lambda d, now: draw.left(now, draw.percent(d, now.number, 10, 15, 20, 25, 30, 40, 50, money=True)),
        tell="{she} [have] a coupon for {q}% off <the total|>|there [be-] a {q}% discount on <everything|the total>"
        "|{she} [get] a discount of {q}%",
        work=(
            "the discount [be-] {calc} = {$c}|{she} [save] {calc} = {$c}",
            "<that makes the price|with the discount, {she} [pay]|{she} [have] to pay> {$n} - {$c} = {$r}",
        ),
        ask="how much [do] {she} <pay|have to pay> <in the end|after the discount|>?",
    ),
    Step(
        "voucher",
        "bill",
        "=",
        lambda d, now: now.less(now.dollars(d, 2, max(2, now.number // 300))),
        tell="{she} [have] a <gift card|voucher> for {$c}|{she} [get] {$c} off <the total|>",
        work=("{she} <only|> [have] to pay {$n} - {$c} = {$r}|after that, {$n} - {$c} = {$r} [be-] left to pay",),
        ask="how much [do] {she} <pay|have to pay> <in the end|>?",
    ),
    Step(
        "tax or tip",
        "bill",
        "=",
        lambda d, now: draw.added(now, draw.percent(d, now.number, 5, 10, 15, 20, money=True)),
        tell="{she} also [pay] {q}% in <taxes|fees>|there [be-] a {q}% <sales tax|service fee> on top",
        work=(
            "<the extra cost [be-]|that adds> {calc} = {$c}",
            "<in total|altogether|with this>, {she} [pay] {$n} + {$c} = {$r}|the total [be-] {$n} + {$c} = {$r}",
        ),
        ask="how much [do] {she} pay <in total|altogether>?",
    ),
    Step(
        "delivery",
        "bill",
        "=",
        lambda d, now: {"c": (c := now.dollars(d, 3, 15)), "r": now.number + c},
        tell="{she} also [pay] {$c} for delivery|delivery [cost-] <another|> {$c}",
        work=("with delivery, {she} [pay] {$n} + {$c} = {$r}|the total with delivery [be-] {$n} + {$c} = {$r}",),
        ask="how much [do] {she} pay <in total|altogether>?",
    ),
    Step(
        "change",
        "bill",
        "end",
        lambda d, now: draw.change(d, now.number),
        tell="{she} [pay] with {notes}|{she} [hand] the cashier {notes}",
        work=("{she} [get] {$g} - {$n} = {$r} <back|in change>|{his} change [be-] {$g} - {$n} = {$r}",),
        ask="how much <change|money> [do] {she} get back?|how much change [do] {she} get?",
        weight=1.5,
    ),
    Step(
        "left of the budget",
        "bill",
        "money left",
        lambda d, now: draw.goal(now.number, now.dollars(d, now.number // 100 + 5, 2 * now.number // 100 + 40)),
        tell="^{she} [have] {$g} <to spend|in {his} wallet|with {him}>|^{she} [have] a budget of {$g}",
        work=("{she} [have] {$g} - {$n} = {$r} left|<this|that> [leave-] {him} with {$g} - {$n} = {$r}",),
        ask="how much <money|> [do] {she} have left?",
        weight=1.5,
    ),
    Step(
        "splits the bill",
        "bill",
        "end",
        lambda d, now: draw.equally(d, now.number, 25),
        tell="{she} [split] the cost equally with {his} {k relation}",
        work=(
            "there [be+] {k} + 1 = {m} people",
            "each of them [pay-] {$n} / {m} = {$r}|everyone [pay-] {$n} / {m} = {$r}",
        ),
        ask="how much [do-] each <of them|person> pay?",
    ),
)

STEPS = _START + _THINGS + _PEOPLE + _MEASURES + _MONEY
