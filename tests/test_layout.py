"""The folders of the two packages are floors of a house: what one imports does not import it in turn."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(package: str) -> dict[str, set[str]]:
    """Of each folder, the folders that its files import from. The files at the top, most of them commands, stand
    above and below all."""
    found = defaultdict(set)
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                path = ROOT.joinpath(*str(node.module).split("."))
                folder = path if path.is_dir() else path.parent
                if folder != file.parent:
                    found[str(file.parent.relative_to(ROOT))].add(str(folder.relative_to(ROOT)))
    del found[package]
    return {folder: imported - {package} for folder, imported in found.items()}


@pytest.mark.parametrize("package", ["search", "trainables"])
def test_no_folder_imports_one_that_imports_it(package: str) -> None:
    above = imports(package)
    assert len(above) > 5
    while above:
        floor = {folder for folder, imported in above.items() if not imported & above.keys()}
        assert floor, f"in a circle: {sorted(above)}"
        above = {folder: imported for folder, imported in above.items() if folder not in floor}
