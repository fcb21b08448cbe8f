"""Prints a command of the README's quick start: `python .ci/readme_command.py run` or `... tests`."""

import re
import sys
from pathlib import Path


def quick_start() -> dict[str, str]:
    """The two commands of the quick start, by what they are for."""
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    section = text.split("## Quick start")[1].split("\n## ")[0]
    commands = [block.strip() for block in re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)]
    return dict(zip(("run", "tests"), commands, strict=True))


if __name__ == "__main__":
    print(quick_start()[sys.argv[1]])
