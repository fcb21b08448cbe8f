"""One command for all of them; each is `python -m` of its module as well.

    entrodrop init data.jsonl           python -m search.init data.jsonl
    entrodrop run math                  python -m search.run spaces/math.yaml
    entrodrop status runs/math          python -m search.status runs/math
    entrodrop finetune schedule.yaml    python -m trainables.finetune schedule.yaml

Unlike `python -m`, it is not taken in by a file `search.py` in the current folder.
"""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module

from trainables.errors import nearest_word

_COMMANDS = {
    "init": ("search.init", "write a space for your data"),
    "run": ("search.run", "search for the schedule that suits your data and models"),
    "status": ("search.status", "how a search stands"),
    "watch": ("search.watch", "a page that follows a search while it runs"),
    "report": ("search.report", "write the report of a search, or of several side by side"),
    "best": ("search.best", "list the schedules that searches have confirmed"),
    "evaluate": ("search.evaluate", "run tasks of lm-evaluation-harness on the models of a confirmation"),
    "sync": ("search.sync", "deliver to MLflow what a search has left"),
    "finetune": ("trainables.finetune", "train once, with a schedule"),
}
_USAGE = "usage: entrodrop COMMAND [ARGUMENTS]\n\n" + "\n".join(
    [*(f"  {name:9} {about}" for name, (_, about) in _COMMANDS.items()), "\n`entrodrop COMMAND --help` says more."]
)


def main(arguments: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_USAGE)
        return 0
    if name not in _COMMANDS:
        nearest = nearest_word(name, _COMMANDS)
        hint = f"; did you mean '{nearest}'?" if nearest else ""
        print(f"entrodrop: given {name!r}; allowed: {', '.join(_COMMANDS)}{hint}", file=sys.stderr)
        return 2
    module = import_module(_COMMANDS[name][0])
    code: int = module.main(rest)
    # As it ends Python looks through all objects once more: of torch, Ray and MLflow, for seconds.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
