"""What a search keeps in its output folder, and which of it a command needs."""

from pathlib import Path

from trainables.errors import ConfigError, one_line

SPACE, RESOLVED = "space.yaml", "resolved.yaml"
EVENTS, JOURNAL, OUTBOX = "events.jsonl", "study.journal", "mlflow.outbox"
SUMMARY, REPORT, MODELS = "summary.json", "report.html", "models"


def check_holds(folder: Path, *names: str) -> None:
    """Raises ConfigError if a file that a search keeps is not in `folder`."""
    try:
        holds = all((folder / name).is_file() for name in names)
    except OSError as error:
        given = one_line(str(folder))
        raise ConfigError(f"DIR: given {given}; allowed: a folder that can be read ({error.strerror})") from None
    if not holds:
        raise ConfigError(f"DIR: given {folder}, which holds no search; allowed: the output folder of one")
