import errno
import io

import pytest

from trainables.config.command_line import exit_code
from trainables.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("DIR: given x; allowed: y"), 2, "DIR: given x; allowed: y"),
        (OSError(errno.ENOSPC, "No space left on device", "report.html"), 1, "report.html: No space left on device"),
        (OSError("no name"), 1, "no name"),
        (KeyboardInterrupt(), 130, "go on with: again"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert exit_code(command, interrupted="go on with: again") == code
    assert capsys.readouterr() == ("", f"{told}\n")


def test_what_a_command_returns_is_its_code() -> None:
    assert exit_code(lambda: 3) == 3


def test_a_character_that_stdout_has_not_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert exit_code(lambda: print("größer") or 0) == 0  # type: ignore[func-returns-value]
    assert written.getvalue() == b"gr\\xf6\\xdfer\n"
