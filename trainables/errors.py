"""What a person can mend, as errors of one line without credentials."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Characters of a value that an error shows.
LONGEST = 80


class DataError(ValueError):
    """Data that cannot be used: a value, or a situation (see `describe_problem`).

    `field` names the setting to mend (as in data.train), `nearest` what may be meant.
    """

    def __init__(self, field: str, given: str, allowed: str | None = None, nearest: str | None = None) -> None:
        # All arguments in `args`: the error travels from a Ray worker to the driver.
        super().__init__(field, given, allowed, nearest)
        self.field, self.given, self.allowed, self.nearest = field, given, allowed, nearest

    def __str__(self) -> str:
        return f"{self.field}: {describe_problem(self.given, self.allowed, self.nearest)}"


class ModelError(DataError):
    """A model that cannot be used."""


class ConfigError(ValueError):
    """A configuration that cannot be used; str() is one line for the person who wrote it, or one for each thing."""


def describe_problem(given: str, allowed: str | None = None, nearest: str | None = None) -> str:
    """A value, "given X; allowed: Y"; or without `allowed` a situation, in `given`: "what is wrong; what to do"."""
    text = given if allowed is None else f"given {given}; allowed: {allowed}"
    return f"{text}; did you mean '{nearest}'?" if nearest else text


def nearest_word(word: object, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` may be a slip of."""
    matches = get_close_matches(word, list(words), n=1) if isinstance(word, str) else []
    return matches[0] if matches else None


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` on one line of at most `longest` characters, without credentials."""
    # Escaped first: a password with a line break in it is masked whole.
    text = mask_secrets("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
    if len(text) > longest and "/" in text:
        # What follows a long path is the reason.
        longest *= 2
        text = _LONG_WORD.sub(_without_middle, _LONG_PATH.sub(_without_middle, text))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


# The folders of a path have few spaces in their names, and none at the ends: a sentence between two paths is no folder.
_LONG_PATH = re.compile(r"/(?:[^\s/:;()]+(?: [^\s/:;()]+){0,2}/){2,}")
_LONG_WORD = re.compile(r"[^\s/]{50,}")


def _without_middle(long: re.Match[str]) -> str:
    return f"{long[0][:15]}...{long[0][-15:]}" if len(long[0]) > 33 else long[0]


# The column of a template, as in {question}: what has one is a text of the user's, and no secret.
_COLUMN = r"\{[^{}]*\}"
# What is given as key=value, as in ?token=... or password=...; mask_token is a setting.
_NAMED = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)|secret|(?<!mask_)token|(?:api|access)[_-]?key|sig(?:nature)?)=)"
    rf"(?![^&\s]*{_COLUMN})[^&\s]+"
)
# Up to the last @ of the line: no odd character in a password lets a part of it through.
_AFTER_USER = re.compile(rf"(://[^/\s:@{{}}]*):(?:(?!{_COLUMN}).)*@")
# A token alone, as in https://token@host.
_ALONE = re.compile(r"://[^/\s@*{}]+@")
# Without a scheme, as in user:password@host; hub:owner/name@revision is a model, 12:30@noon a time.
_WITHOUT_SCHEME = re.compile(rf"(?<![\w./{{-])(?!hub:[\w.-]+/[\w.-]+@|\d+:)([\w.+-]+):(?!//)(?:(?!{_COLUMN})\S)+@")


# Settings whose text is the user's own: what looks like a secret in it is trained on.
TEMPLATES = ("template", "prompt", "answer", "chat_template")


def mask_secrets(text: str) -> str:
    """`text` with the passwords and tokens in its URLs, and those given as key=value, masked."""
    text = _AFTER_USER.sub(r"\1:***@", text)
    text = _ALONE.sub("://***@", text)
    text = _WITHOUT_SCHEME.sub(r"\1:***@", text)
    return _NAMED.sub(r"\1***", text)
