"""What a person is told of a model or data set that the hub does not give."""

import socket
from unittest import mock

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trainables.errors import ModelError
from trainables.models.resolve import advice, check_hub


class ConnectTimeout(Exception):
    """As the client's HTTP library has it: not a kind of OSError."""


def answered(error: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = mock.Mock(status_code=status, headers={})
    return error(f"{status} of a server.\nRequest id 1", response=response)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (answered(GatedRepoError, 403), "accept its conditions on https://huggingface.co/a/b and set HF_TOKEN"),
        (
            answered(RepositoryNotFoundError, 404),
            "https://huggingface.co has no model a/b; mend the name, or set HF_TOKEN if it is private",
        ),
        (answered(RevisionNotFoundError, 404), "a/b has no such revision; name another"),
        (
            answered(HfHubHTTPError, 503),
            "https://huggingface.co does not give the model a/b (503 of a server); try again",
        ),
        (socket.gaierror(-2, "Name or service not known"), "cannot be reached: [Errno -2] Name or service not known;"),
        (ConnectTimeout(""), "https://huggingface.co cannot be reached: ConnectTimeout;"),
        (TimeoutError(), "made elsewhere by `hf download a/b --local-dir FOLDER`"),
    ],
)
def test_what_can_be_done(error: Exception, told: str) -> None:
    assert told in advice("model", "a/b", error)


def test_what_can_be_done_about_data() -> None:
    assert "https://huggingface.co/datasets/a/b and" in advice("dataset", "a/b", answered(GatedRepoError, 403))
    told = advice("dataset", "a/b", ConnectionError("no route"))
    assert told.startswith("a/b is not in the local cache, and ")
    assert told.endswith("`hf download --repo-type dataset a/b --local-dir FOLDER`")


def test_a_hub_that_is_not_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = advice("model", "a/b", OfflineModeIsEnabled("Cannot reach it: offline mode is enabled."))
    assert told.startswith("a/b is not in the local cache, and HF_HUB_OFFLINE is set; name a local folder of it")


class TestAModelIsAskedFor:
    def test_none_that_is_here(self) -> None:
        with mock.patch("trainables.models.resolve.ask_for_model", side_effect=AssertionError):
            check_hub("builtin/nano")

    def test_one_that_is_not(self) -> None:
        with mock.patch("trainables.models.resolve.ask_for_model") as ask:
            check_hub("hub:nobody/nothing@main")
        ask.assert_called_once_with("nobody/nothing", "main")

    def test_one_that_cannot_be_had(self) -> None:
        with (
            mock.patch("trainables.models.resolve.ask_for_model", side_effect=ConnectTimeout("no route")),
            pytest.raises(
                ModelError, match=r"models: nobody/nothing is not in the local .*cannot be reached: no route;"
            ),
        ):
            check_hub("hub:nobody/nothing")
