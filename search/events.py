"""events.jsonl, in which a search tells everything that happens, one line each."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.errors import ConfigError

TRIAL_EVENTS = ("trial_started", "evaluation", "trial_ended")
# What readers take from each kind of event.
_TRIAL = ("study", "trial")
_KEYS = {
    "search_started": ("planned", "resume_command"),
    "trial_started": (*_TRIAL, "arm", "parameters", "planned", "full_tokens", "tokens"),
    "evaluation": (*_TRIAL, "tokens", "full_tokens", "high_entropy_loss", "epoch"),
    "trial_ended": (*_TRIAL, "state", "reason", "objective"),
    "models_allotted": ("models", "workers", "slots"),
    "slots_changed": ("slots",),
    "model_registered": (*_TRIAL, "name"),
    "search_ended": ("status",),
}


class Events:
    """Reads the events that a search has written, also while it writes more.

    Args:
        path: of events.jsonl.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = self._lines = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """What has been written since the last call. A line that is not whole is still being written, or was when the
        search was killed.

        Raises:
            ConfigError: a line that no search has written.
        """
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                self._lines += 1
                yield self._checked(line)

    def hand_to(self, follow: Callable[[dict[str, Any]], None]) -> None:
        """Gives each event that has been written since the last call to `follow`.

        Raises:
            ConfigError: a line that no search has written, or that does not follow from the lines before.
        """
        for event in self.new():
            try:
                follow(event)
            except (KeyError, TypeError, ValueError):
                raise self._wrong("what does not follow from the lines before") from None

    def _checked(self, line: bytes) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line)
            float(event["time"])
            missing = [key for key in _KEYS[event["event"]] if key not in event]
        except (ValueError, KeyError, TypeError):
            missing = ["event"]
        if missing:
            raise self._wrong(f"a line without {missing[0]}")
        return event

    def _wrong(self, given: str) -> ConfigError:
        """The error of the line that was read last."""
        return ConfigError(f"DIR: {self._path}:{self._lines}: given {given}; allowed: the file as a search writes it")
