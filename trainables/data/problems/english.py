"""As much English grammar as the generators of text need: plurals, verbs, articles, numbers in words."""

_PLURALS = {"person": "people", "child": "children", "foot": "feet", "loaf": "loaves", "shelf": "shelves"}
_PAST = {
    "babysit": "babysat", "be": "was", "break": "broke", "bring": "brought", "buy": "bought", "catch": "caught",
    "come": "came", "cost": "cost", "cut": "cut", "do": "did", "draw": "drew", "drive": "drove", "eat": "ate",
    "feed": "fed", "find": "found", "get": "got", "give": "gave", "go": "went", "grow": "grew", "have": "had",
    "hold": "held", "keep": "kept", "leave": "left", "lose": "lost", "make": "made", "pay": "paid", "put": "put",
    "read": "read", "ride": "rode", "run": "ran", "see": "saw", "sell": "sold", "set": "set", "spend": "spent",
    "split": "split", "swim": "swam", "take": "took", "throw": "threw", "win": "won", "write": "wrote",
}  # fmt: skip
_THIRD_PERSON = {"be": "is", "have": "has", "do": "does", "go": "goes"}
_SINGLE_CONSONANT = {"drop": "dropped", "jog": "jogged", "pop": "popped", "plan": "planned", "stop": "stopped"}


def listed(text: str, between: str | None = None) -> tuple[str, ...]:
    """The words of a text, or its parts between `between`."""
    return tuple(text.split(between))


_WORDS = listed("zero one two three four five six seven eight nine ten eleven twelve")


def plural(noun: str) -> str:
    """The plural; of a noun like "bottle of water", that of the first word."""
    head, of, rest = noun.partition(" of ")
    before, _, word = head.rpartition(" ")
    if word in _PLURALS:
        word = _PLURALS[word]
    elif word.endswith(("s", "x", "ch", "sh")) or word in ("potato", "tomato"):
        word += "es"
    elif word.endswith("y") and word[-2] not in "aeiou":
        word = word[:-1] + "ies"
    else:
        word += "s"
    return f"{before} {word}{of}{rest}".strip()


def counted(number: int, noun: str, shown: str | None = None) -> str:
    """As in "1 apple", "2 apples", and "two apples" if the number is shown as "two"."""
    return f"{shown or number} {noun if number == 1 else plural(noun)}"


def verb(phrase: str, many: bool, past: bool) -> str:
    """Inflects the first word: give away, gives away, gave away."""
    word, space, rest = phrase.partition(" ")
    if past:
        if word == "be":
            word = "were" if many else "was"
        elif word in _PAST:
            word = _PAST[word]
        elif word in _SINGLE_CONSONANT:
            word = _SINGLE_CONSONANT[word]
        elif word.endswith("y") and word[-2] not in "aeiou":
            word = word[:-1] + "ied"
        else:
            word += "d" if word.endswith("e") else "ed"
    elif many:
        word = "are" if word == "be" else word
    else:
        word = _THIRD_PERSON[word] if word in _THIRD_PERSON else plural(word)
    return word + space + rest


def with_article(noun: str) -> str:
    vowel = (noun[0] in "aeiou" and not noun.startswith(("uni", "one", "use"))) or noun.startswith("hour")
    return f"{'an' if vowel else 'a'} {noun}"


def in_words(number: int) -> str:
    """Small numbers in words, others in digits."""
    return _WORDS[number] if 0 <= number < len(_WORDS) else str(number)
