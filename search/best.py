"""The schedules that searches have confirmed, from any MLflow server; and one of them as a file to fine-tune with.

    python -m search.best                                                     all
    python -m search.best --experiment entrodrop-math --model builtin/nano
    python -m search.best --model builtin/nano --output schedule.yaml         writes the best one

The best one is the one that was confirmed better by the most. It takes MLFLOW_TRACKING_URI, or --uri.

Exit codes: 0 found, 2 something in the arguments is wrong, or MLflow does not answer.
"""

import argparse
import difflib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.tracking.runs import new_client
from search.verdict import Verdict
from search.whole import write_whole
from trainables.config.errors import one_line
from trainables.config.file import ConfigError
from trainables.config.models import slug
from trainables.config.secrets import mask_secrets

_PAGE = 500
_DEFAULT_URI = "sqlite:///mlflow.db"


@dataclass(frozen=True)
class Confirmed:
    """What a search says of a model.

    Attributes:
        difference: in high-entropy test loss to no dropout, in nats, with its interval (low, high).
    """

    search: str
    experiment: str
    run_id: str
    model: str
    arm: str
    verdict: str
    difference: float
    low: float
    high: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_URI
        client = new_client(uri)
        try:
            found = _confirmed(client, options.experiment)
        except ConfigError:
            raise
        except Exception as error:
            reason = one_line(mask_secrets(str(error)).partition("\n")[0])
            raise ConfigError(
                f"--uri: given {mask_secrets(uri)}, which does not answer; allowed: MLflow ({reason})"
            ) from None
        found = _of_model(found, options.model)
        if options.output is None:
            for one in found:
                print(_line(one))
            return 0
        best = next((one for one in found if one.verdict == Verdict.BETTER), None)
        if best is None:
            raise ConfigError("--output: nothing was confirmed better than no dropout; use no dropout")
        write_whole(options.output, _schedule(client, best))
        print(f"{_line(best)}\n{options.output}")
        return 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        allowed = f"a file that can be written ({error.strerror})"
        print(f"--output: given {options.output}; allowed: {allowed}", file=sys.stderr)
        return 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.best", description="Lists the schedules that searches have confirmed, the best first."
    )
    parser.add_argument("--experiment", metavar="NAME", help="of MLflow; default: all")
    parser.add_argument("--model", metavar="MODEL", help="as the space names it; default: all")
    parser.add_argument("--uri", help=f"of MLflow; default: MLFLOW_TRACKING_URI, or {_DEFAULT_URI}")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the best schedule, a space with fixed values"
    )
    return parser.parse_args(arguments)


def _confirmed(client: Any, experiment: str | None) -> list[Confirmed]:
    experiments = {e.experiment_id: e.name for e in _pages(client.search_experiments, max_results=_PAGE)}
    if experiment is not None:
        chosen = [number for number, name in experiments.items() if name == experiment]
        if not chosen:
            raise _unknown("--experiment", experiment, sorted(experiments.values()))
        experiments = {number: experiments[number] for number in chosen}
    runs = (
        _pages(client.search_runs, list(experiments), "tags.kind = 'search'", max_results=_PAGE) if experiments else []
    )
    found = [one for run in runs for one in _of_run(run, experiments[run.info.experiment_id])]
    rank = [Verdict.BETTER, Verdict.NO_DIFFERENCE, Verdict.WORSE]
    return sorted(found, key=lambda one: (rank.index(Verdict(one.verdict)), one.difference))


def _of_run(run: Any, experiment: str) -> list[Confirmed]:
    tags, metrics, found = run.data.tags, run.data.metrics, []
    point = "final" if run.data.params.get("objective") == "final" else "best"
    for model in tags.get("models", "").split(" "):
        short = slug(model)
        if (verdict := tags.get(f"{short}.verdict")) is None:
            continue
        difference = (metrics[f"{short}.test.{point}.difference.{name}"] for name in ("mean", "low", "high"))
        arm = tags[f"{short}.chosen_arm"]
        found.append(Confirmed(run.info.run_name, experiment, run.info.run_id, model, arm, verdict, *difference))
    return found


def _of_model(found: list[Confirmed], model: str | None) -> list[Confirmed]:
    if not found:
        raise ConfigError("MLflow has no search whose winners were confirmed; see `confirmation` in the space")
    chosen = [one for one in found if model in (None, one.model)]
    if not chosen:
        raise _unknown("--model", str(model), sorted({one.model for one in found}))
    return chosen


def _unknown(option: str, given: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.4) or known[:3]
    return ConfigError(
        f"{option}: given {one_line(given)}; allowed: {', '.join(near)}{', …' if len(near) < len(known) else ''}"
    )


def _pages(search: Any, *arguments: Any, **options: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = search(*arguments, **options, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _schedule(client: Any, best: Confirmed) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(best.run_id, f"best_schedule.{slug(best.model)}.yaml", folder)
        return Path(path).read_text(encoding="utf-8")


def _line(one: Confirmed) -> str:
    interval = f"{one.difference:+.4f} nats ({one.low:+.4f} to {one.high:+.4f})"
    return f"{one.model}  {one.verdict}  {one.arm}  {interval}  search {one.search}, {one.experiment}, run {one.run_id}"


if __name__ == "__main__":
    sys.exit(main())
