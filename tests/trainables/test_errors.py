"""No credential gets into a text that is shown or stored."""

import pytest

from trainables.errors import mask_secrets, one_line

HIDDEN = [
    "uri: http://user:hunter2@host, template: '{answer}@home'",
    "http://user:hunter2@host",
    "http://user:p@ss:/hunter2@host",
    "http://hunter2@host/path",
    "http://:hunter2@host",
    "user:hunter2@host",
    "user:p@hunter2@host",
    "mysql://user:my hunter2 @host/db",
    "s3://key:hunter2/more+=@bucket/a",
    "postgresql://host/db?user=me&password=hunter2",
    "https://host/?token=hunter2",
    "https://host/?access_token=hunter2&b=1",
    "--set tracking.password=hunter2",
    "api_key=hunter2",
    "X-API-Key=hunter2",
    "client_secret=hunter2",
    "https://host/a?X-Amz-Signature=hunter2",
    "https://host/a?sv=1&sig=hunter2",
    "Error: http://user:hunter2@host refused http://user:hunter2@other/",
    '{"uri": "http://user:hunter2@host", "models": ["hub:a/b@v1"]}',
]
SHOWN = [
    "sqlite:///mlflow.db",
    "http://localhost:5000",
    "hub:owner/name@revision",
    'models.1: given "hub:owner/name@v1.0"',
    "schedule.mask_token=<none>",
    "budget.tokens=1000000",
    "reach me at me@host.org: after nine",
    "training.lora={rank: 8, alpha: 16}",
    "data.template=signal: sig={x} token={the word} {answer?}",
    'sig="{x}" sig=<{x}> mailto:{user}@{host} at 12:30@noon {a:b}@{c}',
    "Mail a:{question}@home, see http://{question}:80@h; ratio 1:2@3 {answer}",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_a_secret_is_masked(text: str) -> None:
    assert "hunter2" not in mask_secrets(text)
    assert "***" in mask_secrets(text)
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert mask_secrets(text) == text


def test_the_host_stays_to_be_recognized() -> None:
    assert mask_secrets("http://me:pw@host/db") == "http://me:***@host/db"
    assert mask_secrets("a: 1\nuri: http://me:pw@host\nb: 2 @x") == "a: 1\nuri: http://me:***@host\nb: 2 @x"


@pytest.mark.parametrize("folder", ["some models/a b c/tiny", "0123456789/" * 8 + "tiny", "My Models/v 1.5/a"])
def test_a_reason_between_two_paths_is_shown(folder: str) -> None:
    path = f"/home/someone/work/{folder}"
    text = f"The folder {path} contains code which must be run to load the model of {path}, which is not done here"
    shown = one_line(text, 120)
    assert " contains code which must be run to load the model of " in shown
    assert shown.endswith(", which is not done here")
