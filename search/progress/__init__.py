"""What a person watches while a search runs."""

import time


def stamped(message: str) -> str:
    """A line of the log, with its time."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
