"""Credentials have no place in what is shown, logged or recorded."""

import re

# What is given as key=value, as in ?token=... or password=...; mask_token is a setting.
_NAMED = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)|secret|(?<!mask_)token|(?:api|access)[_-]?key|sig(?:nature)?)=)[^&\s]+"
)
# Up to the last @ of the line: no odd character in a password lets a part of it through.
_AFTER_USER = re.compile(r"(://[^/\s:@]*):.*@")
# A token alone, as in https://token@host.
_ALONE = re.compile(r"://[^/\s@*]+@")
# Without a scheme, as in user:password@host; hub:owner/name@revision is a model.
_WITHOUT_SCHEME = re.compile(r"(?<![\w./-])(?!hub:[\w.-]+/[\w.-]+@)([\w.+-]+):(?!//)\S+@")


def mask_secrets(text: str) -> str:
    """`text` with the passwords and tokens in its URLs, and those given as key=value, masked."""
    text = _AFTER_USER.sub(r"\1:***@", text)
    text = _ALONE.sub("://***@", text)
    text = _WITHOUT_SCHEME.sub(r"\1:***@", text)
    return _NAMED.sub(r"\1***", text)
