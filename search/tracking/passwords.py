"""Passwords are not for the record."""

import re


def mask_secrets(text: str) -> str:
    """`text` with the passwords in its URLs masked."""
    # Up to the last @ of the word: no odd character in a password lets a part of it through.
    text = re.sub(r"(://[^/\s:@]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&](?:password|token|secret)=)[^&\s]+", r"\1***", text)
