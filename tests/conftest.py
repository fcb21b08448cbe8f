"""Fixtures that all tests share."""

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def file(content: str | bytes, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
