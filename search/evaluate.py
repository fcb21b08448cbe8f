"""Tasks of lm-evaluation-harness, on the models that a confirmation has trained: each arm against no dropout.

    python -m search.evaluate runs/math --tasks gsm8k,hellaswag
    python -m search.evaluate runs/math --tasks ./my_task.yaml --json tasks.json

It needs the extra harness, and a search with `confirmation.keep_models: true`. A task is one of the harness's own,
which it downloads from the hub, or a YAML file in its form; either may run Python code that comes with it. Each arm is
the mean over its seeds; its difference has the interval of the search's own verdict, for one task and metric at a time.

Exit codes: 0 told, 1 the JSON could not be written, 2 something in the arguments is wrong, 130 interrupted.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from search.arms import BASELINE
from search.output.folder import MODELS, RESOLVED, check_search_folder
from search.output.object_store import open_for_reading
from search.results.archive import LoadedSearch, load_search
from search.results.model_result import ModelResult
from search.studies.comparison import FEWEST
from search.studies.verdict import Difference, differences
from trainables.config.command_line import exit_code, invocation
from trainables.errors import ConfigError, nearest_word, one_line
from trainables.storage.files import fetch_folder, is_url, place, write_atomic

# A task, one of its metrics, and the filter of the answers that it is of.
Metric = tuple[str, str, str]


@dataclass(frozen=True)
class Score:
    """What an arm's models reach in a metric of a task.

    Attributes:
        values: of each seed's model, the mean over the documents.
        higher: whether more is better; None if the task does not say.
        difference: to no dropout; None for no dropout itself, and with less than two seeds or documents.
    """

    model: str
    arm: str
    task: str
    metric: str
    values: list[float]
    higher: bool | None
    difference: Difference | None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    return exit_code(lambda: _evaluate(options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=invocation("search.evaluate"),
        description="Runs tasks of lm-evaluation-harness on the models that a confirmation has trained.",
    )
    parser.add_argument("folder", metavar="DIR", help="the output folder of the search, or its URL")
    parser.add_argument(
        "--tasks", metavar="TASK,TASK", required=True, type=_split_names, help="names, or YAML files with one"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N documents of each task")
    parser.add_argument("--batch", metavar="N", type=int, default=8, help="documents at a time (default: 8)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to a file as well")
    return parser.parse_args(arguments)


def _split_names(text: str) -> list[str]:
    names = [name for name in map(str.strip, text.split(",")) if name]
    if not names:
        raise argparse.ArgumentTypeError("none is named; allowed: names of the harness, or YAML files")
    return names


def _evaluate(options: argparse.Namespace) -> int:
    with open_for_reading(options.folder) as folder:
        check_search_folder(folder, RESOLVED)
        with load_search(folder, options.folder) as search:
            kept = _find_models(search)
            tasks = _Tasks(options.tasks, options.limit, options.batch)
            scores = []
            for result, models in kept:
                read = {arm: list(_read(tasks, search, options.folder, names)) for arm, names in models.items()}
                scores += compare(result.model, read, tasks.higher, 1 - _confidence(search))
    console = Console(markup=False, highlight=False)
    for _, arms in groupby(scores, key=lambda score: (score.model, score.task, score.metric)):
        console.print(_as_table(list(arms)))
    if options.json is not None:
        write_atomic(options.json, json.dumps([asdict(score) for score in scores], indent=2) + "\n")
    return 0


def _confidence(search: LoadedSearch) -> float:
    assert search.space.confirmation is not None
    return search.space.confirmation.confidence


def _find_models(search: LoadedSearch) -> list[tuple[ModelResult, dict[str, list[str]]]]:
    """The folders of the models that were kept, within the output's, by arm; the arms that were compared.

    Raises:
        ConfigError: there are none.
    """
    found = []
    if search.space.confirmation is not None and search.space.confirmation.keep_models:
        for result in search.results:
            if (confirmed := result.confirmed) is not None and BASELINE in result.comparisons:
                arms = {
                    arm: [f"{MODELS}/{confirmed.slug}/{run.number}" for run in confirmed.runs_of(arm)]
                    for arm in result.comparisons
                }
                found.append((result, arms))
    if not found:
        raise ConfigError(
            f"DIR: {search.named} keeps no models of a confirmation; search with confirmation.keep_models: true"
        )
    return found


def _read(
    tasks: "_Tasks", search: LoadedSearch, named: str, names: Sequence[str]
) -> Iterator[dict[Metric, dict[int, float]]]:
    """What each model scores; those of a URL are fetched one after the other."""
    for name in names:
        with ExitStack() as stack:
            folder = search.folder / name
            if is_url(named):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = place(named) / name
                assert not isinstance(url, Path)
                fetch_folder(url, folder)
            if not (folder / "config.json").is_file():
                raise ConfigError(f"DIR: {search.named}/{name} is gone; put the models back, or search again")
            print(f"{name}: {', '.join(tasks.names)}", file=sys.stderr)
            yield tasks.read(folder)


class _Tasks:
    """Tasks of the harness.

    Raises:
        ConfigError: the harness is not installed, or a task cannot be loaded.
    """

    def __init__(self, names: Sequence[str], limit: int | None, batch: int) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise ConfigError('--tasks: this needs lm-evaluation-harness; pip install ".[harness]"') from None
        # Its warnings on defaults are for whoever writes tasks.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.names, self._limit, self._batch = names, limit, batch
        self.higher: dict[Metric, bool | None] = {}
        # Looking through the thousands of the harness's own takes seconds.
        self._manager = TaskManager(include_defaults=not all(map(_is_file, names)))
        for name in names:
            try:
                self._manager.load([name])
            # A task may be a folder of Python code, and its data anywhere.
            except Exception as error:
                known = [] if isinstance(error, OSError) else self._manager.all_tasks
                nearest = None if _is_file(name) or name in known else nearest_word(name, known)
                hint = f"; did you mean '{nearest}'?" if nearest else ""
                reason = one_line(str(error) or type(error).__name__)
                raise ConfigError(f"--tasks: {one_line(name)} cannot be loaded ({reason}){hint}") from None

    def read(self, folder: Path) -> dict[Metric, dict[int, float]]:
        """What the model in `folder` scores in each document, by the document's number: numbers only.

        Raises:
            ConfigError: a task fails.
        """
        import torch
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = HFLM(pretrained=str(folder), device=device, batch_size=self._batch, dtype="auto")
            found = simple_evaluate(
                model, tasks=list(self.names), task_manager=self._manager, limit=self._limit, bootstrap_iters=0
            )
        except Exception as error:
            reason = one_line(str(error) or type(error).__name__)
            raise ConfigError(f"--tasks: {', '.join(self.names)} cannot be run ({reason})") from None
        read: dict[Metric, dict[int, float]] = {}
        for task, samples in found["samples"].items():
            for sample in samples:
                for metric in sample["metrics"]:
                    key = task, metric, sample["filter"]
                    self.higher[key] = found["higher_is_better"][task].get(metric)
                    if isinstance(sample[metric], int | float):
                        read.setdefault(key, {})[sample["doc_id"]] = float(sample[metric])
        return read


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()


def compare(
    model: str,
    read: Mapping[str, Sequence[Mapping[Metric, Mapping[int, float]]]],
    higher: Mapping[Metric, bool | None],
    level: float,
) -> list[Score]:
    """The scores of all arms, no dropout first.

    Args:
        read: of each arm's models, by metric and document.
        level: the chance that one of a metric's intervals misses.
    """
    scores = []
    arms = [BASELINE, *(arm for arm in read if arm != BASELINE)]
    for key in read[BASELINE][0]:
        # Those that all models have a number of.
        documents = sorted(set.intersection(*(set(of.get(key, ())) for arm in arms for of in read[arm])))
        if not documents:
            continue
        values = [np.array([[of[key][d] for d in documents] for of in read[arm]]) for arm in arms]
        found: list[Difference | None] = [None] * len(arms)
        if len(documents) >= FEWEST and all(len(value_SK) >= FEWEST for value_SK in values):
            answers = all(bool(np.isin(value_SK, (0, 1)).all()) for value_SK in values)
            found = [None, *differences(values, np.ones(len(documents)), level=level, answers=answers)]
        task, metric, answer_filter = key
        name = metric if answer_filter == "none" else f"{metric} ({answer_filter})"
        scores += [
            Score(model, arm, task, name, value_SK.mean(axis=1).tolist(), higher.get(key), difference)
            for arm, value_SK, difference in zip(arms, values, found, strict=True)
        ]
    return scores


def _as_table(scores: Sequence[Score]) -> Table:
    """The arms in one metric of a task."""
    first = scores[0]
    better = {True: ", more is better", False: ", less is better", None: ""}[first.higher]
    title = f"{first.model}: {first.task}, {first.metric}{better}"
    table = Table("arm", "seeds", title=title, box=box.SIMPLE, title_justify="left")
    for name in ("mean", "against no dropout", "interval"):
        table.add_column(name, justify="right")
    for score in scores:
        found = score.difference
        cells = (f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}") if found is not None else ("", "")
        table.add_row(score.arm, str(len(score.values)), f"{np.mean(score.values):.4f}", *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
