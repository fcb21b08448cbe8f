"""The options that the scripts of tests/benchmarks and tests/faults share: --json and --quick."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """A parser with both options, whose help is the script's docstring."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the results there")
    parser.add_argument("--quick", action="store_true", help="all of it as small as can be: shows that it runs")
    return parser


def parse(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Args: quick: defaults of the options with --quick."""
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def write_results(options: argparse.Namespace, results: Mapping[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
