"""All figures, one JSON document: what ``make bench`` prints (``ARGS=--quick``: small sizes). Each also runs alone."""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.facts import ROOT

FULL: dict[str, list[str]] = {
    "planning_rate": [],
    "planning_memory": ["--objects", "10000", "1000000"],
    "demo_efficiency": [],
}
QUICK: dict[str, list[str]] = {
    "planning_rate": ["--objects", "5000", "--rounds", "2"],
    "planning_memory": ["--objects", "10000", "100000"],
    "demo_efficiency": ["--days", "20"],
}


def main() -> None:
    """Run them one after the other; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute or two in all")
    chosen = QUICK if parser.parse_args().quick else FULL
    print(json.dumps([_run(name, options) for name, options in chosen.items()], indent=2))


def _run(name: str, options: list[str]) -> Any:
    print(f"=== {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main()
