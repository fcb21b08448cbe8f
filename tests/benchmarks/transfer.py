"""What the best settings of a smaller model buy in the search of a larger one, replayed on measured learning curves.

    python -m tests.benchmarks.transfer [--seeds 0 50] [--trials 16] [--json FILE] [--quick]

For each seed from the first to the one before the last: this project's search of builtin/nano, then that of
builtin/micro, with the first one's best settings as its first trials and without (cold); each spends the tokens of 16
full trials. See tests.benchmarks.replay.

Keys, for the objective best, and under "all" for each objective: tokens_with, tokens_cold (medians of the tokens until
the regret that the cold search ends with), ratio (of these), reached (share of the searches with transfer that get
there), regret_with, regret_cold (medians at the end, in nats).
"""

import json
import math
import statistics
import sys
from functools import partial
from multiprocessing import get_context
from typing import Any

from rich.progress import track

from tests.benchmarks.curves.make import space
from tests.benchmarks.curves.table import table_of
from tests.benchmarks.replay import OBJECTIVES, Replay, Trace, settings
from tests.benchmarks.searchers import ours
from tests.scripts import parse, parser_of, write_results


def searches(objective: str, trials: int, seed: int) -> tuple[Trace, Trace]:
    """The larger model's search with transfer, and without."""
    small, large = space().models
    own = settings(objective, seed)
    first, second = table_of(small), table_of(large)
    budget = trials * second.full_tokens
    searcher, studied = ours(first, small, own)
    Replay(searcher, first, objective).traces([trials * first.full_tokens])
    (warm, _), (cold, _) = ours(second, large, own, studied), ours(second, large, own)
    return Replay(warm, second, objective).traces([budget])[0], Replay(cold, second, objective).traces([budget])[0]


def compared(found: list[tuple[Trace, Trace]]) -> dict[str, Any]:
    goals = [cold.regret[-1] for _, cold in found]
    tokens_with = [warm.tokens_to(goal) for (warm, _), goal in zip(found, goals, strict=True)]
    tokens_cold = [cold.tokens_to(goal) for (_, cold), goal in zip(found, goals, strict=True)]
    warm, cold = statistics.median(tokens_with), statistics.median(tokens_cold)
    differences = [warm.regret[-1] - cold.regret[-1] for warm, cold in found]
    return {
        # Infinite if most searches do not get there.
        "tokens_with": warm if math.isfinite(warm) else None,
        "tokens_cold": cold,
        "ratio": warm / cold if math.isfinite(warm) else None,
        "reached": statistics.fmean(map(math.isfinite, tokens_with)),
        "regret_with": statistics.median(trace.regret[-1] for trace, _ in found),
        "regret_cold": statistics.median(goals),
        "difference": statistics.fmean(differences),
        "difference_se": statistics.stdev(differences) / math.sqrt(len(differences)),
    }


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=16, help="full ones, whose tokens a search spends")
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 50], metavar=("FIRST", "LAST"))
    parser.add_argument("--processes", type=int, default=2)
    options = parse(parser, seeds=[0, 2], processes=1, trials=4)
    results, seeds = {}, range(*options.seeds)
    with get_context("spawn").Pool(options.processes) as pool:
        for objective in OBJECTIVES:
            found = pool.imap(partial(searches, objective, options.trials), seeds)
            results[objective] = compared(list(track(found, objective, len(seeds))))
            print(objective, json.dumps(results[objective], indent=2))
    write_results(options, results["best"] | {"all": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
