"""Searches whose driver is killed at random moments, and that are resumed: nothing lost, nothing done twice.

    python -m tests.faults.driver_kills [--searches 20] [--seed 0] [--json FILE] [--quick]

A small search runs to its end; then others with the same space, each killed with SIGKILL at a random moment of the time
that the first one took (the first of them three times in a row), and resumed until it ends. One that ended before its
moment came is thrown away, and another one begins. 20 take half an hour to an hour on two cores.

Keys: kills, thrown_away, lost (trials that had ended before a kill and were not so after it), repeated (trials that
reported an evaluation twice, or began again after their end), duplicate_metrics (in MLflow: a metric with two values at
one step of a run), missing_metrics (evaluations of the study that MLflow lacks), same_table (share of the searches that
gave the same trials, states, parameters and losses as the one without a kill).
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.scripts import parse, parser_of, write_results
from tests.searches import SPACE, Searches
from trainables.storage.cache import default_root

STUDIES = ("builtin/nano", "builtin/nano/confirmation")
ENDED = ("COMPLETE", "PRUNED", "FAIL")
_SMALLEST = SPACE | {"budget": {"trials": 2, "epochs": 4}, "early_stopping": {"pruner": "none", "patience": 4}}


def searches_in(folder: Path, options: argparse.Namespace) -> Searches:
    """Searches whose base model is the one in the cache of this machine; with --quick as small as can be."""
    return Searches(folder, _SMALLEST if options.quick else SPACE, default_root())


def tables(searches: Searches, output: str) -> list[list[Any]]:
    return [searches.table(output, study) for study in STUDIES]


def ended(searches: Searches, output: str) -> dict[tuple[str, int], Any]:
    """The trials that have ended, as far as the journal knows them."""
    found = {}
    for study in STUDIES:
        try:
            rows = searches.table(output, study)
        # Killed before the study was made, or within a line of the journal.
        except (FileNotFoundError, KeyError, ValueError):
            continue
        found |= {(study, row[0]): row for row in rows if row[1] in ENDED}
    return found


def killed(searches: Searches, output: str, moment: float) -> bool:
    """Runs or resumes a search, and kills it `moment` seconds later. Returns whether it was still running."""
    begun = (searches.folder / output / "resolved.yaml").exists()
    process = searches.start(output, *(["--resume"] if begun else []))
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    return process.returncode < 0


def repeated(searches: Searches, output: str) -> int:
    """Trials that reported an evaluation twice, or that began again after they had ended."""
    events = searches.events(output)
    evaluations = Counter((e["stage"], e["trial"], e["tokens"]) for e in events if e["event"] == "evaluation")
    again = {key[:2] for key, count in evaluations.items() if count > 1}
    over: set[tuple[str, int]] = set()
    for event in events:
        if event["event"] == "trial_ended":
            over.add((event["stage"], event["trial"]))
        elif event["event"] == "trial_started" and (event["stage"], event["trial"]) in over:
            again.add((event["stage"], event["trial"]))
    return len(again)


def metrics(searches: Searches, outputs: list[str]) -> dict[str, int]:
    """Duplicate and missing metrics of the searches in MLflow."""
    client = MlflowClient(f"sqlite:///{searches.folder}/mlflow.db")
    duplicates = missing = 0
    for output in outputs:
        for study in STUDIES:
            rows = searches.table(output, study)
            for row, run_id in zip(rows, searches.run_ids(output, len(rows), study), strict=True):
                assert run_id is not None
                for name in client.get_run(run_id).data.metrics:
                    steps = [metric.step for metric in client.get_metric_history(run_id, name)]
                    duplicates += len(steps) - len(set(steps))
                told = {m.step: m.value for m in client.get_metric_history(run_id, "high_entropy_loss")}
                missing += sum(told.get(step) != value for step, value in row[4].items())
    return {"duplicate_metrics": duplicates, "missing_metrics": missing}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, searches=1)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        searches = searches_in(Path(folder), options)
        # The first prepares the data, so that what follows takes its usual time.
        for output in ("whole",) if options.quick else ("first", "whole"):
            began = time.monotonic()
            searches.run(output)
            took = time.monotonic() - began
        whole = tables(searches, "whole")
        assert options.quick or tables(searches, "first") == whole
        kills = thrown_away = lost = again = same = 0
        outputs: list[str] = []
        while len(outputs) < options.searches:
            output = f"killed-{len(outputs)}-{thrown_away}"
            for _ in range(in_a_row := 1 if outputs or options.quick else 3):
                before = ended(searches, output)
                if not (was_killed := killed(searches, output, draw.uniform(0, took))):
                    break
                after = ended(searches, output)
                lost += sum(after.get(key) != row for key, row in before.items())
            if not was_killed:
                thrown_away += 1
                continue
            outputs.append(output)
            kills += in_a_row
            searches.run(output, *(["--resume"] if (searches.folder / output / "resolved.yaml").exists() else []))
            final = ended(searches, output)
            lost += sum(final.get(key) != row for key, row in after.items())
            again += repeated(searches, output)
            same += tables(searches, output) == whole
            print(f"{output}: {len(after)} trials had ended; {kills} kills, {lost} lost, {same} same", flush=True)
        result = {"kills": kills, "thrown_away": thrown_away, "lost": lost, "repeated": again}
        result |= {"same_table": same / len(outputs)}
        result |= metrics(searches, outputs)
    print(json.dumps(result, indent=2))
    write_results(options, result)
    wrong = lost or again or result["duplicate_metrics"] or result["missing_metrics"] or same < len(outputs)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
