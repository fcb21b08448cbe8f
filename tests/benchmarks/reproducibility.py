"""Whether a search gives the same numbers again, and with two workers instead of one.

    python -m tests.benchmarks.reproducibility [--json FILE] [--quick]

Runs one small search twice with two slots, then with one slot of two workers that share each global batch.

Keys: equal_runs (the two searches have the same trials, states, settings and losses to the last digit),
workers_difference (largest difference of a validation loss between one worker and two, nats; the goal is below 1e-4).
"""

import tempfile
from pathlib import Path

from tests.faults.driver_kills import searches_in
from tests.scripts import parse, parser_of, write_results


def main() -> None:
    options = parse(parser_of(__doc__))
    with tempfile.TemporaryDirectory() as scratch:
        searches = searches_in(Path(scratch), options)
        searches.run("one")
        searches.run("two")
        # The baseline and trial 1 do not depend on what the study has seen.
        searches.run("workers", "--set=resources.slots=1", "--set=resources.workers=2", "--set=budget.trials=2")
        equal = searches.table("one") == searches.table("two")
        alone, shared = (searches.study(output).trials for output in ("one", "workers"))
        difference = max(
            abs(loss - shared[number].intermediate_values[tokens])
            for number in (0, 1)
            for tokens, loss in alone[number].intermediate_values.items()
            if tokens in shared[number].intermediate_values
        )
    print(f"two runs with one seed: {'equal to the last digit' if equal else 'DIFFERENT'}")
    print(f"two workers against one: validation losses differ by at most {difference:.1e}")
    write_results(options, {"equal_runs": equal, "workers_difference": difference})


if __name__ == "__main__":
    main()
