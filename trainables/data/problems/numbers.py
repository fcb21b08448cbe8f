"""The numbers of a word problem's steps: how they are drawn so that everything comes out even.

What a function returns names its numbers as the texts of steps.py do: "r" is the result, "c"
what is taken, added or compared on the way. Amounts of money are in cents.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from trainables.data.problems.scenes import Scene

Value = int | str
Numbers = dict[str, Value]


class UnfitError(Exception):
    """The numbers so far allow no such step."""


class Dice(Random):
    """Draws numbers that come out even."""

    def one(self, options: Iterable[int]) -> int:
        allowed = list(options)
        if not allowed:
            raise UnfitError
        return self.choice(allowed)

    def between(self, low: int, high: int, step: int = 1) -> int:
        return self.one(range(low, high + 1, step))

    def divisor(self, number: int, low: int = 2, high: int = 12) -> int:
        """One that leaves at least two parts."""
        return self.one(d for d in range(low, min(high, number // 2) + 1) if number % d == 0)

    def around(self, dollars: int) -> int:
        """A price in cents: whole dollars where these are many, and at times a multiple of 25 cents."""
        low, high = 70 * dollars, 140 * dollars
        if high - low >= 200 and self.random() < 0.8:
            return self.between(-(-low // 100) * 100, high, 100)
        return self.between(-(-low // 25) * 25, high, 25)


@dataclass(frozen=True)
class Now:
    """What a step goes on from: the current number, in cents if it is money."""

    number: int
    scene: Scene
    second: int = 0  # the other person's, if there is one

    def price(self, d: Dice) -> int:
        """In cents: whole dollars where the scene has many of these, and at times a multiple of 25 cents."""
        low, high = self.scene.price
        if high >= 300 and d.random() < 0.75:
            return self.dollars(d, -(-low // 100), high // 100)
        return d.between(-(-low // 25) * 25, high, 25)

    def dollars(self, d: Dice, low: int, high: int) -> int:
        return 100 * d.between(low, high)

    def box_price(self, d: Dice) -> int:
        low, high = self.scene.price
        return self.dollars(d, max(1, 3 * low // 100), max(3, min(60, 6 * high // 100)))

    def less(self, c: int, **others: Value) -> Numbers:
        """What is left without c."""
        if not 0 < c < self.number:
            raise UnfitError
        return {"c": c, "r": self.number - c, **others}


def total(a: int, b: int, **others: Value) -> Numbers:
    return {"a": a, "b": b, "r": a + b, **others}


def product(a: int, b: int, **others: Value) -> Numbers:
    return {"a": a, "b": b, "r": a * b, **others}


def times(d: Dice, a: int) -> Numbers:
    """Some times as many as a: the number "c", the factor in words, and how it is worked out."""
    k = d.choice((0, 2, 2, 3, 4, 5))
    if not k and (a % 2 or a < 4):
        raise UnfitError
    words = ("half", "", "twice", "<three|3> times", "<four|4> times", "<five|5> times")[k]
    return {"a": a, "k": k, "times": words, "c": a * k if k else a // 2, "calc": "{a} * {k}" if k else "{a} / 2"}


def with_times(d: Dice, a: int) -> Numbers:
    second = times(d, a)
    return {**second, "r": a + int(second["c"])}


def more(d: Dice, a: int) -> Numbers:
    """Some more or fewer than a: the number "c", and how it is worked out."""
    k = d.between(2, max(2, a // 2))
    more = d.random() < 0.6 or a < 6
    c = a + k if more else a - k
    return {"a": a, "k": k, "more": "more" if more else "fewer", "c": c, "calc": "{a} + {k}" if more else "{a} - {k}"}


def with_more(d: Dice, a: int) -> Numbers:
    second = more(d, a)
    return {**second, "r": a + int(second["c"])}


def gap(second: Numbers) -> Numbers:
    """How far two quantities are apart."""
    a, c = int(second["a"]), int(second["c"])
    if a == c:
        raise UnfitError
    return {
        **second,
        "r": abs(a - c),
        "minus": "{a} - {c}" if a > c else "{c} - {a}",
        "ahead": "{name}" if a > c else "{other}",
        "behind": "{other}" if a > c else "{name}",
    }


_PARTS = {
    (1, 2): "half",
    (1, 3): "<a|one> third",
    (1, 4): "<a quarter|one fourth|a fourth>",
    (1, 5): "<a|one> fifth",
    (2, 3): "two thirds",
    (3, 4): "three <quarters|fourths>",
    (2, 5): "two fifths",
    (1, 6): "<a|one> sixth",
    (1, 10): "<a|one> tenth",
    (3, 5): "three fifths",
}


def part(d: Dice, n: int, money: bool = False) -> Numbers:
    """A fraction of n: the number "c", the fraction in words, and how it is worked out."""
    fits = [(u, v) for u, v in _PARTS if n % ((100 if money else 1) * v) == 0 and n * u // v > 1]
    u, v = fits[d.one(range(len(fits)))]
    calc = "<{n} / {v}|{n} * 1/{v}|1/{v} * {n}>" if u == 1 else "<{n} * {u}/{v}|{u}/{v} * {n}>"
    return {
        "c": n * u // v,
        "u": u,
        "v": v,
        "part": _PARTS[u, v],
        "calc": calc.replace("{n}", "{$n}" if money else "{n}"),
    }


def percent(d: Dice, n: int, *choices: int, money: bool = False) -> Numbers:
    """A percentage of n: the number "c", and how it is worked out."""
    q = d.one(q for q in choices if n * q % (5000 if money else 100) == 0)
    calc = "<{n} * {q}/100|{q}/100 * {n}|{n} * {decimal}>".replace("{n}", "{$n}" if money else "{n}")
    return {"c": n * q // 100, "q": q, "decimal": f"0.{q:02}".rstrip("0"), "calc": calc}


def left(now: Now, share: Numbers) -> Numbers:
    return now.less(int(share["c"]), **{name: value for name, value in share.items() if name != "c"})


def with_percent_more(d: Dice, a: int) -> Numbers:
    share = percent(d, a, 10, 20, 25, 50, 75)
    c = int(share["c"])
    return {"a": a, **share, "calc": str(share["calc"]).replace("{n}", "{a}"), "e": a + c, "r": a + a + c}


def sold_in_two_ways(d: Dice, now: Now) -> Numbers:
    """A part at one price, the rest at another."""
    share = left(now, part(d, now.number))
    p, q = now.price(d), now.price(d)
    first, second = int(share["c"]) * p, int(share["r"]) * q
    return {**share, "rest": share["r"], "p": p, "q": q, "first": first, "second": second, "r": first + second}


def bought(d: Dice, now: Now, *counts: int) -> Numbers:
    """Things of the scene with their prices: x, y and z, counts a, b and c, prices p, q and s, costs e, f and g."""
    chosen = [thing.split(":") for thing in d.sample(now.scene.words["things"].split(" | "), len(counts))]
    prices = [d.around(int(dollars)) for _, dollars in chosen]
    costs = [count * price for count, price in zip(counts, prices, strict=True)]
    numbers: Numbers = {"r": sum(costs)}
    for names, values in (("xyz", [thing for thing, _ in chosen]), ("abc", counts), ("pqs", prices), ("efg", costs)):
        numbers |= dict(zip(names, values, strict=False))
    return numbers


def three(a: int, b: int, c: int) -> Numbers:
    return {"a": a, "b": b, "c": c, "e": a * b, "r": a * b * c}


def legs(a: int, b: int, c: int, k: int) -> Numbers:
    return {"a": a, "b": b, "c": c, "k": k, "e": a * b, "f": c * k, "r": a * b + c * k}


def average(a: int, b: int, c: int) -> Numbers:
    if (a + b + c) % 3:
        raise UnfitError
    return {"a": a, "b": b, "c": c, "t": a + b + c, "r": (a + b + c) // 3}


def overtime(a: int, k: int, b: int, c: int) -> Numbers:
    return {"a": a, "k": k, "b": b, "c": c, "e": b * a, "f": a + k, "g": c * (a + k), "r": b * a + c * (a + k)}


def dearer(d: Dice, now: Now) -> Numbers:
    """Some things, and one of another kind that costs k times as much."""
    numbers = bought(d, now, d.between(2, 6), 1)
    p = int(numbers["p"])
    k = round(int(numbers["q"]) / p)
    if not 2 <= k <= 5:
        raise UnfitError
    return {**numbers, "k": k, "q": k * p, "r": int(numbers["e"]) + k * p}


def exercises(d: Dice, now: Now, a: int, b: int) -> Numbers:
    x, y = d.sample(now.scene.words["subjects"].split(" | "), 2)
    return {"x": x, "y": y, **product(a, b)}


def around(a: int, b: int) -> Numbers:
    if a <= b:
        raise UnfitError
    return {"a": a, "b": b, "c": a + b, "r": 2 * (a + b)}


def given(now: Now, a: int, b: int) -> Numbers:
    return now.less(a * b, a=a, b=b)


def packed(now: Now, k: int) -> Numbers:
    q = now.number // k
    if q < 2 or now.number % k < 2:
        raise UnfitError
    return {"k": k, "q": q, "c": q * k, "r": now.number % k}


def equally(d: Dice, n: int, unit: int = 1) -> Numbers:
    """Among someone and k others; to each a multiple of the unit."""
    k = d.one(k for k in range(2, 6) if n % ((k + 1) * unit) == 0)
    return {"k": k, "m": k + 1, "r": n // (k + 1)}


def goal(n: int, g: int) -> Numbers:
    return {"g": g, "r": g - n}


def boys_and_girls(d: Dice, numbers: Numbers) -> Numbers:
    x, y = d.sample(("boys", "girls"), 2)
    return {**numbers, "x": x, "y": y}


def chosen(share: Numbers) -> Numbers:
    return {**share, "r": share["c"]}


def added(now: Now, share: Numbers) -> Numbers:
    return {**share, "r": now.number + int(share["c"])}


def two_days_left(now: Now, days: Numbers) -> Numbers:
    return {**days, "t": days["r"], **now.less(int(days["r"])), "c": days["c"]}


def breaks(now: Now, a: int, b: int) -> Numbers:
    return {"a": a, "b": b, "c": a * b, "r": now.number + a * b}


def time_left(n: int, k: int) -> Numbers:
    return {"k": k, "c": 60 * k, "r": 60 * k - n}


def buys(d: Dice, now: Now) -> Numbers:
    a, p = d.between(2, 6), now.dollars(d, 3, 25)
    return now.less(a * p, a=a, p=p)


def hours(d: Dice, n: int) -> Numbers:
    k = d.one(k for k in range(20, 75, 5) if n % k == 0 and n > k)
    return {"k": k, "r": n // k}


def weekly(d: Dice, n: int) -> Numbers:
    k = d.one(k for k in range(200, 5000, 100) if n % k == 0 and 2 <= n // k <= 20)
    return {"k": k, "r": n // k}


def as_many(d: Dice, n: int) -> Numbers:
    k = d.one(k for k in range(200, 3000, 50) if n % k == 0 and 2 <= n // k <= 30)
    return {"k": k, "r": n // k}


_NOTES = {
    10: "a $10 bill",
    20: "a $20 bill",
    40: "two $20 bills",
    50: "a $50 bill",
    60: "three $20 bills",
    80: "four $20 bills",
    100: "a $100 bill",
    150: "three $50 bills",
    200: "two $100 bills",
    300: "three $100 bills",
    500: "five $100 bills",
}


def change(d: Dice, n: int) -> Numbers:
    g = d.one(g for g in _NOTES if n < 100 * g <= 2 * n + 1000)
    return {"g": 100 * g, "notes": _NOTES[g], "r": 100 * g - n}
