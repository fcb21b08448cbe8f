"""The schedules that searches have confirmed, from any MLflow server; and one of them as a file to fine-tune with.

    python -m search.best                                                     all
    python -m search.best --experiment entrodrop-math --model builtin/nano
    python -m search.best --model builtin/nano --output schedule.yaml         writes the best one

The best one is the one that was confirmed better by the most. It takes MLFLOW_TRACKING_URI, or --uri.

Exit codes: 0 found, 2 something in the arguments is wrong, or MLflow does not answer, 130 interrupted.
"""

import argparse
import difflib
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.environment import SQLITE, tracking_uri
from search.space import EXACT
from search.studies.verdict import Verdict
from search.tracking.mlflow_runs import new_client
from trainables.config.command_line import exit_code, invocation
from trainables.config.model_names import slug
from trainables.errors import ConfigError, mask_secrets, one_line
from trainables.storage.files import write_atomic

_PAGE = 500
_VERDICT = ".verdict"


@dataclass(frozen=True)
class Confirmed:
    """What a search says of a model.

    Attributes:
        difference: to no dropout, with its interval (low, high): in high-entropy test loss, in nats, or with `answers`
            in the share of right answers.
    """

    search: str
    experiment: str
    run_id: str
    model: str
    arm: str
    verdict: Verdict
    difference: float
    low: float
    high: float
    answers: bool


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _find(options))


def _find(options: argparse.Namespace) -> int:
    store = _Store(tracking_uri(options.uri, writes=False))
    confirmed = _of_model(_find_confirmed(store, options.experiment), options.model)
    if options.output is None:
        for one in confirmed:
            print(_line(one))
        return 0
    best = next((one for one in confirmed if one.verdict == Verdict.BETTER), None)
    if best is None:
        raise ConfigError("--output: nothing was confirmed better than no dropout; use no dropout")
    text = store.text(best.run_id, f"best_schedule.{slug(best.model)}.yaml")
    try:
        write_atomic(options.output, text)
    except OSError as error:
        reason = f"{options.output} cannot be written ({error.strerror})"
        raise ConfigError(f"--output: {reason}; name another file") from None
    print(f"{_line(best)}\n{options.output}")
    return 0


class _Store:
    """MLflow; every request that it does not answer is a ConfigError."""

    def __init__(self, uri: str) -> None:
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
            raise ConfigError(f"--uri: {uri} does not exist; name the file that MLflow records in")
        self._uri = uri
        self._client = self._request(new_client, uri)

    def experiments(self) -> dict[str, str]:
        """Names by id."""
        return {e.experiment_id: e.name for e in self._pages(self._client.search_experiments)}

    def searches(self, experiments: Iterable[str]) -> list[Any]:
        """The runs of searches, not of their trials."""
        return self._pages(self._client.search_runs, list(experiments), "tags.kind = 'search'")

    def text(self, run_id: str, name: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = self._request(self._client.download_artifacts, run_id, name, folder)
            return Path(path).read_text(encoding="utf-8")

    def _pages(self, search: Callable[..., Any], *arguments: Any) -> list[Any]:
        entries: list[Any] = []
        token = None
        while True:
            page = self._request(search, *arguments, max_results=_PAGE, page_token=token)
            entries += page
            if not (token := page.token):
                return entries

    def _request(self, request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return request(*arguments, **options)
        # What a store or a server raises depends on which it is.
        except Exception as error:
            given = mask_secrets(self._uri)
            reason = one_line(mask_secrets(str(error)).partition("\n")[0])
            raise ConfigError(
                f"--uri: {given} does not answer ({reason}); start MLflow there, or name another"
            ) from None


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.best"),
        description="Lists the schedules that searches have confirmed, the best first.",
    )
    parser.add_argument("--experiment", metavar="NAME", help="of MLflow; default: all")
    parser.add_argument("--model", metavar="MODEL", help="as the space names it; default: all")
    parser.add_argument("--uri", help="of MLflow; default: MLFLOW_TRACKING_URI, or mlflow.db in this folder")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the best one, a space with fixed values")
    return parser.parse_args(arguments)


def _find_confirmed(store: _Store, experiment: str | None) -> list[Confirmed]:
    experiments = store.experiments()
    if experiment is not None:
        chosen = [number for number, name in experiments.items() if name == experiment]
        if not chosen:
            raise _refuse_unknown("--experiment", experiment, sorted(experiments.values()))
        experiments = {number: experiments[number] for number in chosen}
    runs = store.searches(experiments) if experiments else []
    confirmed = [one for run in runs for one in _of_run(run, experiments[run.info.experiment_id])]
    rank = [Verdict.BETTER, Verdict.COSTLY, Verdict.UNSTABLE, Verdict.EQUAL, Verdict.UNDECIDED, Verdict.WORSE]
    return sorted(confirmed, key=lambda one: (rank.index(one.verdict), one.difference * (-1 if one.answers else 1)))


def _of_run(run: Any, experiment: str) -> list[Confirmed]:
    tags, metrics, found = run.data.tags, run.data.metrics, []
    objective = run.data.params.get("objective")
    point = "final" if objective in ("final", EXACT) else "best"
    for short in [tag.removesuffix(_VERDICT) for tag in tags if tag.endswith(_VERDICT)]:
        try:
            model, arm, verdict = (tags[f"{short}.{name}"] for name in ("model", "chosen_arm", "verdict"))
            mean, low, high = (metrics[f"{short}.test.{point}.difference.{name}"] for name in ("mean", "low", "high"))
            run_of = run.info.run_name, experiment, run.info.run_id
            confirmed = Confirmed(*run_of, model, arm, Verdict(verdict), mean, low, high, objective == EXACT)
        except (KeyError, ValueError):
            # MLflow has not taken all of it yet, or another program's tag ends like ours.
            continue
        found.append(confirmed)
    return found


def _of_model(found: list[Confirmed], model: str | None) -> list[Confirmed]:
    if not found:
        raise ConfigError("MLflow has no search whose winners were confirmed; see `confirmation` in the space")
    chosen = [one for one in found if model in (None, one.model)]
    if not chosen:
        raise _refuse_unknown("--model", str(model), sorted({one.model for one in found}))
    return chosen


def _refuse_unknown(option: str, given: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.4) or known[:3]
    more = ", …" if len(near) < len(known) else ""
    return ConfigError(f"{option}: given {one_line(given)}; allowed: {', '.join(near)}{more}")


def _line(one: Confirmed) -> str:
    unit = " in right answers" if one.answers else " nats"
    interval = f"{one.difference:+.4f}{unit} ({one.low:+.4f} to {one.high:+.4f})"
    origin = f"search {one.search}, {one.experiment}, run {one.run_id}"
    return f"{one.model}  {one.verdict.words}  {one.arm}  {interval}  {origin}"


if __name__ == "__main__":
    sys.exit(main())
